"""The operations that automatic augmentation draws from, on rows of one batch.

Each takes rows `[n, C, H, W]` of [0, 1] pixels and a level for each, from -1 to 1; what
a level means stands in `Strengths`. Colours are those of PIL, as kornia's `enhance`
computes them for rows at strengths of their own; geometry is bilinear, with black
beyond the border.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Operation = Callable[[Tensor, Tensor, "Strengths"], Tensor]
Maps = Callable[[Tensor, "Strengths", int, int], Tensor]


@dataclass(frozen=True)
class Strengths:
    """What operations do at level 1; in between they change in proportion.

    Attributes:
        shear: tangent of the angle.
        translation: fraction of the width or height.
        pixels: the translation in pixels, on top of that.
        rotation: degrees.
        colour: how far the factors of brightness, contrast, saturation and sharpness
            lie from 1.
        hue: turns of the colour circle.
        bits: that posterize leaves at level 0 and at level 1.
        sigma: of the blur in pixels, at level 0 and at level 1.
    """

    shear: float = 0.3
    translation: float = 150 / 331
    pixels: float = 0.0
    rotation: float = 30.0
    colour: float = 0.9
    hue: float = 0.0
    bits: tuple[int, int] = (8, 4)
    sigma: tuple[float, float] = (0.1, 2.0)

    def shown(self, low: float, high: float) -> str:
        """What the operations of automatic augmentation do at levels in a range."""

        def span(value: float, unit: str = "") -> str:
            ends = dict.fromkeys(f"{value * level:.3g}" for level in (low, high))
            return "+-" + " to ".join(ends) + unit

        way = span(self.translation, " of the side") if self.translation else ""
        way += span(self.pixels, " pixels") if self.pixels else ""
        bits = dict.fromkeys(f"{self._bits(level):g}" for level in (low, high))
        return (
            f"shear {span(self.shear)}, translation {way}, "
            f"rotation {span(self.rotation, ' deg')}, colours 1 {span(self.colour)}, "
            f"posterize to {' to '.join(bits)} bits, solarize above {1 - high:.3g}"
        )

    def _bits(self, level: float) -> int:
        return round(self.bits[0] + level * (self.bits[1] - self.bits[0]))


def perform_(
    rows: Tensor, names: Sequence[str], levels: Tensor, strengths: Strengths
) -> None:
    """Applies to each row the operation of its own, in place.

    Rows of one operation are changed together.

    Args:
        rows: `[n, C, H, W]`.
        names: of the operations, one a row; "identity" leaves it as it is.
        levels: `[n]`, on the CPU, where the rows are sorted without waiting.
        strengths: of all.
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    groups.pop("identity", None)
    order = torch.tensor([place for places in groups.values() for place in places])
    if not len(order):
        return
    sizes = [len(places) for places in groups.values()]
    sorted_levels = levels[order].float().to(rows.device, non_blocking=True)
    order = order.to(rows.device, non_blocking=True)
    moving: list[Tensor] = []
    maps: list[Tensor] = []
    for name, places, level in zip(
        groups,
        torch.split(order, sizes),
        torch.split(sorted_levels, sizes),
        strict=True,
    ):
        if name in MAPS:  # what moves pixels is one resampling of all such rows
            moving.append(places)
            maps.append(MAPS[name](level, strengths, *rows.shape[2:]))
        else:
            changed = OPERATIONS[name](rows.index_select(0, places), level, strengths)
            rows.index_copy_(0, places, changed)
    if moving:
        places = torch.cat(moving)
        changed = moved(rows.index_select(0, places), torch.cat(maps))
        rows.index_copy_(0, places, changed)


