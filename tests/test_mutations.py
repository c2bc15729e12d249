"""What few other tests state: small claims that a slip of the pen would break."""

import copy
import gc
import random
import sys
import types

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dai_plugin import attach, attached
from dai_plugin.views.expand import expand, mix_seed
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Scheme

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def random_batch(draw, classes=5):
    """Two to six images with their labels."""
    generator = torch.Generator().manual_seed(draw.randrange(2**32))
    size = draw.randint(2, 6)
    images = torch.rand(size, 3, 12, 12, generator=generator)
    return images, torch.randint(classes, (size,), generator=generator)


@pytest.mark.parametrize("seed", range(4))
def test_views_are_those_of_seed_rank_and_step_in_this_order(net, seed):
    """A run can be repeated by another version: the stream is a part of the contract.

    Also from the middle of a stream that was resumed.
    """
    draw = random.Random(seed)
    views, start = draw.randint(2, 4), draw.choice([0, draw.randint(1, 99)])
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, **(OPTIONS | {"num_views": views}))
    state = attachment.state_dict() | {"seed": seed, "step": start}
    attachment.load_state_dict(state)
    rows = []
    net.features[0].register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    for step in range(start, start + 4):
        images, targets = random_batch(draw)
        criterion(net(images), targets).backward()
        expected = expand(
            images, views, Scheme.heavier(), first_view="clean",
            normalization=Normalization(), seed=mix_seed(seed, 0, step),
        )  # fmt: skip
        assert torch.equal(rows.pop(), expected)
        assert not rows


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["module", "function", "object"])
def test_a_criterion_without_gradients_is_the_stock_one(net, batch, kind, context):
    """Logged in the middle of a step, which is trained all the same."""
    images, targets = batch

    class Logged:
        def __call__(self, output, target):
            return F.cross_entropy(output, target)

    stock = {"module": nn.CrossEntropyLoss(), "object": Logged()}.get(kind, logged)
    attachment = attach(net, stock, **OPTIONS)
    for step in range(3):
        output = net(images)
        criterion = logged if kind == "function" else stock
        with context():
            value = criterion(output, targets)
        assert torch.equal(value, F.cross_entropy(output.detach(), targets))
        assert attachment.stats()["criterion_calls"] == step
        criterion(output, targets).backward()
    stats = attachment.stats()
    attachment.remove()
    assert (stats["criterion_calls"], stats["missed"]) == (3, 0)


def logged(output, target):
    return F.cross_entropy(output, target)


