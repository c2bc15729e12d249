"""Rule of rows: what of the arguments of a forward goes to num_views * B rows."""

import random
from collections import namedtuple

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from dai_plugin import attach, attached

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}
SEEDS = range(12)
Pair = namedtuple("Pair", ["left", "right"])


class Sample:
    """One object an image, as mmpretrain's samples: no data that anybody repeats."""


class Receiver(nn.Module):
    """Takes anything beside its images and keeps what it got."""

    def __init__(self, images, classes=5):
        super().__init__()
        # No size equals the number of rows, which would be looked into.
        self.features = nn.Sequential(nn.Conv2d(3, 7, 2), nn.ReLU())
        self.head = nn.Linear(7, classes)
        self.prompts = nn.Parameter(torch.randn(images, 2))  # as many as images
        self.register_buffer("prior", torch.randn(images))
        self.got = None

    def forward(self, images, *args, **kwargs):
        self.got = images, args, kwargs
        return self.head(self.features(images).mean((2, 3)))


def leaf_of(rng, net, images):
    """A leaf, and what becomes of it in so many views."""
    rows = torch.randn(images, *rng.choice([(), (3,), (2, 4), (2, 2, 2, 5, 7)]))
    other = torch.randn(images + rng.randint(1, 3), *rng.choice([(), (3,)]))
    kinds = {
        "row": lambda: rows[..., :1].round().long() if rows.dim() > 1 else rows,
        "bool": lambda: torch.rand(images) > 0.5,
        "made": lambda: torch.randn(images, 3, requires_grad=True) * 2,
        "other": lambda: other,
        "number": lambda: torch.tensor(float(images)),
        "none": lambda: None,
        "word": lambda: "bicubic",
        "words": lambda: ["a cat"] * images,
        "int": lambda: images,
        "parameter": lambda: net.prompts,
        "buffer": lambda: net.prior,
        "attack": lambda: torch.zeros(images, 3, requires_grad=True),
        "samples": lambda: [Sample() for _ in range(images)],
        "too many samples": lambda: [Sample() for _ in range(images + 1)],
    }
    kind = rng.choice(list(kinds))
    if kind == "row" and rows.dim() > 4:
        rows = rows.flatten(1, 3)
    leaf = kinds[kind]()
    return leaf, kind in ("row", "bool", "made", "samples")


def structure_of(rng, net, images, depth=2):
    """A nested structure and, leaf by leaf in it, whether it is to be repeated."""
    if depth == 0 or rng.random() < 0.4:
        return leaf_of(rng, net, images)
    parts = [structure_of(rng, net, images, depth - 1) for _ in range(2)]
    given, repeated = [p[0] for p in parts], [p[1] for p in parts]
    form = rng.choice(
        [tuple, list, lambda p: Pair(*p), lambda p: {"a": p[0], "b": p[1]}]
    )
    return form(given), form(repeated)


def follow(given, got, repeated, views):
    """Asserts of each leaf that it came as the rule has it."""
    if isinstance(repeated, dict):
        assert set(got) == set(given)
        for key in repeated:
            follow(given[key], got[key], repeated[key], views)
    elif isinstance(repeated, list | tuple):
        assert type(got) is type(given)
        for each in zip(given, got, repeated, strict=True):
            follow(*each, views)
    elif not repeated:
        assert got is given or got == given
    elif isinstance(given, list):
        assert got == given * views
    else:
        assert torch.equal(got, torch.cat([given] * views))
        assert got.dtype == given.dtype


