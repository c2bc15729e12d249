"""What a term takes for the targets, and which of them it leaves out."""

import functools

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach, check, class_invariance_loss

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "layers": ["features"]}
SEEDS = range(4)


def batch_of(seed):
    """Images, labels of which some occur more than once, and which images count."""
    torch.manual_seed(seed)
    images = int(torch.randint(3, 7, ()))
    return (
        torch.rand(images, 3, 6, 6),
        torch.randint(3, (images,)),
        torch.rand(images) < 0.5,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("soft", [False, True])
def test_bools_say_which_images_count(seed, soft):
    """Beside labels of any kind, before or behind them, they are no classes."""
    images, labels, counts = batch_of(seed)
    targets = F.one_hot(labels, 5).float() if soft else labels
    seen = []

    def criterion(output, *others):
        first, second = others if others[0] is targets else others[::-1]
        return (F.cross_entropy(output, first, reduction="none") * second).mean()

    def own(activations, targets):
        seen.append(targets)
        return activations.var()

    net = Plain()
    _, watched = attach(net, criterion, term=own, **OPTIONS)
    order = (targets, counts) if soft or seed % 2 else (counts, targets)
    watched(net(images), *order).backward()
    assert torch.equal(seen[0], targets)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_classes_need_labels_of_an_integer_dtype(dtype):
    with pytest.raises(TypeError, match=f"hard labels .* got {dtype}"):
        class_invariance_loss(torch.rand(4, 3), torch.tensor([1, 0, 1, 0]).to(dtype))


class Ignoring(nn.Module):
    """Takes the label to be ignored as its call has it."""

    def forward(self, output, target, ignore_index=-100):
        return F.cross_entropy(output, target, ignore_index=ignore_index)


def inside(output, target):
    """Ignores 9 without a word."""
    return F.cross_entropy(output, target, ignore_index=9)


WAYS = {
    "attribute": (lambda: nn.CrossEntropyLoss(ignore_index=9), {}, {}),
    "partial": (lambda: functools.partial(F.cross_entropy, ignore_index=9), {}, {}),
    "call": (lambda: F.cross_entropy, {"ignore_index": 9}, {}),
    "call of a module": (Ignoring, {"ignore_index": 9}, {}),
    "settings": (lambda: inside, {}, {"ignore_index": 9}),
    "explicit": (lambda: inside, {}, {"ignore_index": 9}),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_an_ignored_label_is_no_class(way, seed):
    """However it is named: the class-wise term is that of all other images."""
    images, labels, counts = batch_of(seed)
    counts[:2] = torch.tensor([False, True])
    labels = labels.where(counts, 9)
    (make, keywords, settings), net, views = WAYS[way], Plain(), 2
    options = {**OPTIONS, "alpha": 0.0, "beta": 0.5, "num_views": views, **settings}
    if way == "explicit":
        dai = DataAugmentationInvariance(net, **options)
        rows, targets = dai.views(images, labels)
        dai.loss(make()(net(rows), targets))
        found = dai.stats()
    else:
        attachment = attach(net, make(), **options)
        attachment.criterion(net(images), labels, **keywords).backward()
        found = attachment.stats()
    rows = net.seen[0][counts.repeat(views)]
    expected = oracle.class_invariance_loss(rows, labels[counts].repeat(views))
    term = found["terms"]["class"]["features"]
    assert term == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("labels", [(1, 9), (9, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("way", ["attribute", "partial", "settings"])
def test_the_dry_run_ignores_what_the_run_ignores(labels, correction, way):
    """Any of the two images it looks at may have an ignored label."""
    images, _, _ = batch_of(0)
    (make, _, settings), targets = WAYS[way], torch.tensor([*labels, 2])
    criterion, more = make(), {**settings, "alpha": 0.3, "beta": 0.3}
    if labels == (9, 9):  # a mean over no label is NaN
        criterion, more = Clamped(), {**more, "ignore_index": 9}
    found = check(
        Plain(), criterion, (images[:3], targets), correction=correction,
        **OPTIONS, **more,
    )  # fmt: skip
    assert found.ok, str(found)


class Clamped(nn.Module):
    """A mean over the labels that count, 0 if none does."""

    def forward(self, output, target):
        each = F.cross_entropy(output, target, ignore_index=9, reduction="none")
        return each.sum() / (target != 9).sum().clamp(min=1)
