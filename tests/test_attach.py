"""The two lines: what changes in training, and that nothing else does."""

import copy
import functools
import gc
import logging
import weakref

import oracle
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import SmallNet
from torch import nn

import dai_plugin
from dai_plugin import Attachment, DataAugmentationInvariance, attach, attached
from dai_plugin.views.expand import expand, mix_seed
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Scheme

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def train(net, criterion, loader, epochs=1):
    """A plain loop; returns its losses."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    net.train()
    for _ in range(epochs):
        for images, targets in loader:
            output = net(images)
            loss = criterion(output, targets)
            assert output.argmax(1).eq(targets).shape == targets.shape
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def rows_of(images, num_views, scheme="heavier", first_view="clean", seed=7, step=0):
    return expand(
        images, num_views, getattr(Scheme, scheme)(), first_view=first_view,
        normalization=Normalization(), seed=mix_seed(seed, 0, step),
    )  # fmt: skip


def by_hand(net, criterion, images, targets, num_views, alpha, layers, beta=0.0):
    """The objective written out with the literal formulas."""
    rows = rows_of(images, num_views)
    kept = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda *args, name=name: kept.update({name: args[2].clone()})
        )
        for name in layers
    ]
    outputs = net(rows).chunk(num_views)
    for handle in handles:
        handle.remove()
    task = sum(criterion(output, targets) for output in outputs) / num_views
    weights = oracle.exponential_weights(len(layers), 1.0, 10.0)
    labels = targets.repeat(num_views)
    loss = (1 - alpha - beta) * task
    for name, weight in zip(layers, weights, strict=True):
        a = kept[name]
        loss = loss + alpha * weight * oracle.invariance_loss(a, num_views)
        if beta:
            loss = loss + beta * weight * oracle.class_invariance_loss(a, labels)
    return loss


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("num_views", [2, 3])
def test_loss_and_gradients_equal_the_formula_written_out(net, batch, num_views, beta):
    """Two lines give the objective of the paper, to the gradient of each parameter."""
    images, targets = batch
    twin = copy.deepcopy(net)
    expected = by_hand(
        twin, F.cross_entropy, images, targets, num_views, 0.4,
        ["features.2", "features.4"], beta,
    )  # fmt: skip
    expected.backward()
    net, criterion = attach(
        net, nn.CrossEntropyLoss(), num_views=num_views, alpha=0.4, beta=beta, seed=7,
        **AS_THEY_ARE,
    )  # fmt: skip
    loss = criterion(net(images), targets)
    loss.backward()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_one_view_without_alpha_is_the_stock_run_bit_for_bit(net, loader):
    """Step for step, loss for loss, weight for weight."""
    twin = copy.deepcopy(net)
    stock = train(twin, nn.CrossEntropyLoss(), loader, epochs=3)
    net, criterion = attach(
        net, nn.CrossEntropyLoss(), num_views=1, alpha=0, scheme=lambda x: x,
        **AS_THEY_ARE,
    )  # fmt: skip
    assert train(net, criterion, loader, epochs=3) == stock
    for ours, theirs in zip(
        net.state_dict().values(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_an_untouched_loop_trains_with_the_loss(net, loader):
    """In place: the loop's own names work, each forward reaches the criterion."""
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, num_views=4, **AS_THEY_ARE)
    train(net, criterion, loader, epochs=2)
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (6, 6, 0)
    assert set(stats["layers"]) == {"features.2", "features.4"}
    assert all(0 < value <= 1 for value in stats["layers"].values())
    weights = dai_plugin.layer_weights(2, 0.1)
    expected = 0.9 * stats["task_loss"] + sum(
        w * v for w, v in zip(weights, stats["layers"].values(), strict=True)
    )
    assert stats["total_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_model_stays_what_it_was(net):
    """Type, names, parameters, buffers, state_dict: nothing is added or renamed."""
    before = (type(net), list(net.state_dict()), [n for n, _ in net.named_modules()])
    parameters = [id(p) for p in net.parameters()]
    model, criterion = attach(net, nn.CrossEntropyLoss())
    assert model is net
    assert type(criterion) is nn.CrossEntropyLoss
    assert before == (
        type(net), list(net.state_dict()), [n for n, _ in net.named_modules()]
    )  # fmt: skip
    assert parameters == [id(p) for p in net.parameters()]


def test_evaluation_is_bit_equal(net, batch):
    """In evaluation and under no_grad, outputs and losses are the stock ones."""
    images, targets = batch
    twin = copy.deepcopy(net)
    net, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    for mode in ("train", "eval"):
        getattr(net, mode)(), getattr(twin, mode)()
        with torch.no_grad():
            ours, theirs = net(images), twin(images)
            assert torch.equal(ours, theirs)
            stock = F.cross_entropy(theirs, targets)
            assert torch.equal(criterion(ours, targets), stock)
    assert torch.equal(net.eval()(images), twin.eval()(images))
    assert attached(net).stats()["forwards"] == 0


def test_first_view_is_the_batch_as_the_loop_made_it(net, batch):
    """What the caller gets back is the network's output on the loop's own images."""
    net.features[1] = nn.Identity()  # batch norm would mix the rows
    images, _ = batch
    stock = net(images)
    attach(net, nn.CrossEntropyLoss(), num_views=3, **AS_THEY_ARE)
    torch.testing.assert_close(net(images), stock)
    attached(net).remove()
    attach(net, nn.CrossEntropyLoss(), first_view="augmented", **AS_THEY_ARE)
    assert (net(images) - stock).abs().max() > 1e-3


def test_remove_takes_away_all_and_nothing_else(net, batch):
    """Somebody else's hooks stay; afterwards the network is stock."""
    images, targets = batch
    fired = []
    net.features[2].register_forward_hook(lambda *_: fired.append(1))
    criterion = nn.CrossEntropyLoss()
    with attach(net, criterion, **AS_THEY_ARE) as attachment:
        assert attached(net) is attachment
    assert attached(net) is None
    hooks = [
        hook
        for module in [*net.modules(), criterion]
        for hook in [
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
        ]
    ]
    assert len(hooks) == 1
    twin = copy.deepcopy(net)
    assert torch.equal(
        criterion(net(images), targets), criterion(twin(images), targets)
    )
    assert fired


def my_loss(output, target):
    return F.mse_loss(output.softmax(1), F.one_hot(target, 5).float())


@pytest.mark.parametrize("name", ["cross_entropy", "my_loss"])
def test_a_function_is_found_by_its_name(net, batch, name):
    """Loops that call F.cross_entropy or a function of theirs need no edit."""
    home = torch.nn.functional if name == "cross_entropy" else __import__(__name__)
    stock = getattr(home, name)
    images, targets = batch
    with attach(net, stock, seed=7, **AS_THEY_ARE) as attachment:
        expected = by_hand(
            copy.deepcopy(net), stock, images, targets, 2, 0.1,
            ["features.2", "features.4"],
        )  # fmt: skip
        loss = getattr(home, name)(net(images), targets)
        torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-6)
        assert attachment.stats()["criterion_calls"] == 1
        other = torch.randn(4, 5, requires_grad=True)
        assert torch.equal(getattr(home, name)(other, targets), stock(other, targets))
    assert getattr(home, name) is stock


