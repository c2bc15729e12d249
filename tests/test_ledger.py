"""Reached means that the backward of the returned loss ran; what did not is a miss."""

import copy
import logging
import random

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


class Heads(nn.Module):
    """Two heads on one trunk."""

    def __init__(self):
        super().__init__()
        self.trunk = SmallNet(8)
        self.first, self.second = nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x):
        pooled = self.trunk(x)
        return self.first(pooled), self.second(pooled)


def repeat(times, step):
    for _ in range(times):
        step()


def recomputed(criterion, output, targets):
    """The losses select images, and the loss of those is computed anew."""
    chosen = criterion(output, targets).detach().argsort()[:2]
    criterion(output[chosen], targets[chosen]).mean().backward()


def another(criterion, output, targets):
    """One criterion is logged, another one is trained."""
    criterion(output, targets).mean().item()
    F.mse_loss(output.softmax(1), F.one_hot(targets, 5).float()).backward()


LOGGED = []


def kept_for_a_log(criterion, output, targets):
    """The loss lives on with its graph, and another one is trained."""
    LOGGED[:] = [*LOGGED[-9:], criterion(output, targets)]
    F.cross_entropy(output, targets).backward()


def dropped(criterion, output, targets):
    """Logged, and that is all."""
    criterion(output, targets).mean().item()


def detached(criterion, output, targets):
    """The value is taken out of its graph and the task loss weighted by it."""
    value = criterion(output, targets).detach().mean()
    (value * F.cross_entropy(output, targets)).backward()


def sliced(criterion, output, targets):
    """A part of the outputs."""
    criterion(output[:3], targets[:3]).mean().backward()


MISSES = {
    recomputed: "another loss of the same outputs was.*a part of",
    another: "another loss of the same outputs was",
    kept_for_a_log: "another loss of the same outputs was",
    dropped: "computed and then not back-propagated:",
    detached: "another loss of the same outputs was",
    sliced: r"did not reach the criterion.*a part of .*\(a slice",
}


def selected(criterion, output, targets):
    """The small losses themselves."""
    criterion(output, targets).sort().values[:2].mean().backward()


def weighted(criterion, output, targets):
    """Each loss with a weight of its own, another loss beside it."""
    losses = criterion(output, targets)
    (losses @ torch.rand(len(losses)) + output.square().mean()).backward()


def logged_besides(criterion, output, targets):
    """Other criteria are logged, the attached one is trained."""
    F.mse_loss(output.softmax(1), F.one_hot(targets, 5).float()).item()
    criterion(output, targets).mean().backward()


def twice(criterion, output, targets):
    """Two losses of one output, one backward."""
    a, b = criterion(output, targets), criterion(output, targets.flip(0))
    (0.3 * a + 0.7 * b).mean().backward()


def conflicting(criterion, output, targets):
    """PCGrad's manner: gradients by themselves, of a graph that is kept."""
    losses = criterion(output, targets).mean(), criterion(output, targets.flip(0)).sum()
    for loss in losses:
        torch.autograd.grad(loss, output, retain_graph=True)


def skipped(criterion, output, targets):
    """`continue` before the criterion."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", MISSES, ids=lambda way: way.__name__)
def test_two_misses_in_a_row_raise(net, batch, way, seed, caplog):
    """After good steps, too: first a warning, then an error that says what was done."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss(reduction="none")
    attachment = attach(net, criterion, **OPTIONS)
    for _ in range(seed):
        selected(criterion, net(images), targets)
    with pytest.raises(RuntimeError, match=MISSES[way]):
        repeat(4, lambda: way(criterion, net(images), targets))
    assert caplog.text.count("an error unless strict=False") == 1
    assert attachment.stats()["missed"] == 2
    assert attachment.stats()["criterion_calls"] == seed


@pytest.mark.parametrize("way", MISSES, ids=lambda way: way.__name__)
def test_without_strict_misses_are_told_once_and_counted(net, batch, way, caplog):
    """strict=False goes on; the last forward is not decided yet."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss(reduction="none")
    attachment = attach(net, criterion, strict=False, **OPTIONS)
    for _ in range(5):
        way(criterion, net(images), targets)
    assert attachment.stats()["missed"] == 4
    assert caplog.text.count("unless strict=False") == 1


@pytest.mark.parametrize(
    "way", [selected, weighted, logged_besides, twice, conflicting]
)
def test_what_trains_the_loss_is_no_miss(net, batch, way):
    """Whatever is made of the returned losses."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss(reduction="none")
    attachment = attach(net, criterion, **OPTIONS)
    for _ in range(4):
        way(criterion, net(images), targets)
    net.eval()(images)
    stats = attachment.stats()
    assert (stats["criterion_calls"], stats["missed"]) == (4, 0)


