"""Sizes that equal the number of rows by chance, and looks that leave no trace."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3}


class Prototypes(nn.Module):
    """Returns what belongs to its images, and what does not."""

    def __init__(self, classes, features, derived):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, features, 3), nn.BatchNorm2d(features), nn.ReLU()
        )
        self.prototypes = nn.Parameter(torch.randn(classes, features))
        self.derived = derived

    def forward(self, x):
        pooled = self.features(x).mean((2, 3))
        known = F.normalize(self.prototypes) if self.derived else self.prototypes
        return {"known": known, "logits": pooled @ self.prototypes.T}


@pytest.mark.parametrize("seed", range(12))
def test_what_only_happens_to_have_as_many_rows_is_left_whole(seed):
    """Prototypes, classes and channels that number as the rows do are no rows."""
    generator = torch.Generator().manual_seed(seed)
    images = int(torch.randint(2, 6, (), generator=generator))
    views = int(torch.randint(2, 4, (), generator=generator))
    rows = images * views
    net = Prototypes(rows, rows, derived=bool(seed % 2))
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, num_views=views, **OPTIONS)
    for _ in range(2):
        output = net(torch.rand(images, 3, 8, 8))
        assert output["known"].shape == (rows, rows)
        assert output["logits"].shape == (images, rows)
        criterion(output["logits"], torch.arange(images)).backward()
        assert attached(net).stats()["missed"] == (seed < 0)


class Similarities(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())

    def forward(self, x):
        pooled = self.features(x).mean((2, 3))
        return pooled @ pooled.T


@pytest.mark.parametrize("seed", range(4))
def test_similarities_of_all_rows_are_refused(seed):
    """Views of one image would stand as negatives of each other."""
    net = Similarities(4 + seed)
    attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    with pytest.raises(RuntimeError, match=r"dimensions \[0, 1\] grow with the rows"):
        net(torch.rand(2 + seed, 3, 8, 8))


class TokensFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(
            self.block(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0)
        )


@pytest.mark.parametrize("side", [8, 12, 16])
def test_a_layer_of_as_many_tokens_as_rows_is_refused(side):
    """Its first dimension holds tokens, whatever their number."""
    net = TokensFirst()
    attach(net, nn.CrossEntropyLoss(), layers="block", **OPTIONS)
    tokens = (side // 4) ** 2
    images = tokens // 2
    error = "does not grow with them" if tokens % 2 == 0 else "no tensor with"
    with pytest.raises(RuntimeError, match=error):
        net(torch.rand(images, 3, side, side))


def test_as_many_channels_as_rows_are_measured():
    """The usual case: a first dimension of rows beside as many channels."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 8),
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, layers=["1", "3"], **OPTIONS)
    criterion(net(torch.rand(4, 3, 8, 8)), torch.arange(4)).backward()
    assert len(attached(net).stats()["layers"]) == 2


def test_a_look_leaves_no_trace():
    """Statistics, random numbers, gradients and the loop's hooks see one forward."""
    net = Prototypes(8, 8, derived=True)
    net.drop = nn.Dropout(0.5)
    twin = copy.deepcopy(net)
    calls = []
    net.features[0].register_forward_hook(lambda *_: calls.append(1))
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    rows = []
    net.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    state = torch.get_rng_state()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    criterion(net(images)["logits"], torch.arange(4)).backward()
    assert torch.equal(state, torch.get_rng_state())
    assert len(calls) == len(rows) == 1
    twin(rows[0])
    for own, stock in zip(net.buffers(), twin.buffers(), strict=True):
        assert torch.equal(own, stock)


class Sized(nn.Module):
    """A dense output without a gradient, as predictions are, beside the logits."""

    def __init__(self, even=False):
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.even = even

    def forward(self, x):
        if self.even and len(x) % 2:
            raise ValueError("an even number of rows is needed")
        dense = self.dense(x)
        return {"logits": dense.mean((2, 3)), "mask": dense.argmax(1)}


@pytest.mark.parametrize("even", [False, True])
def test_images_of_other_sizes_change_no_rows(even):
    """Batches and images that change together, also where no look can be taken."""
    net, criterion = Sized(even), nn.CrossEntropyLoss()
    attach(net, criterion, layers="dense.1", scheme="photometric", **OPTIONS)
    for images, side in ((4, 6), (3, 8), (4, 8), (2, 4)):
        output = net(torch.rand(images, 3, side, side))
        assert output["mask"].shape == (images, side, side)
        criterion(output["logits"], torch.arange(images)).backward()
    assert attached(net).stats()["missed"] == 0


class Prompted(nn.Module):
    """Compares images with prompts that its caller gives, one a class."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU())

    def forward(self, x, prompts):
        return self.features(x).mean((2, 3)) @ prompts.T


@pytest.mark.parametrize(("images", "views"), [(3, 2), (2, 4), (4, 3)])
def test_an_argument_of_as_many_rows_by_chance_does_not_grow(images, views):
    """As many prompts as rows are classes, not similarities of rows."""
    net, criterion = Prompted(), nn.CrossEntropyLoss()
    attach(net, criterion, num_views=views, **OPTIONS)
    output = net(torch.rand(images, 3, 8, 8), torch.randn(images * views, 7))
    assert output.shape == (images, images * views)
    criterion(output, torch.arange(images)).backward()
    assert attached(net).stats()["criterion_calls"] == 1
