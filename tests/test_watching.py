"""A network that is watched trains as one that is not, to the bit."""

import copy
import random
from collections import Counter, deque

import numpy as np
import processes
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dai_plugin import (
    Attacks,
    DataAugmentationInvariance,
    Strength,
    Watch,
    attach,
    attached,
    measure,
)

IMAGES = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(6) % 5
OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


class Remembering(nn.Module):
    """Keeps all that a forward may leave behind, and trains on some of it."""

    def __init__(self, rng):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, momentum=rng.choice([None, 0.1]))
        self.drop = nn.Dropout(rng.choice([0.0, 0.3]))
        self.calls, self.seen, self.kinds = 0, None, Counter()
        self.sizes, self.last = deque(maxlen=3), {"means": [], "again": None}
        self.last["again"] = self.last  # which holds itself
        self.average = torch.zeros(4)
        self.register_buffer("ever", torch.zeros(()), persistent=rng.random() < 0.5)

    def forward(self, x):
        x = self.drop(self.norm(x)).relu()
        self.calls += 1
        self.kinds[x.dtype] += 1
        self.sizes.append(len(x))
        self.last["means"].append(float(x.detach().float().mean()))
        self.average.mul_(0.5).add_(x.detach().float().mean((0, 2, 3)))
        self.ever.add_(1)
        self.seen = x
        return x + 0.01 * self.calls + self.average[:, None, None]


class Drawn(nn.Module):
    """A network whose forward draws numbers, too, in training and evaluation."""

    def __init__(self, rng):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 4, 3), Remembering(rng)
        self.second, self.head = nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
        self.noisy, self.saves = rng.random() < 0.5, rng.random() < 0.5

    def forward(self, x):
        x = self.middle(self.first(x))
        block = self.second
        x = checkpoint(block, x, use_reentrant=False) if self.saves else block(x)
        x = F.relu(x).mean((2, 3))
        if self.noisy:
            noise = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
            x = x + 0.01 * noise
        return self.head(x)


def state_of(net):
    """All that the network holds, in an order."""
    middle = net.middle
    tensors = [*net.parameters(), *net.buffers(), middle.average, middle.seen]
    gradients = [p.grad for p in net.parameters()]
    plain = middle.calls, middle.kinds, middle.sizes, middle.last["means"]
    return [t.detach().clone() for t in tensors], gradients, copy.deepcopy(plain)


