"""One transformation alone: what it does to pixels, and which values it may have."""

import math
import random

import oracle
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from conftest import SmallNet

from dai_plugin import Scheme, measure
from dai_plugin.measures.data import Batch
from dai_plugin.measures.layer_measures import follow
from dai_plugin.measures.strengths import GRIDS, KINDS, Strength
from dai_plugin.views.normalization import Normalization

PIXELS = Normalization()
CARRIED = Normalization.given((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def drawn(name, count=3, seed=0):
    """Values that a transformation may have, other ones for each seed."""
    draw = random.Random(f"{name} {seed}")
    if name == "flip":
        return (1.0, 0.0)
    low, high = min(GRIDS[name]), max(GRIDS[name])
    return tuple(draw.uniform(low, high) for _ in range(count))


def images(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    draw = random.Random(seed)
    sides = draw.randint(7, 11), draw.randint(7, 11)
    return torch.rand(count, 3, *sides, generator=generator)


def made(name, values, pixels, carried=PIXELS, start=0):
    """The versions of images with these pixels."""
    (series,) = Strength({name: values}).series(torch.nn.Identity(), 0)
    batch = Batch(start, carried.carry(pixels, pixels), pixels, None)
    return series, list(series.source.versions(batch, carried))


def literal(name, value, image):
    """The oracle's warp and colours, pixel by pixel in float64."""
    still = {"flip": 1.0, "zoom_x": 1.0, "zoom_y": 1.0}
    still |= {"rotation": 0.0, "shear": 0.0, "shift_x": 0.0, "shift_y": 0.0}
    moved = {
        "rotation": {"rotation": math.radians(value)},
        "zoom": {"zoom_x": value, "zoom_y": value},
        "translation": {"shift_x": value * image.shape[2]},
        "shear": {"shear": math.radians(value)},
        "flip": {"flip": 1.0 - 2 * value},
    }
    if name == "contrast":
        return oracle.colour(image, value, 0.0)
    if name == "brightness":
        return oracle.colour(image, 1.0, value)
    return oracle.warp(image, oracle.affine_matrix(**still | moved[name]))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_versions_are_the_literal_transformation(name, seed):
    pixels, values = images(seed), drawn(name, seed=seed)
    series, versions = made(name, values, pixels)
    assert series.name == f"strength:{name}"
    assert (series.axis.name, series.axis.values) == (name, values)
    for number, (value, version) in enumerate(zip(values, versions, strict=True)):
        assert version.number == number
        expected = torch.stack([literal(name, value, image) for image in pixels])
        torch.testing.assert_close(version.images.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", KINDS)
def test_the_normalisation_changes_nothing(name):
    """[0, 1] pixels are transformed, whatever they come in."""
    pixels, values = images(3), drawn(name)
    _, plain = made(name, values, pixels)
    _, carried = made(name, values, pixels, CARRIED)
    for one, other in zip(plain, carried, strict=True):
        expected = CARRIED.carry(one.images, pixels)
        torch.testing.assert_close(other.images, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_changes_nothing_leaves_images_to_the_bit(name, dtype):
    pixels = images(1).to(dtype)
    _, versions = made(name, GRIDS[name], pixels)
    place = GRIDS[name].index(KINDS[name].nothing)
    for number, version in enumerate(versions):
        assert version.images.dtype == dtype
        assert torch.equal(version.images, pixels) == (number == place)


def test_directions_are_torchvisions():
    """Rotations go clockwise, translations to the right, zooms magnify."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, 32, mode="bilinear")
    affine = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    cases = {
        "rotation": (20.0, {"angle": 20.0}),
        "zoom": (1.3, {"scale": 1.3}),
        "translation": (0.125, {"translate": [4, 0]}),
    }
    for name, (value, change) in cases.items():
        _, (version,) = made(name, [value], pixels)
        bilinear = TF.InterpolationMode.BILINEAR
        expected = TF.affine(pixels, **affine | change, interpolation=bilinear)
        middle = (slice(None), slice(None), slice(10, 22), slice(10, 22))
        torch.testing.assert_close(
            version.images[middle], expected[middle], rtol=0, atol=1e-4
        )
    _, (flipped,) = made("flip", [1], pixels)
    torch.testing.assert_close(flipped.images, pixels.flip(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_batches_change_nothing(name):
    pixels, values = images(5, 7), drawn(name)
    _, whole = made(name, values, pixels)
    sizes = (1, 4, 2)
    parts = [made(name, values, part)[1] for part in pixels.split(sizes)]
    for k, version in enumerate(whole):
        together = torch.cat([part[k].images for part in parts])
        torch.testing.assert_close(version.images, together, rtol=0, atol=1e-6)


def test_maps_follow():
    """The parameters tell how a feature map moves: a map of the pixels is theirs."""
    pixels = images(2)
    for name in KINDS:
        _, versions = made(name, GRIDS[name], pixels)
        for value, version in zip(GRIDS[name], versions, strict=True):
            moved = follow(pixels, version, torch.arange(len(pixels)))
            still = name in ("contrast", "brightness")
            expected = pixels if still else version.images
            assert (
                value == KINDS[name].nothing
                or torch.equal(moved, expected)
                or ((moved - expected).abs().max() < 1e-5)
            )


def test_measures_lie_along_the_grid():
    """A curve for each measure, 1 where nothing changes."""
    torch.manual_seed(0)
    net, pixels = SmallNet(), torch.rand(9, 3, 12, 12)
    found = measure(
        net,
        pixels.split(4),
        measures=["layers", "output", Strength({"rotation": (-90, 0, 20)})],
        num_transforms=1,
        mean=0.0,
        std=1.0,
    )
    tables = found.tables["strength:rotation"]
    assert found.axes["strength:rotation"].values == (-90.0, 0.0, 20.0)
    assert tables["consistency"]["output"].shape == (9, 3)
    assert tables["consistency"]["output"][:, 1].all()
    for layer, scores in tables["score"].items():
        assert scores.shape == (3,)
        assert scores[1] == 1, layer
        assert scores[0] < 1
    assert tables["equivariance"]["input"][1] == 1
    assert (tables["equivariance"]["input"] > 0.999).all()


def test_default_grids_hold_what_changes_nothing():
    names = [series.name for series in Strength().series(torch.nn.Identity(), 0)]
    assert names == [f"strength:{name}" for name in KINDS]
    heavier = Scheme.heavier()
    for name, grid in GRIDS.items():
        assert list(grid) == sorted(grid)
        assert KINDS[name].nothing in grid
        if name in ("rotation", "translation", "brightness"):
            assert max(grid) >= getattr(heavier, name)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({"blur": (1,)}, "some of rotation, zoom, .*, brightness, got 'blur'"),
        ({}, "some of rotation, zoom, .*, brightness, got none"),
        ({"rotation": ()}, r"'rotation' must hold numbers from -360 to 360, got \[\]"),
        ({"zoom": (1, 0)}, "'zoom' must hold numbers from 0.01 to 100, got"),
        ({"shear": (math.nan,)}, "'shear' must hold numbers from -89 to 89, got .nan"),
        ({"flip": (0.5,)}, r"'flip' must hold numbers 0 or 1, got \[0.5\]"),
    ],
)
def test_what_does_not_fit_is_refused(grids, message):
    with pytest.raises(ValueError, match=message):
        Strength(grids)
