"""What criteria return: a loss, a loss among other things, or several losses."""

import dataclasses
import gc

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 2, "alpha": 0.4}


def loss_of(result):
    return result["loss"] if isinstance(result, dict) else result


def first(output, targets):
    loss = F.cross_entropy(output, targets)
    return {"loss": loss, "ce": loss.detach(), "square": output.square().mean()}


def second(output, targets):
    accuracy = (output.argmax(1) == targets).float().mean()
    return {"accuracy": accuracy, "loss": F.cross_entropy(output, targets)}


@pytest.mark.parametrize("criterion", [first, second])
def test_the_first_result_with_a_gradient_is_the_loss(batch, criterion):
    """Wherever it stands, it is the objective; the rest is the first view's."""
    images, targets = batch
    found = []
    for own in (F.cross_entropy, criterion):
        torch.manual_seed(0)
        net = SmallNet()
        attachment = attach(net, lambda o, t, own=own: own(o, t), **OPTIONS)
        result = attachment.criterion(net(images), targets)
        loss_of(result).backward()
        found.append((loss_of(result).item(), net.features[0].weight.grad))
        assert attachment.stats()["missed"] == 0
    (expected, gradient), (loss, grad) = found
    assert loss == expected
    torch.testing.assert_close(grad, gradient)


def test_a_part_that_is_trained_is_refused(net, batch):
    """A sum over the parts would train the further ones on the first view alone."""
    attachment = attach(net, lambda o, t: first(o, t), **OPTIONS)
    result = attachment.criterion(net(batch[0]), batch[1])
    with pytest.raises(RuntimeError, match="returned several losses"):
        sum(result.values()).backward()


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Refuses to be written to."""

    weight: float = 2.0

    def __call__(self, output, targets):
        return self.weight * F.cross_entropy(output, targets)


def test_an_object_that_cannot_be_written_to_is_watched(net, batch):
    """It stays what it is, and its calls carry the terms."""
    criterion = Frozen()
    attachment = attach(net, criterion, **OPTIONS)
    criterion(net(batch[0]), batch[1]).backward()
    assert attachment.stats()["criterion_calls"] == 1
    attachment.remove()
    assert type(criterion) is Frozen


def test_a_skipped_batch_is_forgotten(net, batch):
    """A `continue` before the loss, with calls that have None among their arguments."""
    with attach(net, F.cross_entropy, **OPTIONS) as attachment:
        net(batch[0])
        gc.collect()
        for _ in range(2):
            F.cross_entropy(net(batch[0]), batch[1], None).backward()
        stats = attachment.stats()
    assert (stats["missed"], stats["criterion_calls"]) == (1, 2)


class Noisy(nn.Module):
    """Gets a number for each image, to be broadcast over its pixels."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet()

    def forward(self, levels, images):
        return self.net(images * (1 - levels) + levels)


def test_numbers_that_are_broadcast_over_pixels_are_repeated(batch):
    """[B, 1, 1, 1] is no second batch of images, wherever it stands."""
    images, targets = batch
    net, levels = Noisy(), torch.rand(4, 1, 1, 1)
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, num_views=3, **OPTIONS)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args))
    criterion(net(levels, images), targets).backward()
    assert torch.equal(seen[0][0], levels.repeat(3, 1, 1, 1))
    assert torch.equal(seen[0][1][:4], images)


class Keeper(nn.Module):
    """Sums, and keeps its last input, which cannot be copied."""

    last = None

    def forward(self, output, targets):
        self.last = output
        return F.cross_entropy(output, targets, reduction="sum")


class Trainer:
    def loss(self, output, targets):
        return F.cross_entropy(output, targets, reduction="sum")


@pytest.mark.parametrize("own", [Keeper(), Trainer().loss], ids=["keeper", "method"])
def test_a_sum_is_known_also_where_the_criterion_cannot_be_copied(net, batch, own):
    """Its terms count once for each image, as its losses do."""
    attachment = attach(net, own, layers="features.4", **OPTIONS)
    total = attachment.criterion(net(batch[0]), batch[1])
    stats = attachment.stats()
    terms = 0.4 * stats["layers"]["features.4"] * len(batch[1])
    assert total.item() == pytest.approx(0.6 * stats["task_loss"] + terms, rel=1e-5)