def test_nll_loss_of_a_network_that_ends_in_log_softmax(net, batch):
    """The classic MNIST script: F.nll_loss on log-probabilities."""
    images, targets = batch
    model = nn.Sequential(net, nn.LogSoftmax(1))
    with attach(model, F.nll_loss, **AS_THEY_ARE) as attachment:
        F.nll_loss(model(images), targets).backward()
        stats = attachment.stats()
    assert (stats["criterion_calls"], list(stats["layers"])) == (
        1,
        ["0.features.2", "0.features.4"],
    )


def test_any_other_callable_is_returned_wrapped(net, batch):
    """For a lambda the loop calls what attach returned."""
    images, targets = batch
    net, criterion = attach(
        net, lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), **AS_THEY_ARE
    )
    criterion(net(images), targets)
    assert attached(net).stats()["criterion_calls"] == 1


def test_two_models_share_a_function_and_detach_in_any_order(batch):
    """Each call finds its own model's output; the last one out restores the name."""
    images, targets = batch
    stock = F.cross_entropy
    nets = [SmallNet(), SmallNet()]
    first, second = (attach(n, F.cross_entropy, **AS_THEY_ARE) for n in nets)
    outputs = [net(images) for net in nets]
    for output in reversed(outputs):
        F.cross_entropy(output, targets).backward()
    assert first.stats()["criterion_calls"] == second.stats()["criterion_calls"] == 1
    first.remove()
    F.cross_entropy(nets[1](images), targets)
    assert second.stats()["criterion_calls"] == 2
    second.remove()
    assert F.cross_entropy is stock