def moved(rows: Tensor, maps: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Rows under affine maps `[n, 2, 3]` from output to input, in [-1, 1]."""
    height, width = rows.shape[2:]
    x = (torch.arange(width, device=rows.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=rows.device) * 2 + 1) / height - 1
    # Positions are complex numbers x + i y, as in the fused pass of `Scheme`.
    across, down, origin = (
        torch.complex(*part.unbind(1))[:, None, None] for part in maps.unbind(2)
    )
    grid = torch.view_as_real(across * x + (down * y[:, None] + origin))
    return F.grid_sample(rows, grid, padding_mode=padding_mode, align_corners=False)


def _shear_x(level: Tensor, s: Strengths, height: int, width: int) -> Tensor:
    # About the upper left corner, as in the papers' code.
    by, zero, one = level * (s.shear * height / width), *_ends(level)
    return torch.stack((one, by, by, zero, one, zero), 1).view(-1, 2, 3)


def _shear_y(level: Tensor, s: Strengths, height: int, width: int) -> Tensor:
    by, zero, one = level * (s.shear * width / height), *_ends(level)
    return torch.stack((one, zero, zero, by, one, by), 1).view(-1, 2, 3)


def _translate_x(level: Tensor, s: Strengths, height: int, width: int) -> Tensor:
    by, zero, one = level * (2 * (s.translation + s.pixels / width)), *_ends(level)
    return torch.stack((one, zero, by, zero, one, zero), 1).view(-1, 2, 3)


def _translate_y(level: Tensor, s: Strengths, height: int, width: int) -> Tensor:
    by, zero, one = level * (2 * (s.translation + s.pixels / height)), *_ends(level)
    return torch.stack((one, zero, zero, zero, one, by), 1).view(-1, 2, 3)


def _rotate(level: Tensor, s: Strengths, height: int, width: int) -> Tensor:
    angle, zero = level * math.radians(s.rotation), torch.zeros_like(level)
    cos, sin, aspect = torch.cos(angle), torch.sin(angle), height / width
    entries = (cos, sin * -aspect, zero, sin / aspect, cos, zero)
    return torch.stack(entries, 1).view(-1, 2, 3)


def _ends(level: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(level), torch.ones_like(level)


def _brightness(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import adjust_brightness_accumulative

    return adjust_brightness_accumulative(rows, _factor(level, s))


def _contrast(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import adjust_contrast_with_mean_subtraction

    return adjust_contrast_with_mean_subtraction(rows, _factor(level, s))


def _saturation(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import adjust_saturation_with_gray_subtraction

    if not _coloured(rows):
        return rows
    return adjust_saturation_with_gray_subtraction(rows, _factor(level, s))


def _sharpness(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    if min(rows.shape[2:]) < 3:  # no pixel has eight neighbours
        return rows
    # kornia's, in sums of lines and columns: a tenth of its convolution's time.
    inner = rows[..., 1:-1, 1:-1]
    three = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    smooth = torch.add(nine, inner, alpha=4) / 13
    factor = _factor(level, s)[:, None, None, None]
    changed = rows.clone()
    changed[..., 1:-1, 1:-1] = torch.lerp(smooth, inner, factor).clamp(0, 1)
    return changed


def _hue(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import adjust_hue

    return adjust_hue(rows, level * (2 * math.pi * s.hue)) if _coloured(rows) else rows


def _grey(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(rows).expand_as(rows) if _coloured(rows) else rows


def _blur(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.filters import gaussian_blur2d

    low, high = s.sigma
    sigma = (low + (high - low) * level.abs())[:, None].expand(-1, 2)
    # An odd number of pixels near a tenth of the side, as in SimCLR.
    sides = [max(3, side // 10 // 2 * 2 + 1) for side in rows.shape[2:]]
    if min(rows.shape[2:]) < 2:
        return rows
    return gaussian_blur2d(rows, (sides[0], sides[1]), sigma, border_type="reflect")


def _posterize(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    # kornia's, in a fourth of its time.
    bits = (s.bits[0] + level.abs() * (s.bits[1] - s.bits[0])).round()
    step = torch.exp2(8 - bits)[:, None, None, None]
    return ((rows * 255).round() / step).floor() * (step / 255)


def _solarize(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import solarize

    return solarize(rows, 1 - level.abs())


def _auto_contrast(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    # kornia's turns a channel of one value black, PIL's leaves it alone.
    low = rows.amin((2, 3), keepdim=True)
    span = rows.amax((2, 3), keepdim=True) - low
    flat = span == 0
    return torch.where(flat, rows, (rows - low) / span.masked_fill(flat, 1))


def _equalize(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import equalize

    return equalize(_eight_bits(rows))


def _invert(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    return 1 - rows


def _factor(level: Tensor, s: Strengths) -> Tensor:
    return (1 + level * s.colour).clamp(min=0)


def _eight_bits(rows: Tensor) -> Tensor:
    # kornia cuts off what follows the level, which a normalisation has rounded.
    return (rows * 255).round() / 255


def _coloured(rows: Tensor) -> bool:
    return rows.shape[1] == 3


# By the names that kornia's policies use.
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "color": _saturation,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "invert": _invert,
    "hue": _hue,
    "grey": _grey,
    "blur": _blur,
}

# From output to input, in [-1, 1] coordinates.
MAPS: dict[str, Maps] = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
