"""A loss that is a sum over images means B times the mean, whoever takes it."""

import math

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain
from torch import nn

from dai_plugin import attach, check

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "layers": ["features"]}
SEEDS = range(4)


def hinge(output, target):
    """A sum that does not say so; zero where every image has its margin."""
    return (1 - target * output.squeeze(1)).relu().sum()


@pytest.mark.parametrize("first", [50.0, math.inf, math.nan, 0.0])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_was_seen_is_kept(first, share, seed):
    """A first step of zeros or of no numbers does not tell a sum from a mean."""
    torch.manual_seed(seed)
    size, views, alpha = int(torch.randint(4, 21, ())), 2 + seed % 2, 0.3
    images, net = torch.rand(size, 3, 6, 6), Plain(1)
    attachment = attach(
        net, hinge, num_views=views, alpha=alpha, share=share, **OPTIONS
    )
    net.head.bias.data.fill_(first)
    attachment.criterion(net(images), torch.ones(size))
    net.head.bias.data.fill_(0.0)
    targets = torch.randn(size).sign()
    loss = attachment.criterion(net(images), targets)
    activation, output = net.seen
    viewed = max(1, round(share * size))
    rows = [targets, *[targets[:viewed]] * (views - 1)]
    each = (1 - torch.cat(rows) * output.squeeze(1)).relu()
    in_groups = torch.cat([activation[:viewed], activation[size:]])
    term = oracle.invariance_loss(in_groups, views)
    expected = size * ((1 - alpha) * each.mean() + alpha * term)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


class Own(nn.Module):
    """Takes its loss itself."""

    def __init__(self, reduction, dropout=0.0):
        super().__init__()
        self.net, self.drop = Plain(), nn.Dropout(dropout)
        self.norm, self.reduction = nn.BatchNorm2d(3), reduction

    def forward(self, x, labels=None, num_items_in_batch=None):
        logits = self.drop(self.net(self.norm(x)))
        return {"loss": self.loss(logits, labels), "logits": logits}

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels, reduction=self.reduction)


def losses_of(net, criterion, batches, **settings):
    """Of each step: the task loss, the objective and its gradient."""
    settings = {**OPTIONS, "layers": ["net.features"], **settings}
    attachment = attach(net, criterion, **settings)
    for images, labels in batches:
        net.zero_grad()
        output = net(images, labels)
        loss = output["loss"]
        if criterion is not None:
            loss = attachment.criterion(output["logits"], labels)
        loss.sum().backward()
        stats = attachment.stats()
        yield stats["task_loss"], loss.detach(), *[p.grad for p in net.parameters()]


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reduction_means_the_same_inside_the_model(reduction, share, seed):
    """Its own loss or a criterion's, of the same rows: the same objective."""
    torch.manual_seed(seed)
    size, views = 1 + seed, int(torch.randint(2, 5, ()))
    batches = [(torch.rand(size, 3, 6, 6), torch.randint(5, (size,))) for _ in range(2)]
    settings = {"num_views": views, "share": share, "alpha": 0.3, "beta": 0.2}
    found = []
    for criterion in (None, nn.CrossEntropyLoss(reduction=reduction)):
        torch.manual_seed(seed)
        net = Own("mean" if criterion else reduction)
        found.append([*losses_of(net, criterion, batches, **settings)])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("count", [False, True])
def test_dropout_hides_no_sum(reduction, count):
    """Nor does a count of images that the model takes and does not use."""
    torch.manual_seed(0)
    net, labels = Own(reduction, 0.2), torch.randint(5, (16,))
    images = torch.rand(16, 3, 6, 6)
    attachment = attach(net, num_views=3, **{**OPTIONS, "layers": ["net.features"]})
    more = {"num_items_in_batch": 16} if count else {}
    net(images, labels=labels, **more)["loss"].backward()
    task = attachment.stats()["task_loss"]
    logits = net.net.seen[1]
    stock = F.cross_entropy(logits, labels.repeat(3)).item()
    assert task == pytest.approx(stock * (16 if reduction == "sum" else 1), rel=0.1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_dry_run_knows_a_sum_inside_the_model(reduction, share):
    """Its literal form is B times the mean, too."""
    torch.manual_seed(0)
    batch = {"x": torch.rand(6, 3, 6, 6), "labels": torch.randint(5, (6,))}
    found = check(
        Own(reduction), None, batch, share=share,
        **{**OPTIONS, "layers": ["net.features"]},
    )  # fmt: skip
    assert found.ok, str(found)