@pytest.mark.parametrize("seed", range(40))
def test_whatever_belongs_to_an_image_is_repeated_and_nothing_else(seed):
    """Random nested arguments and keywords, with B rows and without."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    images, views = rng.randint(2, 5), rng.randint(2, 3)
    net, batch = Receiver(images), torch.rand(images, 3, 8, 8)
    positional = [structure_of(rng, net, images) for _ in range(rng.randint(0, 3))]
    named = {n: structure_of(rng, net, images) for n in ("meta", "extra")}
    attach(net, nn.CrossEntropyLoss(), num_views=views, **OPTIONS)
    args, kwargs = [g for g, _ in positional], {n: g for n, (g, _) in named.items()}
    output = net(batch, *args, **kwargs)
    assert len(output) == images
    rows, got_args, got_kwargs = net.got
    assert len(rows) == images * views
    assert torch.equal(rows[:images], batch)
    follow(args, list(got_args), [r for _, r in positional], views)
    follow(kwargs, got_kwargs, {n: r for n, (_, r) in named.items()}, views)


def test_images_are_found_wherever_they_stand():
    """The first 4-D batch, in a dict, a tuple or by keyword."""

    class Nested(Receiver):
        def forward(self, *args, **kwargs):
            leaves = pytree.tree_leaves((args, kwargs))
            images = next(
                t for t in leaves if isinstance(t, torch.Tensor) and t.dim() == 4
            )
            return super().forward(images, *args, **kwargs)

    images, tokens = torch.rand(3, 3, 8, 8), torch.arange(6).reshape(3, 2)
    for args, kwargs in [
        (({"tokens": tokens, "pixels": images},), {}),
        ((tokens, (images, "word")), {}),
        ((tokens,), {"pixels": images}),
    ]:
        net = Nested(3)
        attach(net, nn.CrossEntropyLoss(), **OPTIONS)
        net(*args, **kwargs)
        rows, *rest = net.got
        assert len(rows) == 6
        found = [t for t in pytree.tree_leaves(rest) if isinstance(t, torch.Tensor)]
        assert any(torch.equal(t, tokens.repeat(2, 1)) for t in found)


KINDS = [
    "siamese",
    "depth",
    "integers",
    "clip",
    "video",
    "channels last",
    "nested",
    "jagged",
    "size zero",
    "flat",
    "single",
    "empty",
]


def batches_of(rng, images):
    """Arguments that are refused, with what the message names."""
    side = rng.randint(6, 12)
    first = torch.rand(images, 3, side, side)
    uneven = [torch.rand(3 + i, side, side) for i in range(images)]
    return {
        "siamese": ((first, torch.rand(images, 3, side, side)), {}, "two batches of"),
        "depth": ((first,), {"depth": torch.rand(images, 1, 5, 9)}, "depth"),
        "integers": (
            (first,),
            {"ids": torch.ones(images, 1, side, side).long()},
            "ids",
        ),
        "clip": ((first,), {"clip": torch.rand(images, 2, 3, side, side)}, "clip"),
        "video": ((torch.rand(images, 2, 3, side, side),), {}, "5-D batch"),
        "channels last": (
            (torch.rand(images, side, side + 1, 3),),
            {},
            r"\[B, H, W, C",
        ),
        "nested": ((torch.nested.nested_tensor(uneven),), {}, "nested tensor"),
        "jagged": (
            (torch.nested.nested_tensor(uneven, layout=torch.jagged),),
            {},
            "nested tensor",
        ),
        "size zero": ((torch.rand(images, 3, 0, side),), {}, "have 0 lines"),
        "flat": ((torch.rand(images, 3 * side),), {}, "no batch of images"),
        "single": ((torch.rand(3, side, side),), {}, "a single image is images"),
        "empty": ((torch.rand(0, 3, side, side),), {}, "empty batch"),
    }


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_no_batch_of_images_is_refused_by_name(kind, seed):
    """A ValueError before the network runs; the next good batch trains."""
    rng = random.Random(seed)
    images = rng.randint(2, 4)
    args, kwargs, message = batches_of(rng, images)[kind]
    net = Receiver(images)
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    with pytest.raises(ValueError, match=message):
        net(*args, **kwargs)
    assert net.got is None
    criterion(net(torch.rand(images, 3, 8, 8)), torch.arange(images)).backward()
    assert attached(net).stats()["criterion_calls"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_an_argument_that_keeps_its_size_while_b_changes_raises(seed):
    """Equal by chance at first, found out at the next size; what follows B does not."""
    rng = random.Random(seed)
    images = rng.randint(2, 5)
    follows = torch.rand(images, 2)
    stays = rng.choice([torch.randn(images), torch.randn(images, 3, 7)])
    net = Receiver(images)
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    given = {"meta": follows, "table": stays}
    criterion(
        net(torch.rand(images, 3, 8, 8), **given), torch.arange(images)
    ).backward()
    smaller = images - 1
    with pytest.raises(RuntimeError, match=f"table had {images} rows.*{smaller}: it"):
        net(torch.rand(smaller, 3, 8, 8), meta=follows[:smaller], table=stays)
    output = net(torch.rand(smaller, 3, 8, 8), meta=follows[:smaller])
    criterion(output, torch.arange(smaller)).backward()
    assert attached(net).stats()["missed"] == 0


class Counting(nn.Module):
    """A model of Hugging Face's manner: the loss alone or over a count of images."""

    def __init__(self, uses):
        super().__init__()
        # No size equals the number of rows, which would be looked into.
        self.features = nn.Sequential(nn.Conv2d(3, 7, 2), nn.ReLU())
        self.head, self.uses, self.seen = nn.Linear(7, 5), uses, None

    def forward(self, pixels, labels, num_items_in_batch=None):
        activation = self.features(pixels)
        logits = self.head(activation.mean((2, 3)))
        if torch.is_grad_enabled():  # a look at the network is none of the test's
            self.seen = activation, logits, labels
        if self.uses and num_items_in_batch is not None:
            loss = F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch
        else:
            loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("uses", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_count_of_items_gives_each_micro_batch_its_share(seed, uses):
    """Random micro-batches: sums over the loop's count, or means without it."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [rng.randint(1, 4) for _ in range(rng.randint(1, 3))]
    views, alpha = rng.randint(2, 3), 0.3
    number = sum(sizes)
    count = torch.tensor(number) if rng.random() < 0.5 else number
    net = Counting(uses)
    attachment = attach(
        net, num_views=views, alpha=alpha, layers=["features"], **OPTIONS
    )
    for size in sizes:
        labels = torch.randint(5, (size,))
        loss = net(torch.rand(size, 3, 8, 8), labels, num_items_in_batch=count)["loss"]
        activation, logits, repeated = net.seen
        assert torch.equal(repeated, labels.repeat(views))
        mean = F.cross_entropy(logits.double(), repeated)
        share = size / number if uses else 1.0
        inv = oracle.invariance_loss(activation, views)
        expected = share * ((1 - alpha) * mean + alpha * inv)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        task = attachment.stats()["task_loss"]
        assert task == pytest.approx(share * mean.item(), rel=1e-5)
        loss.backward()