class Repeated(nn.Module):
    """Layers that run several times in a forward."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls
        self.layers = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in calls)
        self.stem = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer, times in zip(self.layers, self.calls, strict=True):
            for _ in range(times):
                x = layer(x).tanh()
        return x.mean((2, 3))


@pytest.mark.parametrize("seed", range(4))
def test_a_layers_own_weight_is_shared_by_its_calls(seed):
    """However often it is called: numbers in order, or by name."""
    draw = random.Random(seed)
    calls = [draw.randint(2, 4), *draw.choices([1, 2, 3], k=draw.randint(1, 3))]
    names = [f"layers.{i}" for i in range(len(calls))]
    own = [draw.uniform(0.1, 3) for _ in calls]
    law = own if seed % 2 else dict(zip(names, own, strict=True))
    net, criterion = Repeated(calls), nn.CrossEntropyLoss()
    attach(net, criterion, layers=names, layer_weights=law, **OPTIONS)
    images, targets = random_batch(draw)
    criterion(net(images), targets).backward()
    stats = attached(net).stats()
    terms = 0.0
    for name, number in zip(names, own, strict=True):
        of_calls = [v for k, v in stats["layers"].items() if k.split(":")[0] == name]
        assert len(of_calls) == calls[names.index(name)]
        terms += number / sum(own) * sum(of_calls) / len(of_calls)
    expected = 0.6 * stats["task_loss"] + 0.4 * terms
    assert stats["total_loss"] == pytest.approx(expected, rel=1e-5)


class Heads(nn.Module):
    """As many heads as wanted, all of the same shape."""

    def __init__(self, heads):
        super().__init__()
        self.trunk = SmallNet(8)
        self.heads = nn.ModuleList(nn.Linear(8, 5) for _ in range(heads))

    def forward(self, x):
        pooled = self.trunk(x).relu()
        return [head(pooled) for head in self.heads]


@pytest.mark.parametrize("seed", range(3))
def test_each_output_is_told_from_the_others_behind_a_wrapper(group, seed):
    """DistributedDataParallel passes all outputs through one node: each loss is right.

    That of a head without the terms, and that of the head that carries them.
    """
    draw = random.Random(seed)
    heads = draw.randint(2, 4)
    torch.manual_seed(seed)
    net = Heads(heads)
    twin = copy.deepcopy(net)
    ddp = DistributedDataParallel(net, find_unused_parameters=True)
    images, targets = random_batch(draw)
    seen = []
    for model in (ddp, twin):
        criterion = nn.CrossEntropyLoss()
        attach(model, criterion, **OPTIONS)
        outputs = model(images)
        losses = [criterion(output, targets) for output in outputs]
        sum(losses).backward()
        seen.append([loss.item() for loss in losses])
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)
    assert len({round(loss, 6) for loss in seen[1]}) == heads
    for ours, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_remove_leaves_a_name_that_somebody_else_took(net, batch):
    """A function that was wrapped while it was attached stays wrapped by others."""
    images, targets = batch
    own, other = types.ModuleType("a_loop"), types.ModuleType("another_loop")
    own.loss = other.loss = stock = logged_function()
    sys.modules |= {"a_loop": own, "another_loop": other}
    try:
        attachment = attach(net, stock, **OPTIONS)
        calls, stand_in = [], own.loss
        assert stand_in is other.loss is not stock

        def traced(*args):
            calls.append(1)
            return stand_in(*args)

        own.loss = traced
        own.loss(net(images), targets).backward()
        assert attachment.stats()["criterion_calls"] == 1
        attachment.remove()
        assert own.loss is traced
        assert other.loss is stock
        output = net(images)
        assert torch.equal(own.loss(output, targets), stock(output, targets))
        assert len(calls) == 2
    finally:
        del sys.modules["a_loop"], sys.modules["another_loop"]


def logged_function():
    """A function of its own, held by no module yet."""

    def loss(output, target):
        return F.cross_entropy(output, target)

    return loss


def test_remove_leaves_the_hooks_of_a_second_network(batch):
    """A criterion that is a part of one network, and is used for two."""
    images, targets = batch
    nets = [SmallNet(), SmallNet()]
    criterion = nets[0].loss = nn.CrossEntropyLoss()
    layers = ["features.2", "features.4"]
    first, second = (attach(n, criterion, layers=layers, **OPTIONS) for n in nets)
    for net in nets:
        criterion(net(images), targets).backward()
    first.remove()
    criterion(nets[1](images), targets).backward()
    assert first.stats()["criterion_calls"] == 1
    assert second.stats()["criterion_calls"] == 2
    output = nets[0](images)
    assert torch.equal(criterion(output, targets), F.cross_entropy(output, targets))


class Rebuilt(nn.Module):
    """Returns classes, and pictures if it is to."""

    def __init__(self, pictures):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head, self.picture = nn.Linear(6, 5), nn.Conv2d(6, 3, 1)
        self.pictures = pictures

    def forward(self, x):
        x = self.features(x)
        return self.picture(x) if self.pictures else self.head(x.mean((2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_only_targets_of_pixels_are_refused(seed):
    """Images that a criterion reads beside class outputs are no targets."""
    draw = random.Random(seed)
    images, targets = random_batch(draw)
    net = Rebuilt(pictures=False)
    _, criterion = attach(net, textured, **OPTIONS)
    criterion(net(images), targets, images).backward()
    stats = attached(net).stats()
    assert (stats["criterion_calls"], stats["missed"]) == (1, 0)
    attached(net).remove()
    net = Rebuilt(pictures=True)
    criterion = nn.MSELoss()
    attach(net, criterion, **OPTIONS)
    output = net(images)
    with pytest.raises(ValueError, match='use scheme="photometric"'):
        criterion(output, images)


def textured(output, target, images):
    """Images with much in them count more."""
    losses = F.cross_entropy(output, target, reduction="none")
    return (losses * images.var((1, 2, 3))).mean()


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_loss_that_was_waited_for_and_dropped_is_a_miss(net, batch, kept):
    """Losses kept for a later backward are decided on once they are gone."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, strict=False, **OPTIONS)
    waiting = [criterion(net(images), targets) for _ in range(kept + 1)]
    assert attachment.stats()["missed"] == 0
    waiting.pop().backward()
    del waiting
    gc.collect()
    criterion(net(images), targets).backward()
    stats = attachment.stats()
    assert stats["missed"] == kept
    assert stats["criterion_calls"] == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_a_layer_of_weight_zero_counts_nothing_whatever_it_holds(batch, value, beta):
    """Its loss is no number, that of the step is."""
    images, targets = batch

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.side = SmallNet(), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            self.side(x)
            return self.net(x)

    net, criterion = Beside(), nn.CrossEntropyLoss()
    nn.init.constant_(net.side.weight, value)
    law = {"side": 0.0, "net.features.4": 1.0}
    attach(net, criterion, layers=list(law), layer_weights=law, beta=beta, **OPTIONS)
    loss = criterion(net(images), targets)
    loss.backward()
    stats = attached(net).stats()
    assert not torch.tensor(stats["layers"]["side"]).isfinite()
    assert loss.isfinite()
    if not beta:
        terms = stats["layers"]["net.features.4"]
        expected = 0.6 * stats["task_loss"] + 0.4 * terms
        assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert all(p.grad.isfinite().all() for p in net.net.parameters())


