"""Schemes draw what they promise; views are warped and coloured as the method says."""

import math
import random

import kornia.augmentation as K
import numpy as np
import oracle
import pytest
import torch
from kornia.enhance import adjust_brightness, adjust_contrast
from kornia.geometry.transform import warp_affine
from torchvision import transforms
from torchvision.transforms import v2

from dai_plugin import Scheme
from dai_plugin.views.expand import expand, repeat_targets, transform, warp
from dai_plugin.views.normalization import PRESETS, Normalization, from_batch
from dai_plugin.views.schemes import find_scheme

PIXELS = Normalization()
STILL = Scheme(0, 0, 0, 0, 0, 0, 0)


def parameters(rows=1, **values):
    neutral = dict.fromkeys(STILL.draw(1), 0.0) | {
        "flip": 1.0,
        "zoom_x": 1.0,
        "zoom_y": 1.0,
        "contrast": 1.0,
    }
    return {k: torch.full((rows,), v) for k, v in (neutral | values).items()}


def dot(height, width, x, y):
    image = torch.zeros(1, 1, height, width)
    image[0, 0, y, x] = 1
    return image


def where(image):
    """(x, y) of the brightest pixel."""
    index = image.flatten().argmax().item()
    return index % image.shape[-1], index // image.shape[-1]


def views_of(images, num_views=3, scheme="heavier", seed=0, **options):
    options = {"first_view": "augmented", "normalization": PIXELS} | options
    return expand(images, num_views, find_scheme(scheme), seed=seed, **options)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flip": -1.0}, (7, 2)),
        ({"shift_x": 1 / 3}, (4, 2)),  # a third of 9 pixels, to the right
        ({"shift_y": 2 / 7}, (1, 4)),  # down
        ({"rotation": math.pi / 2}, (5, 0)),  # clockwise on the screen
        ({"rotation": math.pi / 2, "flip": -1.0}, (5, 6)),  # flipped, then turned
        ({"zoom_x": 2.0}, (-2, 2)),  # magnified beyond the border
        ({"zoom_y": 2.0}, (1, 1)),
    ],
    ids=str,
)
def test_known_points(values, expected):
    """The centre-based map moves (1, 2) of a 9 x 7 image where it should."""
    matrix = Scheme().matrix(parameters(**values), 7, 9)
    x, y, _ = (matrix[0] @ torch.tensor([1.0, 2.0, 1.0])).tolist()
    assert (x, y) == pytest.approx(expected, abs=1e-4)


def test_a_positive_rotation_turns_clockwise():
    """A point at the top moves to the right of the centre."""
    warped = warp(dot(9, 9, 4, 1), STILL.matrix(parameters(rotation=math.pi / 2), 9, 9))
    assert where(warped) == (7, 4)


