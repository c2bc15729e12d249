"""Operations of automatic augmentation: torchvision's, on rows of their own levels."""

import math

import kornia.enhance as E
import pytest
import torch
from kornia.color import rgb_to_grayscale
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from dai_plugin.views.operations import MAPS, OPERATIONS, Strengths, perform_

STRENGTHS = Strengths(hue=0.2, pixels=0.0)
LEVELS = [-1.0, -0.4, 0.0, 0.3, 1.0]


def smooth(rows=5, channels=3, height=18, width=24):
    """Eight-bit pixels that a resampling changes little."""
    coarse = torch.rand(rows, channels, 3, 4)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine * 255).round() / 255


def affine(image, shear=(0.0, 0.0), translate=(0, 0), center=None):
    return F.affine(
        image, 0.0, list(translate), 1.0, [math.degrees(math.atan(s)) for s in shear],
        interpolation=InterpolationMode.BILINEAR, center=center,
    )  # fmt: skip


# What torchvision's automatic augmentation does to one image at a level.
EXPECTED = {
    "brightness": lambda x, v: F.adjust_brightness(x, 1 + 0.9 * v),
    "contrast": lambda x, v: F.adjust_contrast(x, 1 + 0.9 * v),
    "color": lambda x, v: F.adjust_saturation(x, 1 + 0.9 * v),
    "sharpness": lambda x, v: F.adjust_sharpness(x, 1 + 0.9 * v),
    "hue": lambda x, v: F.adjust_hue(x, 0.2 * v),
    "solarize": lambda x, v: F.solarize(x, 1 - abs(v)),
    "auto_contrast": lambda x, v: F.autocontrast(x),
    "equalize": lambda x, v: F.equalize(x),
    "invert": lambda x, v: F.invert(x),
    "grey": lambda x, v: F.rgb_to_grayscale(x, 3),
    "posterize": lambda x, v: (
        F.posterize((x * 255).round().byte(), round(8 - 4 * abs(v))) / 255
    ),
    "blur": lambda x, v: F.gaussian_blur(x, [3, 3], [0.1 + 1.9 * abs(v)]),
    "rotate": lambda x, v: F.rotate(x, 30 * v, InterpolationMode.BILINEAR),
    "shear_x": lambda x, v: affine(x, shear=(0.3 * v, 0), center=[0, 0]),
    "shear_y": lambda x, v: affine(x, shear=(0, 0.3 * v), center=[0, 0]),
}


def test_every_operation_is_compared():
    """Translations by themselves, as torchvision's shift by whole pixels."""
    assert {*OPERATIONS, *MAPS} == {*EXPECTED, "translate_x", "translate_y"}


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_are_changed_as_torchvision_changes_images(name):
    """Each by its own level; the signs of levels are drawn, so that either will do."""
    images = smooth()
    images[2, 1] = 0.6  # a channel of one value
    rows = images.clone()
    perform_(rows, [name] * 5, torch.tensor(LEVELS), STRENGTHS)
    for row, image, level in zip(rows, images, LEVELS, strict=True):
        errors = [
            (row - EXPECTED[name](image, sign * level)).abs()
            for sign in ((1, -1) if name in MAPS else (1,))
        ]
        # Where a border is cut between two pixels the two round differently.
        typical = min(error.quantile(0.9).item() for error in errors)
        assert typical < (
            2e-3 if name in MAPS else 1.01 / 255 if name == "hue" else 1e-4
        )
        if name not in (*MAPS, "hue"):
            assert errors[0].max() < 1e-4


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 2), ("translate_y", 1)])
@pytest.mark.parametrize("pixels", [0, 3])
def test_translations_are_fractions_of_the_side_and_pixels(name, axis, pixels):
    """A third of the side, and pixels on top; black follows."""
    images = smooth(1)
    strengths = Strengths(translation=1 / 3, pixels=pixels)
    rows = images.clone()
    perform_(rows, [name], torch.ones(1), strengths)
    by = images.shape[axis + 1] // 3 + pixels
    expected = images[0].roll(-by, axis)
    expected.narrow(axis, images.shape[axis + 1] - by, by).zero_()
    torch.testing.assert_close(rows[0], expected, atol=1e-5, rtol=0)


def test_each_row_gets_its_own_operation():
    """Mixed rows are what each operation makes of its row alone."""
    names = ["identity", *OPERATIONS, *MAPS, "identity", *OPERATIONS]
    images = smooth(len(names))
    levels = torch.rand(len(names)) * 2 - 1
    rows = images.clone()
    perform_(rows, names, levels, STRENGTHS)
    for i, name in enumerate(names):
        alone = images[i : i + 1].clone()
        perform_(alone, [name], levels[i : i + 1], STRENGTHS)
        torch.testing.assert_close(rows[i], alone[0], atol=1e-5, rtol=0)
    assert torch.equal(rows[0], images[0])


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 14)])
def test_what_is_quicker_than_kornia_is_the_same(height, width):
    """Sharpness and posterize, written out anew."""
    images, levels = smooth(6, 3, height, width), torch.linspace(-1, 1, 6)
    rows = images.clone()
    perform_(rows, ["sharpness"] * 6, levels, STRENGTHS)
    expected = E.sharpness(images, 1 + 0.9 * levels)
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)
    rows = images.clone()
    perform_(rows, ["posterize"] * 6, levels, STRENGTHS)
    bits = (8 - 4 * levels.abs()).round().int()
    torch.testing.assert_close(rows, E.posterize(images, bits), atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", [*OPERATIONS, *MAPS])
def test_any_number_of_channels(name, channels):
    """Hue, saturation and grey need three, and leave others as they are."""
    images = smooth(2, channels)
    rows = images.clone()
    perform_(rows, [name] * 2, torch.tensor([0.7, -0.7]), STRENGTHS)
    assert rows.isfinite().all()
    assert torch.equal(rows, images) == (name in ("hue", "color", "grey"))


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("name", [*OPERATIONS, *MAPS])
def test_tiny_images(name, side):
    """Nothing needs a neighbour that is not there."""
    rows = torch.rand(2, 3, side, side)
    perform_(rows, [name] * 2, torch.tensor([0.7, -0.7]), STRENGTHS)
    assert rows.isfinite().all()


@pytest.mark.parametrize(
    "name", ["contrast", "color", "sharpness", "rotate", "shear_x", "auto_contrast"]
)
def test_gradients_pass(name):
    """To the rows that are changed, and finite where a channel is flat."""
    images = torch.rand(3, 3, 6, 6)
    images[0, 0] = 0.5
    images.requires_grad_()
    rows = images.clone()
    perform_(rows, [name] * 3, torch.full((3,), 0.3), STRENGTHS)
    rows.square().sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


def test_grey_is_kornias():
    """The weights of the channels are PIL's."""
    images = smooth(2)
    rows = images.clone()
    perform_(rows, ["grey"] * 2, torch.ones(2), STRENGTHS)
    torch.testing.assert_close(rows, rgb_to_grayscale(images).expand(-1, 3, -1, -1))
