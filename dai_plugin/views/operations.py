"""The operations that automatic augmentation draws from, on rows of one batch.

Each takes rows `[n, C, H, W]` of [0, 1] pixels and a level for each, from -1 to 1; what
a level means stands in `Strengths`. Geometry is bilinear, with black beyond the border.
Colours are those of PIL, by kornia's functions where these are as fast on few rows as
what is written out here: sharpness, posterize and equalize are two to six times faster,
and auto_contrast leaves a channel of one value alone, as PIL does.
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
    if not groups:
        return
    # What moves pixels comes last, to be one resampling of all such rows.
    sequence = sorted(groups, key=MAPS.__contains__)
    sizes = [len(groups[name]) for name in sequence]
    order = torch.tensor([place for name in sequence for place in groups[name]])
    sorted_levels = levels[order].float().to(rows.device, non_blocking=True)
    order = order.to(rows.device, non_blocking=True)
    split = zip(
        sequence,
        torch.split(order, sizes),
        torch.split(rows.index_select(0, order), sizes),
        torch.split(sorted_levels, sizes),
        strict=True,
    )
    moving = []
    for name, places, part, level in split:
        if name in MAPS:
            moving.append((places, part, MAPS[name](level, strengths, *rows.shape[2:])))
        else:
            rows.index_copy_(0, places, OPERATIONS[name](part, level, strengths))
    if moving:
        places, parts, maps = (torch.cat(each) for each in zip(*moving, strict=True))
        rows.index_copy_(0, places, moved(parts, maps))


def moved(rows: Tensor, maps: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Rows under affine maps `[n, 2, 3]` from output to input, in [-1, 1]."""
    height, width = rows.shape[2:]
    x, y = (
        (torch.arange(side, dtype=maps.dtype, device=maps.device) * 2 + 1) / side - 1
        for side in (width, height)
    )
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

    if rows.shape[1] != 3:
        return rows
    return adjust_saturation_with_gray_subtraction(rows, _factor(level, s))


def _sharpness(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    if min(rows.shape[2:]) < 3:  # no pixel has eight neighbours
        return rows
    inner = rows[..., 1:-1, 1:-1]
    three = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    smooth = torch.add(nine, inner, alpha=4) / 13
    factor = _factor(level, s)[:, None, None, None]
    changed = rows.clone()
    changed[..., 1:-1, 1:-1] = torch.lerp(smooth, inner, factor).clamp(0, 1)
    return changed


def _factor(level: Tensor, s: Strengths) -> Tensor:
    return (1 + level * s.colour).clamp(min=0)


def _hue(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import adjust_hue

    turn = level * (2 * math.pi * s.hue)
    return adjust_hue(rows, turn) if rows.shape[1] == 3 else rows


def _grey(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(rows).expand_as(rows) if rows.shape[1] == 3 else rows


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
    bits = (s.bits[0] + level.abs() * (s.bits[1] - s.bits[0])).round()
    step = torch.exp2(8 - bits)[:, None, None, None]
    return ((rows * 255).round() / step).floor() * (step / 255)


def _solarize(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    from kornia.enhance import solarize

    return solarize(rows, 1 - level.abs())


def _auto_contrast(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    low = rows.amin((2, 3), keepdim=True)
    span = rows.amax((2, 3), keepdim=True) - low
    flat = span == 0
    return torch.where(flat, rows, (rows - low) / span.masked_fill(flat, 1))


def _equalize(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    """As PIL: of 256 levels each goes to the share of the pixels below it."""
    index = (rows * 255).round().long().flatten(2)
    counts = rows.new_zeros(*rows.shape[:2], 256)
    counts.scatter_add_(2, index, rows.new_ones(()).expand_as(index))
    highest = counts.gather(2, index.amax(2, keepdim=True))
    step = ((index.shape[2] - highest) / 255).floor()
    below = counts.cumsum(2) - counts + (step / 2).floor()
    table = (below / step.clamp(min=1)).floor().clamp(max=255) / 255
    changed = table.gather(2, index).view_as(rows)
    return torch.where(step[..., None] == 0, rows, changed)


def _invert(rows: Tensor, level: Tensor, s: Strengths) -> Tensor:
    return 1 - rows


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