def test_flip_with_rotation_keeps_the_shape():
    """A flip is a reflection: distances and areas stay, the orientation turns."""
    matrix = Scheme().matrix(parameters(flip=-1.0, rotation=0.3), 32, 48)[0, :2, :2]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(2), atol=1e-6, rtol=0)
    assert torch.linalg.det(matrix).item() == pytest.approx(-1)


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (1, 5)], ids=str)
def test_warp_agrees_with_the_literal_formula(size):
    """Every pixel comes from where the inverse map says, for H != W too."""
    height, width = size
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    drawn = Scheme().draw(6, generator=torch.Generator().manual_seed(2))
    warped = warp(images, Scheme().matrix(drawn, height, width))
    for row in range(6):
        p = {k: v[row].item() for k, v in drawn.items()}
        matrix = oracle.affine_matrix(
            p["flip"], p["zoom_x"], p["zoom_y"], p["rotation"], p["shear"],
            p["shift_x"] * width, p["shift_y"] * height,
        )  # fmt: skip
        expected = oracle.warp(images[row % 2], matrix)
        got = warped[row // 2, row % 2].double()
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (20, 37)], ids=str)
def test_warp_agrees_with_kornia(size):
    """The matrices mean what they mean to kornia."""
    images = torch.rand(8, 3, *size)
    matrices = Scheme().matrix(Scheme().draw(8), *size)
    ours = warp(images, matrices)[0]
    theirs = warp_affine(images, matrices[:, :2], size, padding_mode="border")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_the_whole_pass_agrees_with_kornias_functions():
    """Its warp, its contrast about the mean of each channel, then its brightness."""
    scheme, images = Scheme(), torch.rand(6, 3, 20, 37)
    drawn = scheme.draw(6)
    ours = torch.empty(1, *images.shape)
    transform(images, scheme, drawn, PIXELS, out=ours)
    maps = scheme.matrix(drawn, 20, 37)[:, :2]
    theirs = warp_affine(images, maps, (20, 37), padding_mode="border")
    # The mean of one channel is that of a grey image; nothing is clipped in between.
    middle = theirs.mean((2, 3), keepdim=True)
    gain = drawn["contrast"]
    scaled = adjust_contrast(theirs - middle, gain, clip_output=False) + middle
    theirs = adjust_brightness(scaled, drawn["brightness"])
    torch.testing.assert_close(ours[0], theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "normalization",
    [
        PIXELS,
        Normalization.given(*PRESETS[3]["ImageNet"]),
        Normalization.given(0.5, 0.5),
    ],
    ids=str,
)
def test_views_follow_the_literal_formulas_in_any_normalisation(normalization):
    """Warp, contrast about the warped mean, brightness, one clip: in pixel space."""
    pixels = torch.rand(2, 3, 8, 11, generator=torch.Generator().manual_seed(3))
    mean, std = normalization.tensors(pixels)
    drawn = Scheme().draw(4, generator=torch.Generator().manual_seed(4))
    out = torch.empty(2, 2, 3, 8, 11)
    transform((pixels - mean) / std, Scheme(), drawn, normalization, out=out)
    for row in range(4):
        p = {k: v[row].item() for k, v in drawn.items()}
        matrix = oracle.affine_matrix(
            p["flip"], p["zoom_x"], p["zoom_y"], p["rotation"], p["shear"],
            p["shift_x"] * 11, p["shift_y"] * 8,
        )  # fmt: skip
        expected = oracle.colour(
            oracle.warp(pixels[row % 2], matrix), p["contrast"], p["brightness"]
        )
        got = (out[row // 2, row % 2] * std + mean).double()
        torch.testing.assert_close(got, expected, atol=3e-5, rtol=0)


def test_ranges_of_each_distribution():
    """Uniform fills the ranges, normal ends at them, extremes lie on them."""
    bounds = {"shift_x": 0.1, "zoom_y": 0.15, "rotation": math.radians(22.5),
              "shear": 0.15, "contrast": 0.5, "brightness": 0.25}  # fmt: skip
    spread = {"uniform": 1 / math.sqrt(3), "normal": 0.4398, "extremes": 1.0}
    for distribution, deviation in spread.items():
        generator = torch.Generator().manual_seed(0)
        drawn = Scheme(distribution=distribution).draw(20000, generator=generator)
        for name, bound in bounds.items():
            centre = 1.0 if name in ("zoom_y", "contrast") else 0.0
            values = (drawn[name] - centre) / bound
            assert values.abs().max() <= 1 + 1e-5
            assert values.mean().abs() < 0.03
            assert values.std().item() == pytest.approx(deviation, abs=0.01)
        assert (drawn["flip"] < 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_halved_is_half_of_heavier_at_the_extremes():
    """The paper's test transformations; a flip stays a coin toss."""
    halved = Scheme.halved()
    assert (halved.rotation, halved.zoom, halved.contrast) == (11.25, 0.075, 0.25)
    assert (halved.flip, halved.distribution) == (0.5, "extremes")
    drawn = halved.draw(100)
    assert set(drawn["contrast"].tolist()) == {0.75, 1.25}
    assert set(drawn["flip"].tolist()) == {-1.0, 1.0}


def test_light_and_photometric():
    """Light moves and leaves the colours; photometric leaves every pixel in place."""
    assert not Scheme.light().colours
    assert not Scheme.photometric().geometric
    image = torch.rand(1, 3, 8, 8)
    brighter = views_of(image, 2, "photometric")[0]
    order = image[0].flatten(1).argsort()
    inside = (brighter > 0) & (brighter < 1)
    assert (brighter.flatten(1).gather(1, order).diff() >= -1e-6).all()
    assert inside.any()
    assert Scheme.heavier(flip=0.0).draw(50)["flip"].eq(1).all()


def test_draws_do_not_depend_on_how_they_are_cut():
    """3 rows and then 5 are the 8 rows of one draw."""
    generator = torch.Generator().manual_seed(5)
    parts = [Scheme().draw(n, generator=generator)["shear"] for n in (3, 5)]
    whole = Scheme().draw(8, generator=torch.Generator().manual_seed(5))["shear"]
    assert torch.equal(torch.cat(parts), whole)


def darker(draw):
    """A scheme of the user's that draws each row's factor by `draw`."""
    return lambda rows: torch.stack([row * draw() for row in rows])


def streams():
    """Where torch's, Python's and numpy's default generators stand."""
    kind, words, *rest = np.random.get_state()
    torch_state = torch.get_rng_state().tolist()
    return torch_state, random.getstate(), (kind, words.tolist(), *rest)


@pytest.mark.parametrize(
    "scheme",
    [
        "heavier",
        K.AugmentationSequential(K.RandomAffine(20.0, p=1.0), K.ColorJiggle(0.2)),
        v2.Compose([v2.RandomRotation(20), v2.ColorJitter(0.3)]),
        transforms.RandomOrder(
            [transforms.ColorJitter(0.4), transforms.RandomRotation(20)]
        ),
        darker(lambda: random.uniform(0.5, 1)),
        darker(lambda: np.random.uniform(0.5, 1)),
        Scheme.light() + darker(lambda: random.random() * np.random.rand()),
    ],
    ids=["built-in", "kornia", "torchvision", "v1", "python", "numpy", "sum"],
)
def test_seed_decides_and_the_global_streams_are_untouched(scheme):
    """Same seed, same views; another seed, others; every row differs."""
    images = torch.rand(4, 3, 16, 16)
    first, before = views_of(images, 3, scheme, seed=1), streams()
    again, other = (views_of(images, 3, scheme, seed=s) for s in (1, 2))
    assert streams() == before
    random.seed(5)
    np.random.seed(5)
    assert torch.equal(first, views_of(images, 3, scheme, seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    one_image = views_of(images[:1].repeat(4, 1, 1, 1), 3, scheme)
    assert len({tuple(row.flatten().tolist()) for row in one_image}) == 12


def test_the_streams_are_put_back_after_an_error():
    """Wherever the scheme raised."""
    images, before = torch.rand(2, 3, 8, 8), streams()

    def scheme(rows):
        raise KeyError(random.random() + np.random.rand() + torch.rand(()).item())

    with pytest.raises(KeyError):
        views_of(images, 2, scheme)
    assert streams() == before


PIPELINES = {
    "affine": K.RandomAffine(15.0, p=1.0),
    "sequential": torch.nn.Sequential(K.RandomAffine(15.0), K.ColorJiggle(0.2)),
    "container": K.AugmentationSequential(
        K.RandomPerspective(), K.RandomGaussianBlur((3, 3), (0.1, 1.0))
    ),
    "crop": v2.RandomResizedCrop(16),
    "compose": v2.Compose([v2.RandomAffine(20), v2.RandomErasing()]),
    "v2 sequential": torch.nn.Sequential(v2.RandomHorizontalFlip(), v2.RandAugment()),
    "function": lambda x: x.flip(3),
}


@pytest.mark.parametrize("scheme", PIPELINES.values(), ids=PIPELINES)
def test_any_pipeline_is_a_scheme(scheme):
    """Kornia and torchvision v2 pipelines see [0, 1] pixels."""
    normalization = Normalization.given(0.5, 0.25)
    images = (torch.rand(4, 3, 16, 16) - 0.5) / 0.25
    rows = views_of(images, 3, scheme, first_view="clean", normalization=normalization)
    assert rows.shape == (12, 3, 16, 16)
    assert torch.equal(rows[:4], images)
    pixels = rows * 0.25 + 0.5
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_rows_are_view_major_and_targets_follow(first_view):
    """Row v * B + i shows image i in view v."""
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8) / 4
    rows = views_of(images, 3, Scheme.light(), first_view=first_view)
    torch.testing.assert_close(rows.mean((1, 2, 3)), torch.arange(4.0).repeat(3) / 4)
    assert repeat_targets(torch.arange(4), 3).tolist() == [0, 1, 2, 3] * 3
    soft = torch.eye(4)
    assert torch.equal(repeat_targets(soft, 2), torch.cat([soft, soft]))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str
)
@pytest.mark.parametrize("scheme", ["light", "heavier", "photometric"])
def test_dtype_and_memory_format_are_kept(dtype, scheme):
    """Views come as the images came, and agree with float32 to the dtype's digits."""
    pixels = torch.rand(3, 3, 8, 8).to(memory_format=torch.channels_last)
    rows = views_of(pixels.to(dtype), 2, scheme)
    assert rows.dtype == dtype
    assert rows.is_contiguous(memory_format=torch.channels_last)
    exact = views_of(pixels, 2, scheme)
    torch.testing.assert_close(rows.float(), exact, atol=0.01, rtol=0)


def test_clean_first_view_is_the_batch_bit_for_bit():
    """Values outside [0, 1] (random erasing's noise) survive in the clean view."""
    images = torch.randn(4, 3, 8, 8) * 3
    rows = views_of(images, 2, first_view="clean")
    assert torch.equal(rows[:4], images)
    assert views_of(images, 1, first_view="clean") is images


@pytest.mark.parametrize(
    ("channels", "mean", "std", "name"),
    [
        (3, 0.0, 1.0, "lies in"),
        (3, 0.5, 0.5, "half"),
        (3, *PRESETS[3]["ImageNet"], "ImageNet"),
        (3, *PRESETS[3]["CIFAR-10"], "CIFAR-10"),
        (3, *PRESETS[3]["CIFAR-100"], "CIFAR-100"),
        (1, *PRESETS[1]["MNIST"], "MNIST"),
        (1, 0.5, 0.5, "half"),
    ],
    ids=str,
)
def test_the_first_batch_tells_the_normalisation(channels, mean, std, name):
    """A batch that reaches black and white in each channel is recognised."""
    pixels = torch.rand(8, channels, 16, 16)
    pixels[0], pixels[1] = 0, 1
    mean, std = Normalization.given(mean, std).tensors(pixels)
    assert name in from_batch((pixels - mean) / std).source
