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


class Own(nn.Module):
    """Takes its loss itself, whatever its arguments are called."""

    def __init__(self):
        super().__init__()
        self.net = Plain()

    def forward(self, x, *args, **kwargs):
        logits = self.net(x)
        return {"loss": logits.square().mean(), "logits": logits}


def others_of(kind, seed):
    """Arguments beside the images, in a random order, and which is the target."""
    images, labels, counts = batch_of(seed)
    numbers = torch.randperm(len(images)) + 10
    name = ["labels", "target", "gt_label", "cls"][seed % 4]
    target = {
        "hard": labels,
        "soft": torch.rand(len(images), 5),
        "mask": torch.randint(3, (len(images), 6, 6)),
        "unnamed": labels,
    }[kind]
    others = {"counts": counts, "meta": torch.rand(len(images))}
    others |= {"y": target} if kind == "unnamed" else {"index": numbers, name: target}
    order = torch.randperm(len(others)).tolist()
    return images, {list(others)[i]: list(others.values())[i] for i in order}, target


@pytest.mark.parametrize("kind", ["hard", "soft", "mask", "unnamed"])
@pytest.mark.parametrize("seed", range(8))
def test_the_target_of_a_model_with_its_own_loss(kind, seed):
    """By its name, of any shape; by its kind, where no name tells."""
    images, others, target = others_of(kind, seed)
    seen = []

    def own(activations, targets):
        seen.append(targets)
        return activations.var()

    net, options = Own(), {**OPTIONS, "layers": ["net.features"]}
    attach(net, term=own, scheme="photometric", **options)
    net(images, **others)["loss"].backward()
    assert torch.equal(seen[0], target)


@pytest.mark.parametrize("seed", range(4))
def test_classes_of_a_model_with_its_own_loss(seed):
    """They are those of the target, and the dry run agrees."""
    images, others, target = others_of("hard", seed)
    net, options = Own(), {**OPTIONS, "layers": ["net.features"], "beta": 0.3}
    with attach(net, **options) as attachment:
        net(images, **others)["loss"].backward()
        term = attachment.stats()["terms"]["class"]["net.features"]
    expected = oracle.class_invariance_loss(net.net.seen[0], target.repeat(2))
    assert term == pytest.approx(expected.item(), rel=1e-4)
    found = check(Own(), None, {"x": images, **others}, **options)
    assert found.ok, str(found)


@pytest.mark.parametrize("names", [("a", "b"), ("label_a", "label_b")])
def test_two_candidates_for_the_target_are_refused(names):
    """Where a term needs it: guessing would train on the wrong groups."""
    images, labels, _ = batch_of(0)
    others, options = dict.fromkeys(names, labels), {**OPTIONS, "layers": "auto"}
    net = Own()
    with attach(net, **options):
        net(images, **others)["loss"].backward()
    attach(net, beta=0.1, **options)
    with pytest.raises(ValueError, match=f"arguments {', '.join(names)} of the.*label"):
        net(images, **others)


def test_the_dry_run_takes_labels_out_of_several_targets():
    """As the run does: the first that are hard."""

    def criterion(output, targets):
        return F.cross_entropy(output, targets[1]) + targets[0].mean()

    images, labels, _ = batch_of(0)
    targets = torch.rand(len(images), 2), labels
    found = check(Plain(), criterion, (images, targets), beta=0.3, **OPTIONS)
    assert found.ok, str(found)