@pytest.mark.parametrize("seed", range(10))
def test_a_miss_now_and_then_is_no_error(net, batch, seed):
    """Never two in a row, of any kind: counted, not raised."""
    rng, missed, after_miss = random.Random(seed), 0, False
    images, targets = batch
    criterion = nn.CrossEntropyLoss(reduction="none")
    attachment = attach(net, criterion, **OPTIONS)
    for _ in range(12):
        miss = not after_miss and rng.random() < 0.5
        way = rng.choice([skipped, *MISSES]) if miss else selected
        way(criterion, net(images), targets)
        missed, after_miss = missed + miss, miss
    net.eval()(images)
    stats = attachment.stats()
    assert (stats["missed"], stats["criterion_calls"]) == (missed, 12 - missed)


@pytest.mark.parametrize("seed", range(4))
def test_losses_kept_for_a_later_backward_are_no_misses(batch, seed):
    """Accumulation with one backward at its end, over two heads."""
    rng, net = random.Random(seed), Heads()
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, **OPTIONS)
    steps = 0
    for _ in range(3):
        kept = []
        for _ in range(rng.randint(1, 4)):
            first, second = net(images)
            losses = [criterion(first, targets), criterion(second, targets % 3)]
            kept += losses if rng.random() < 0.5 else [sum(losses)]
            steps += 1
        rng.shuffle(kept)
        sum(kept).backward()
    net.eval()(images)
    stats = attachment.stats()
    assert (stats["criterion_calls"], stats["missed"]) == (steps, 0)


def test_gradients_of_tasks_by_themselves(batch):
    """Each head's gradient is that of its own loss; their sum that of one backward."""
    images, targets = batch
    net = Heads().eval()
    twin = copy.deepcopy(net)
    criterion, other = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    attachment = attach(net, criterion, when="grad", **OPTIONS)
    attach(twin, other, when="grad", **OPTIONS)
    first, second = twin(images)
    (other(first, targets) + other(second, targets % 3)).backward()
    first, second = net(images)
    losses = criterion(first, targets), criterion(second, targets % 3)
    parts = [
        torch.autograd.grad(
            loss, net.parameters(), retain_graph=True, allow_unused=True
        )
        for loss in losses
    ]
    for parameter, a, b in zip(twin.parameters(), *parts, strict=True):
        got = sum(part for part in (a, b) if part is not None)
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-6)
    net(images)
    assert attachment.stats()["missed"] == 0


def test_two_forwards_before_one_loss_are_named(net, batch):
    """The second forward takes the first one's views away."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)

    def step():
        first, _ = net(images), net(images.flip(0))
        criterion(first, targets).backward()

    with pytest.raises(RuntimeError, match="two forwards were run before one loss"):
        repeat(2, step)


def test_a_criterion_of_two_forwards_is_refused(net, batch):
    """A siamese loss of the network's outputs at two times."""
    images, targets = batch
    attach(net, F.cosine_embedding_loss, **OPTIONS)
    first, second = net(images), net(images.flip(0))
    with pytest.raises(RuntimeError, match="outputs of two training forwards"):
        F.cosine_embedding_loss(first, second, targets.sign() * 2 - 1)


def bare(dai, task):
    """loss() is called for its value alone."""
    dai.loss(task)
    return task


def never(dai, task):
    """loss() is forgotten."""
    return task


@pytest.mark.parametrize("way", [bare, never])
def test_the_explicit_form_knows_a_bare_task_loss(net, batch, way, caplog):
    """Views without the terms: a warning, then an error at the next views."""
    dai = DataAugmentationInvariance(net, **OPTIONS)

    def step():
        images, targets = dai.views(*batch)
        way(dai, F.cross_entropy(net(images), targets)).backward()

    with pytest.raises(RuntimeError, match="invariance loss was not trained"):
        repeat(3, step)
    assert dai.stats()["missed"] == 2
    for _ in range(2):
        images, targets = dai.views(*batch)
        dai.loss(F.cross_entropy(net(images), targets)).backward()
    assert dai.stats()["missed"] == 2
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1