def test_mixup_calls_the_criterion_twice(net, batch):
    """Each call on the primary output carries the terms; the weights add up to one."""
    images, targets = batch
    other = targets.flip(0)
    _, criterion = attach(net, nn.CrossEntropyLoss(), seed=7, **AS_THEY_ARE)
    twin = copy.deepcopy(net)
    output = net(images)
    loss = 0.3 * criterion(output, targets) + 0.7 * criterion(output, other)
    layers = ["features.2", "features.4"]

    def mixed(o, t):
        return 0.3 * F.cross_entropy(o, t) + 0.7 * F.cross_entropy(o, other)

    expected = by_hand(twin, mixed, images, targets, 2, 0.1, layers)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-6)
    assert attached(net).stats()["criterion_calls"] == 1


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_keep_their_meaning(net, batch, reduction):
    """The terms count once an image for "sum", and at each element for "none"."""
    images, targets = batch
    weight = torch.rand(5)
    _, criterion = attach(
        net, nn.CrossEntropyLoss(weight, reduction=reduction), seed=7, **AS_THEY_ARE
    )
    twin = copy.deepcopy(net)
    loss = criterion(net(images), targets)
    layers = ["features.2", "features.4"]
    terms = by_hand(twin, lambda *_: 0.0, images, targets, 2, 0.1, layers)
    task = (
        sum(
            F.cross_entropy(o, targets, weight, reduction=reduction)
            for o in copy.deepcopy(net)(rows_of(images, 2)).chunk(2)
        )
        / 2
    )
    expected = 0.9 * task + terms * (4 if reduction == "sum" else 1)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-5)


def test_soft_targets_and_label_smoothing(net, batch):
    """Targets [B, K] go to the criterion as they are, once a view."""
    images, targets = batch
    soft = F.one_hot(targets, 5).float() * 0.8 + 0.04
    _, criterion = attach(net, nn.CrossEntropyLoss(label_smoothing=0.1), **AS_THEY_ARE)
    criterion(net(images), soft).backward()
    assert attached(net).stats()["missed"] == 0


def test_auxiliary_heads_carry_the_factor_alone(batch):
    """Inception's manner: the terms come with the primary output only."""
    images, targets = batch

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
            self.main, self.aux = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, x):
            x = self.conv(x).mean((2, 3))
            return torchvision.models.GoogLeNetOutputs(self.main(x), self.aux(x), None)

    net = Heads()
    _, criterion = attach(net, nn.CrossEntropyLoss(), alpha=0.5, **AS_THEY_ARE)
    output = net(images)
    assert type(output) is torchvision.models.GoogLeNetOutputs
    assert output.aux_logits2.shape == (4, 5)
    main = criterion(output.logits, targets)
    aux = criterion(output.aux_logits2, targets)
    stats = attached(net).stats()
    terms = 0.5 * stats["layers"]["conv.1"]
    assert main.item() == pytest.approx(0.5 * stats["task_loss"] + terms, rel=1e-5)
    (main + 0.3 * aux).backward()
    assert aux.item() < 0.5 * 3
    assert (stats["criterion_calls"], stats["missed"]) == (1, 0)


def test_a_model_that_returns_its_loss(batch):
    """criterion=None: labels are repeated on the way in, the loss comes out mixed."""
    images, targets = batch

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

        def forward(self, pixel_values, labels=None):
            logits = self.conv(pixel_values).mean((2, 3))
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    net = Own()
    attachment = attach(net, num_views=3, alpha=0.5, beta=0.2, **AS_THEY_ARE)
    output = net(pixel_values=images, labels=targets)
    assert output["logits"].shape == (4, 5)
    output["loss"].backward()
    stats = attachment.stats()
    assert stats["criterion_calls"] == 1
    assert stats["total_loss"] == pytest.approx(output["loss"].item())
    assert stats["total_loss"] != pytest.approx(stats["task_loss"])