def trained(seed, watch):
    """A drawn network in a drawn loop: what it ends with, and what the loop saw."""
    rng = random.Random(seed)
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)  # noqa: NPY002
    net = Drawn(rng)
    seen = []
    net.first.register_forward_hook(lambda *_: seen.append("fired"))
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(type(module).__name__)
    )
    options = {"every": rng.choice([1, 1, 3]), "share": rng.choice([1.0, 0.5])}
    options |= {**OPTIONS, "watch": watch}
    explicit, bf16 = rng.random() < 0.3, rng.random() < 0.5
    accumulate, criterion = rng.choice([1, 2]), nn.CrossEntropyLoss()
    dai = None
    if explicit:
        dai = DataAugmentationInvariance(net, first_view="clean", **options)
    else:
        attach(net, criterion, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    try:
        for step in range(8):
            images, targets = torch.rand(4, 3, 12, 12), torch.randint(5, (4,))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                if dai:
                    rows, targets = dai.views(images, targets)
                    loss = dai.loss(criterion(net(rows), targets))
                else:
                    loss = criterion(net(images), targets)
            loss.backward()
            seen.append((loss.item(), random.random(), np.random.rand()))  # noqa: NPY002
            if step % accumulate == accumulate - 1:
                optimizer.step(), optimizer.zero_grad()
    finally:
        everywhere.remove()
    stats = (dai or attached(net)).stats()
    return state_of(net), seen, torch.rand(3), stats


@pytest.mark.parametrize("seed", range(24))
def test_training_is_the_same_to_the_bit(seed):
    """Weights, buffers, attributes, gradients, random streams, hooks, counters."""
    plain, theirs, drawn, stats = trained(seed, None)
    watch = Watch(IMAGES, every=1 + seed % 3, labels=LABELS, num_transforms=2)
    ours, seen, after, watched = trained(seed, watch)
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    assert seen == theirs
    assert torch.equal(after, drawn)
    assert watched.pop("watch")["step"] == 7 - 7 % watch.every
    assert watched == stats


def test_attacks_and_strengths_leave_the_gradients_alone():
    """Looks that take gradients of their own, between those that accumulate."""
    plain, theirs, drawn, stats = trained(3, None)
    along = Strength({"rotation": (0.0, 20.0)}), Attacks(("fgsm",), eps=(0.1,))
    watch = Watch(IMAGES, every=3, labels=LABELS, measures=("output", *along))
    ours, seen, after, watched = trained(3, watch)
    torch.testing.assert_close(ours, plain, rtol=0, atol=0)
    assert seen == theirs
    assert torch.equal(after, drawn)
    found = watched.pop("watch")
    assert watched == stats
    assert found["strength:rotation:consistency@0"] == {"output": 1.0}
    assert found["attacks:fgsm:accuracy_transformed@25.5"]["output"] <= 1


def step_of(net, criterion, images=4):
    loss = criterion(net(torch.rand(images, 3, 12, 12)), torch.arange(images))
    loss.backward()
    return loss


def test_a_look_finds_what_measure_finds(net):
    """Of the weights before the step, whatever mode and precision the loop is in."""
    criterion, watch = nn.CrossEntropyLoss(), Watch(IMAGES, every=2, labels=LABELS)
    attachment = attach(net, criterion, watch=watch, **OPTIONS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    assert attachment.stats()["watch"] is attachment.watched is None
    for step in range(4):
        before = copy.deepcopy(net)
        with torch.autocast("cpu", torch.bfloat16):
            step_of(net, criterion)
        optimizer.step()
        if step % 2 == 0:
            data = [(IMAGES, LABELS)]
            expected = measure(before, data, mean=0.0, std=1.0)
        found = attachment.stats()["watch"]
        assert found.pop("step") == step - step % 2
        for row in expected.rows():
            assert found[row["measure"]][row["place"]] == pytest.approx(
                row["mean"], nan_ok=True, abs=1e-6
            )
        theirs = attachment.watched.about["weights"]
        assert theirs == expected.about["weights"]


class Counting:
    """Anything with `every` and `look` may watch."""

    def __init__(self, every, fails=()):
        self.every, self.fails, self.looks = every, fails, 0

    def look(self, model, known):
        self.looks += 1
        if self.looks in self.fails:
            raise ArithmeticError(f"look {self.looks}")
        model(IMAGES)
        return self.looks, {"looks": {"output": float(self.looks)}}


@pytest.mark.parametrize("form", ["attach", "explicit"])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_looks_come_before_the_first_step_and_every_so_many(net, every, form):
    """A repeated step is no new one; evaluation counts none."""
    watch, criterion = Counting(every), nn.CrossEntropyLoss()
    if form == "attach":
        owner = attach(net, criterion, every=2, watch=watch, **OPTIONS)
    else:
        owner = DataAugmentationInvariance(net, watch=watch, **OPTIONS)

    def step():
        images, targets = torch.rand(4, 3, 12, 12), torch.arange(4)
        if form == "attach":
            return criterion(net(images), targets).backward()
        images, targets = owner.views(images, targets)
        owner.loss(criterion(net(images), targets)).backward()

    for number in range(7):
        step()
        with owner.replay():
            step()
        net.eval(), net(IMAGES), net.train()
        last = number - number % every
        assert owner.watched == watch.looks == number // every + 1
        assert owner.stats()["watch"] == {
            "step": last,
            "looks": {"output": float(watch.looks)},
        }


def test_the_first_look_raises_and_a_later_one_warns(net, caplog):
    """A run that cannot be watched ends before its first step; no other does."""
    criterion = nn.CrossEntropyLoss()
    owner = attach(net, criterion, watch=Counting(1, fails=(1, 3)), **OPTIONS)
    with pytest.raises(ArithmeticError, match="look 1") as caught:
        step_of(net, criterion)
    (note,) = caught.value.__notes__
    assert "first look of watch=" in note
    assert "before training forward 0; change what it measures" in note
    for _ in range(3):  # who goes on all the same, goes on
        step_of(net, criterion)
    assert "before training forward 2 failed (ArithmeticError: look 3)" in caplog.text
    assert owner.stats()["watch"]["step"] == 3


class Vectors(SmallNet):
    def forward(self, x):
        return self.features(x).flatten(1).sum(1, keepdim=True)


def test_a_network_that_cannot_be_measured_is_told_so_at_once():
    """No logits: before the first step, with advice; hooks and modes as before."""
    net, criterion = Vectors(), nn.MSELoss()
    attach(net, criterion, watch=Watch(IMAGES), **OPTIONS)
    for _ in range(2):
        with pytest.raises(ValueError, match=r'need logits .*ask for "layers"'):
            criterion(net(IMAGES), torch.rand(6, 1))
        assert net.training
    attached(net).remove()
    layers = Watch(IMAGES, measures=("layers",))
    attachment = attach(net, criterion, watch=layers, **OPTIONS)
    criterion(net(IMAGES), torch.rand(6, 1)).backward()
    assert attachment.stats()["watch"]["score"]["features.4"] <= 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_look_leaves_no_trace_either(net, error):
    """Ctrl-C in the middle of a look: the loop gets it, the network is as before."""

    class Interrupted(Counting):
        def look(self, model, known):
            model.eval()
            model.features[0].left = "behind"
            self.looks += 1
            if self.looks > 1 or error is not KeyboardInterrupt:
                raise error
            return None, {}

    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, watch=Interrupted(1), **OPTIONS)
    if error is KeyboardInterrupt:
        step_of(net, criterion)
    with pytest.raises(error):
        step_of(net, criterion)
    assert all(m.training for m in net.modules())
    assert not hasattr(net.features[0], "left")
    assert attachment._steps.hooks.visit is None


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_network_is_compiled_as_often(in_place):
    """Looks run eagerly: no graph more, no recompilation, the same weights."""

    def run(watch):
        torch._dynamo.reset(), counters.clear()
        torch.manual_seed(0)
        net, criterion = SmallNet(), nn.CrossEntropyLoss()
        attach(net, criterion, watch=watch, **OPTIONS)
        if in_place:
            net.compile(backend="aot_eager")
        model = net if in_place else torch.compile(net, backend="aot_eager")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for count in (4, 4, 3, 3, 4):
            optimizer.zero_grad()
            step_of(model, criterion, count)
            optimizer.step()
        graphs = counters["stats"]["unique_graphs"]
        return graphs, [t.detach().clone() for t in net.state_dict().values()]

    graphs, weights = run(None)
    ours, watched = run(Watch(IMAGES, every=1, num_transforms=2))
    torch._dynamo.reset()
    assert ours == graphs > 0
    torch.testing.assert_close(watched, weights, rtol=0, atol=0)


KINDS = ["ddp", "before", "after", "explicit"]


def in_process(rank, kind, watched):
    """Weights and buffers after some steps, and the last look."""
    torch.manual_seed(0)
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    watch = Watch(IMAGES, every=2, labels=LABELS, num_transforms=2) if watched else None
    options = {"watch": watch, **OPTIONS}
    if kind == "before":
        attach(net, criterion, **options)
    if kind == "ddp":
        model = DistributedDataParallel(net)
    else:
        mesh, model = init_device_mesh("cpu", (2,)), net
        fully_shard(net.features, mesh=mesh)
        fully_shard(net, mesh=mesh)
    dai = None
    if kind == "explicit":
        dai = DataAugmentationInvariance(model, **options)
    elif kind != "before":
        attach(model, criterion, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(4):
        optimizer.zero_grad()
        images, targets = torch.rand(4, 3, 12, 12), torch.arange(4)
        if dai:
            rows, targets = dai.views(images, targets)
            dai.loss(criterion(model(rows), targets)).backward()
        else:
            criterion(model(images), targets).backward()
        optimizer.step()
    found = (dai or attached(model)).stats().get("watch")
    whole = [t if kind == "ddp" else t.full_tensor() for t in net.parameters()]
    return [t.detach().clone() for t in (*whole, *net.buffers())], found


@pytest.fixture(scope="module")
def runs():
    """Of each process, by kind, without and with a watch."""
    return [dict(zip(KINDS, each, strict=True)) for each in processes.run(every, 2)]


def every(rank):
    return [[in_process(rank, kind, w) for w in (False, True)] for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_same_and_see_the_same(runs, kind):
    """DistributedDataParallel; FSDP2 before attach, after it, in the explicit form."""
    for run in runs:
        (theirs, nothing), (ours, _) = run[kind]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert nothing is None
    here, there = (run[kind][1][1] for run in runs)
    assert here["step"] == there["step"] == 2
    assert 0 <= here["accuracy"]["output"] <= 1
    # Each process measures its own batch norm's statistics, on the same weights.
    assert here["score"].keys() == there["score"].keys()
    assert here["score"]["input"] == there["score"]["input"]


def test_a_resumed_run_goes_on_watching_where_it_was(net):
    """A look before its first forward, then those of the uninterrupted run."""

    def run(net, attachment, criterion, steps):
        looks = []
        for _ in range(steps):
            step_of(net, criterion)
            looks.append(attachment.stats()["watch"])
        return looks

    criterion, watch = nn.CrossEntropyLoss(), Watch(IMAGES, every=4, num_transforms=2)
    attachment = attach(net, criterion, watch=watch, **OPTIONS)
    whole = run(net, attachment, criterion, 6)
    other = SmallNet()
    resumed = attach(other, criterion, watch=watch, **OPTIONS)
    resumed.load_state_dict({**attachment.state_dict(), "step": 2})
    other.load_state_dict(net.state_dict())
    looks = run(other, resumed, criterion, 4)
    assert [look["step"] for look in looks] == [2, 2, 4, 4]
    assert looks[0].keys() == looks[2].keys() == whole[4].keys()


WRONG = {
    "no tensor": ({"images": [1, 2]}, TypeError, "must be a tensor, got a list"),
    "one image": ({"images": IMAGES[:1]}, ValueError, r"two or more.*\[1, 3, 12, 12\]"),
    "no batch": ({"images": IMAGES[0]}, ValueError, r"got \[3, 12, 12\]"),
    "integers": ({"images": IMAGES.int()}, ValueError, "int32"),
    "labels": ({"labels": [0] * 6}, TypeError, "labels of a Watch must be a tensor"),
    "few labels": ({"labels": LABELS[:4]}, ValueError, r"classes \[6\].*got \[4\]"),
    "soft labels": ({"labels": torch.rand(6)}, ValueError, "of torch.float32"),
    "every": ({"every": 0}, ValueError, "every must be at least 1, got 0"),
    "half": ({"every": 1.5}, TypeError, "every must be an int, got 1.5"),
    "versions": ({"num_transforms": 0}, ValueError, "num_transforms must be at least"),
    "scheme": ({"scheme": "given"}, ValueError, "scores need a scheme"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_watched_is_refused_when_it_is_asked_for(kind):
    """Not in the middle of an epoch."""
    given, error, message = WRONG[kind]
    with pytest.raises(error, match=message):
        Watch(**{"images": IMAGES, **given})


def test_only_what_looks_can_watch(net):
    """A tensor, or True, is no Watch."""
    with pytest.raises(TypeError, match=r"must be a dai_plugin.Watch, got True"):
        attach(net, nn.CrossEntropyLoss(), watch=True)


def test_the_images_stay_what_they_were():
    """A loop that overwrites its batch does not change what is watched."""
    images = IMAGES.clone()
    watch = Watch(images)
    images.zero_()
    assert torch.equal(watch.images, IMAGES)
    assert repr(watch) == "Watch(6 images, every=500, measures=('layers', 'output'))"


def test_integers_are_scaled_and_normalised_as_the_loops_images_are(net):
    """uint8 images and the same images as the loop normalises them: one result."""
    pixels = torch.randint(256, (6, 3, 12, 12), dtype=torch.uint8)
    floats, criterion = (pixels / 255 - 0.4) / 0.2, nn.CrossEntropyLoss()
    found = []
    for images in (pixels, floats):
        twin = copy.deepcopy(net)
        watch = Watch(images)
        attachment = attach(twin, criterion, mean=0.4, std=0.2, watch=watch)
        step_of(twin, criterion)
        found.append(attachment.stats()["watch"]["score"]["features.4"])
        attachment.remove()
    assert found[0] == pytest.approx(found[1], abs=1e-5)
