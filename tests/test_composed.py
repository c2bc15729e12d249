"""Sums of schemes: in turn, under the rules of each part."""

import dataclasses
import json

import kornia.augmentation as K
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from dai_plugin import AugMix, RandAugment, Scheme, Settings, SimCLR, attach
from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import expand
from dai_plugin.views.normalization import PRESETS, Normalization
from dai_plugin.views.schemes import find_scheme, flips, moves_pixels
from dai_plugin.views.warp import transform

PIXELS = Normalization()
COLOURS = Scheme.photometric()


def rows_of(images, scheme, num_views=3, seed=0, known=PIXELS, **options):
    return expand(
        images, num_views, find_scheme(scheme), first_view="augmented",
        normalization=known, seed=seed, **options,
    )  # fmt: skip


def halves(images):
    return images * 0.5


def below(images):
    return images - images.amax((1, 2, 3), keepdim=True) * 0.25


@pytest.mark.parametrize(
    "known", [PIXELS, Normalization.given(*PRESETS[3]["ImageNet"])]
)
def test_parts_run_in_their_order(known):
    """Each on the pixels that the one before it returned."""
    mean, std = known.tensors(torch.zeros(1, 3, 1, 1))
    images = torch.rand(2, 3, 6, 6)
    still = Scheme(0, 0, 0, 0, 0, 0, 0)
    rows = rows_of((images - mean) / std, still + halves + below, 2, known=known)
    expected = below(halves(images)).repeat(2, 1, 1, 1)
    torch.testing.assert_close(rows * std + mean, expected, atol=1e-5, rtol=0)
    other = rows_of((images - mean) / std, below + still + halves, 2, known=known)
    expected = halves(below(images)).repeat(2, 1, 1, 1)
    torch.testing.assert_close(other * std + mean, expected, atol=1e-5, rtol=0)


def test_our_pass_within_a_sum_is_the_pass_alone():
    """The same map and colours for the same numbers, at each row its own."""
    images = torch.rand(2, 3, 9, 9)
    before = torch.get_rng_state()
    summed = rows_of(images, Scheme.heavier() + halves, seed=8)
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(8)
        drawn = Scheme.heavier().draw(6)
    out = torch.empty(3, 2, 3, 9, 9)
    transform(images, Scheme.heavier(), drawn, PIXELS, out=out)
    torch.testing.assert_close(summed, out.flatten(0, 1) * 0.5, atol=1e-6, rtol=0)


SUMS = {
    "ours and kornia": lambda: Scheme.heavier() + K.RandomErasing(p=1.0),
    "kornia and ours": lambda: K.RandomErasing(p=1.0) + Scheme.heavier(),
    "named": lambda: RandAugment() + AugMix(),
    "named and function": lambda: SimCLR() + halves,
    "torchvision": lambda: COLOURS + v2.RandomErasing(p=1.0),
    "three": lambda: Scheme.light() + K.ColorJiggle(0.2) + RandAugment(),
}


@pytest.mark.parametrize("name", SUMS)
def test_the_seed_alone_decides(name):
    """As with every scheme; rows differ."""
    images = torch.rand(2, 3, 12, 12)
    scheme = SUMS[name]()
    first = rows_of(images, scheme, seed=1, check=True)
    assert torch.equal(first, rows_of(images, scheme, seed=1))
    assert not torch.equal(first, rows_of(images, scheme, seed=2))
    assert not torch.equal(first[:2], first[2:4])


@pytest.mark.parametrize("name", SUMS)
def test_it_trains(net, batch, name):
    """Two lines and a step."""
    images, targets = batch
    scheme = SUMS[name]()
    net, criterion = attach(
        net, nn.CrossEntropyLoss(), scheme=scheme, mean=0.0, std=1.0
    )
    criterion(net(images), targets).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gradients_reach_the_images():
    """Through all parts."""
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    rows_of(images, Scheme.heavier() + halves + RandAugment()).sum().backward()
    assert images.grad.abs().sum() > 0


def test_sums_are_flat_and_print_their_parts():
    """However they are bracketed."""
    erase = K.RandomErasing()
    one = (COLOURS + erase) + RandAugment()
    assert one == COLOURS + (erase + RandAugment())
    assert one.parts == (COLOURS, erase, RandAugment())
    assert str(one) == f"{COLOURS}, then {erase}, then {RandAugment()}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.parts = ()


REFUSED = {
    "mixup": (lambda: COLOURS + K.RandomMixUpV2(), ValueError, "RandomMixUpV2, which"),
    "mosaic": (lambda: K.RandomMosaic() + COLOURS, ValueError, "RandomMosaic, which"),
    "normalize": (
        lambda: RandAugment() + v2.Normalize([0.5], [0.5]), ValueError, "Normalize"),
    "same": (
        lambda: COLOURS + K.RandomAffine(9.0, same_on_batch=True), ValueError, "same"),
    "name": (lambda: COLOURS + "randaugment", TypeError, "what is added must be a"),
    "number": (lambda: 1 + COLOURS, TypeError, "a scheme plus 1: what is added"),
    "given": (lambda: COLOURS + find_scheme("given"), TypeError, "what is added must"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_each_part_is_looked_at(name):
    """What is no scheme alone is none in a sum."""
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("scheme", "moves", "mirrors"),
    [
        (COLOURS + K.ColorJiggle(0.1), False, False),
        (COLOURS + K.RandomAffine(9.0), True, False),
        (COLOURS + RandAugment(), True, False),
        (K.ColorJiggle(0.1) + Scheme.light(), True, True),
        (COLOURS + SimCLR(), True, True),
    ],
    ids=str,
)
def test_a_sum_moves_pixels_if_a_part_does(scheme, moves, mirrors):
    """Dense targets are refused, flips are told."""
    assert moves_pixels(scheme) == moves
    assert flips(scheme) == mirrors


def test_settings_hold_sums_of_our_own():
    """Others refuse, as callables do."""
    scheme = Scheme.heavier(flip=0.0) + RandAugment(3) + SimCLR()
    plain = json.loads(json.dumps(Settings(scheme=scheme).to_json()))
    assert Settings.from_json(plain).scheme == scheme
    with pytest.raises(TypeError, match="is no plain value"):
        Settings(scheme=scheme + nn.Identity()).to_json()


def test_a_part_that_changes_the_shape_is_named():
    """The part, not the sum."""
    with pytest.raises(ValueError, match=r"<lambda>.*must keep the shape"):
        rows_of(torch.rand(2, 3, 4, 4), COLOURS + (lambda x: x[:1]))


def test_torchvision_goes_image_by_image():
    """As it does alone."""
    assert "image by image" in str(Composed((COLOURS, v2.RandomHorizontalFlip())))