class OwnLoss(nn.Module):
    """Divides a summed loss by what the loop says, as Hugging Face's models do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

    def forward(self, images, labels, num_items_in_batch=None):
        logits = self.conv(images).mean((2, 3))
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return {"loss": loss / (num_items_in_batch or len(labels)), "logits": logits}


def test_a_count_of_items_keeps_every_weight(batch):
    """Micro-batches of 4 out of 12 images: a third of task and invariance each."""
    images, targets = batch
    whole, third = OwnLoss(), OwnLoss()
    third.load_state_dict(whole.state_dict())
    losses = []
    for net, items in ((whole, None), (third, 12)):
        attach(net, num_views=3, alpha=0.5, seed=7, **AS_THEY_ARE)
        losses.append(net(images, labels=targets, num_items_in_batch=items)["loss"])
    torch.testing.assert_close(losses[1], losses[0] / 3)


def test_the_explicit_form_equals_the_two_lines(net, batch):
    """Same core: rows and labels in hand, the same loss."""
    images, targets = batch
    twin = copy.deepcopy(net)
    options = {"num_views": 3, "alpha": 0.3, "beta": 0.2, "seed": 7, **AS_THEY_ARE}
    _, criterion = attach(
        twin, nn.CrossEntropyLoss(), first_view="augmented", **options
    )
    expected = criterion(twin(images), targets)
    dai = DataAugmentationInvariance(net, **options)
    rows, labels = dai.views(images, targets)
    assert rows.shape == (12, 3, 12, 12)
    assert labels.tolist() == targets.tolist() * 3
    loss = dai.loss(F.cross_entropy(net(rows), labels))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert dai.stats()["criterion_calls"] == 1
    net.eval()
    same, also = dai.views(images, targets)
    assert same is images
    assert also is targets


@pytest.mark.parametrize("correction", [0, 1])
def test_correction_reaches_both_losses(net, batch, correction):
    """Distinct pairs only, for the invariance and for the class-wise loss."""
    images, targets = batch
    net.features[1] = nn.Identity()
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), alpha=0.3, beta=0.3, correction=correction, seed=7,
        layers="features.4", **AS_THEY_ARE,
    )  # fmt: skip
    total = criterion(net(images), targets).item()
    kept = []
    handle = net.features[4].register_forward_hook(lambda *x: kept.append(x[2]))
    with torch.no_grad():
        net(rows_of(images, 2))
    handle.remove()
    a = kept[0]
    expected = 0.4 * attached(net).stats()["task_loss"]
    expected += 0.3 * oracle.invariance_loss(a, 2, correction).item()
    labels = targets.repeat(2)
    expected += 0.3 * oracle.class_invariance_loss(a, labels, correction).item()
    assert total == pytest.approx(expected, rel=1e-5)


def test_weights_by_name_follow_the_names(net, batch):
    """A mapping may come in any order and leave layers out."""
    images, targets = batch
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), alpha=0.8, layers=["features.0", "features.2",
        "features.4"], layer_weights={"features.4": 1, "features.0": 3}, **AS_THEY_ARE,
    )  # fmt: skip
    total = criterion(net(images), targets).item()
    stats = attached(net).stats()
    expected = 0.2 * stats["task_loss"] + 0.6 * stats["layers"]["features.0"]
    expected += 0.2 * stats["layers"]["features.4"]
    assert total == pytest.approx(expected, rel=1e-5)


def test_replaced_modules_are_hooked_anew(net, batch):
    """convert_sync_batchnorm after attach: the layer of that name is followed."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, layers="features.2", **AS_THEY_ARE)
    stale, net.features[2] = net.features[2], nn.GELU()
    criterion(net(images), targets).backward()
    assert attachment.stats()["criterion_calls"] == 1
    assert not stale._forward_hooks
    attachment.remove()
    assert not net.features[2]._forward_hooks


def test_the_models_own_normalisation_is_taken(net, batch, caplog):
    """A timm-style configuration says what the images carry; nothing is guessed."""
    net.default_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    attach(net, nn.CrossEntropyLoss())
    mean, std = (torch.tensor(v)[:, None, None] for v in net.default_cfg.values())
    net((batch[0] - mean) / std)
    assert attached(net).state_dict()["mean"] == [0.1, 0.2, 0.3]
    assert "were not given" not in caplog.text


@pytest.mark.parametrize(
    "known", [{}, {"mean": 0.4, "std": 0.2}], ids=["none", "given"]
)
def test_uint8_images_reach_the_network_as_floats(net, batch, known):
    """Scaled to [0, 1], and normalised where mean and std are given."""
    rows = []
    net.features[0].register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    images = (batch[0] * 255).byte()
    attach(net, nn.CrossEntropyLoss(), **known)
    net(images)
    expected = images / 255
    if known:
        expected = (expected - 0.4) / 0.2
    torch.testing.assert_close(rows[0][:4], expected)


def test_without_a_seed_torchs_own_decides(batch):
    """torch.manual_seed before attach fixes the views."""
    seeds = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        seeds.append(attach(SmallNet(), nn.CrossEntropyLoss()).state_dict()["seed"])
    assert seeds == [5, 5, 6]


def test_alpha_schedule_multiplies_both(net, batch):
    """The schedule sees the number of training forwards so far."""
    images, targets = batch
    seen = []
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), alpha=0.4, beta=0.2, seed=7, **AS_THEY_ARE,
        alpha_schedule=lambda step: seen.append(step) or step / 2,
    )  # fmt: skip
    for alpha in (0.0, 0.2, 0.4):
        loss = criterion(net(images), targets)
        stats = attached(net).stats()
        assert stats["alpha"] == pytest.approx(alpha)
        if alpha == 0:
            assert loss.item() == stats["task_loss"]
    assert seen == [0, 1, 2]