class Described(nn.Module):
    """Takes further tensors of each image by keyword, nested ones, too."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.embedding, self.head = nn.Embedding(4, 6), nn.Linear(6, 5)

    def forward(self, images, kind=None, extra=None):
        pooled = self.features(images).mean((2, 3))
        assert len(kind) == len(extra["weight"]) == len(pooled)
        pooled = pooled + self.embedding(kind) * extra["weight"][:, None]
        return self.head(pooled)


@pytest.mark.parametrize("seed", range(3))
def test_keyword_tensors_follow_their_images(seed):
    """The first view's outputs are the stock ones; the others get the same values."""
    draw = random.Random(seed)
    images, targets = random_batch(draw)
    views, count = draw.randint(2, 4), len(images)
    net, criterion = Described(), nn.CrossEntropyLoss()
    kind, weight = torch.arange(count) % 4, torch.rand(count)
    given = []
    stock = net(images, kind=kind, extra={"weight": weight})
    attach(net, criterion, **(OPTIONS | {"num_views": views}))
    net.embedding.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    output = net(images, kind=kind, extra={"weight": weight})
    torch.testing.assert_close(output, stock)
    assert torch.equal(given[0], kind.repeat(views))
    criterion(output, targets).backward()


@pytest.mark.parametrize("seed", range(3))
def test_remove_leaves_what_others_hooked_meanwhile(net, batch, seed):
    """On the criterion, the network and its layers, whenever that was registered."""
    draw = random.Random(seed)
    images, targets = batch
    criterion, calls = nn.CrossEntropyLoss(), []
    modules = [criterion, net, *net.features]
    kinds = ["register_forward_hook", "register_forward_pre_hook"]
    chosen = [(draw.choice(modules), draw.choice(kinds)) for _ in range(8)]

    def register(module, kind):
        getattr(module, kind)(lambda *_: calls.append(module))

    for each in [(criterion, kinds[0]), *chosen[:4]]:
        register(*each)
    attachment = attach(net, criterion, **OPTIONS)
    for each in [(net, kinds[1]), *chosen[4:]]:
        register(*each)
    attachment.remove()
    criterion(net(images), targets).backward()
    expected = [criterion, net, *(module for module, _ in chosen)]
    assert sorted(map(id, calls)) == sorted(map(id, expected))
    assert attachment.stats()["forwards"] == 0