def test_the_schedule_reaches_both_losses(net, batch):
    """Half the multiplier is half of alpha and half of beta, and more of the task."""
    images, targets = batch
    totals = []
    for options in (
        {"alpha": 0.4, "beta": 0.2, "alpha_schedule": lambda _: 0.5},
        {"alpha": 0.2, "beta": 0.1},
    ):
        with attach(net, nn.CrossEntropyLoss(), seed=7, **options, **AS_THEY_ARE) as a:
            totals.append(a.criterion(net(images), targets))
    torch.testing.assert_close(*totals)


def renamed(output, target):
    return F.cross_entropy(output, target)


alias = renamed


def test_a_function_is_found_under_any_name(net, batch):
    """`loss_func = F.cross_entropy` at the top of a script; and attached again."""
    images, targets = batch
    for _ in range(2):
        with attach(net, renamed, **AS_THEY_ARE) as attachment:
            alias(net(images), targets).backward()
            assert attachment.stats()["criterion_calls"] == 1
    with attach(net, attachment.criterion, **AS_THEY_ARE) as attachment:
        alias(net(images), targets).backward()
        assert attachment.stats()["criterion_calls"] == 1


@pytest.mark.parametrize("how", ["keyword", "partial"])
def test_the_reduction_of_a_function(net, batch, how):
    """reduction="sum" by keyword or bound: the terms count once an image."""
    images, targets = batch
    function = functools.partial(F.cross_entropy, reduction="sum")
    criterion = F.cross_entropy if how == "keyword" else function
    with attach(net, criterion, seed=7, alpha=0.5, **AS_THEY_ARE) as attachment:
        more = {"reduction": "sum"} if how == "keyword" else {}
        total = attachment.criterion(net(images), targets, **more).item()
        stats = attachment.stats()
    weights = dai_plugin.layer_weights(2, 0.5)
    terms = sum(w * v for w, v in zip(weights, stats["layers"].values(), strict=True))
    assert total == pytest.approx(0.5 * stats["task_loss"] + 4 * terms, rel=1e-5)


def test_resumed_views_continue_the_stream(net, batch):
    """Seed, step and input range are plain numbers that bring the same views back."""
    images, targets = batch
    images = images * 2 - 1
    net.features[1] = nn.Identity()
    _, criterion = attach(net, nn.CrossEntropyLoss(), seed=3)
    criterion(net(images), targets)
    state = attached(net).state_dict()
    assert state == {"seed": 3, "step": 1, "mean": [0.5], "std": [0.5]}
    expected = criterion(net(images), targets)
    attached(net).remove()
    _, criterion = attach(net, nn.CrossEntropyLoss(), mean=0.1, std=0.2)
    attached(net).load_state_dict(state)
    assert torch.equal(criterion(net(images), targets), expected)


def test_one_notice_tells_what_runs(net, loader, caplog):
    """Rows and cost, layers and weights, scheme, flips, normalisation: once."""
    net, criterion = attach(net, nn.CrossEntropyLoss(), num_views=4)
    train(net, criterion, loader)
    notices = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(notices) == 1
    parts = [
        "4 images x 4 views = 16 rows",
        "features.2 0.00909, features.4 0.0909",
        "rotation +- 22.5 deg",
        "flipped",
        "normalisation: none",
    ]
    for part in parts:
        assert part in notices[0]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "mean and std were not given" in warnings[0].getMessage()


def test_nothing_of_a_step_stays_alive(net, batch):
    """After the backward neither rows nor activations nor outputs are held."""
    images, targets = batch
    alive = []
    for module in net.modules():
        module.register_forward_hook(
            lambda _, rows, out: alive.extend([weakref.ref(rows[0]), weakref.ref(out)])
        )
    net, criterion = attach(net, nn.CrossEntropyLoss(), beta=0.1, **AS_THEY_ARE)
    criterion(net(images), targets).backward()
    gc.collect()
    assert len(alive) > 10
    assert not any(ref() is not None for ref in alive)


def test_attachment_is_public(net):
    """The returned object has the public type and unpacks into two."""
    attachment = attach(net, nn.CrossEntropyLoss())
    assert isinstance(attachment, Attachment)
    assert len(list(attachment)) == 2
    assert "2 layers of SmallNet" in repr(attachment)
