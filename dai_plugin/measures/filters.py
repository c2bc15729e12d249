"""Blurs and zooms of `[N, C, H, W]` images: pure functions."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# How an image goes on outside: its edge pixel, its mirror image with that pixel twice
# (d c b a | a b c d) or with that pixel once (d c b | a b c d).
Border = Literal["edge", "symmetric", "reflect"]


def inside(index: Tensor, size: int, border: Border) -> Tensor:
    """The pixels of `[0, size)` that any whole numbers stand for."""
    if border == "edge" or size == 1:
        return index.clamp(0, size - 1)
    if border == "symmetric":
        index = index % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    index = index % (2 * size - 2)
    return torch.minimum(index, 2 * size - 2 - index)


def gaussian(
    images: Tensor, sigma: float, *, truncate: float = 4, border: Border = "edge"
) -> Tensor:
    """A Gaussian blur of any `[..., H, W]`, cut off at `truncate * sigma` pixels."""
    radius = int(truncate * sigma + 0.5)
    if not radius:
        return images
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma).double() ** 2)
    return separable(images, weights / weights.sum(), border)


def separable(images: Tensor, weights: Tensor, border: Border) -> Tensor:
    """Correlates both axes with the same odd number of weights."""
    height, width = images.shape[-2:]
    reach = len(weights) // 2
    rows, columns = (_band(n, weights, border).to(images) for n in (height, width))
    parts = [rows[o, i] @ images[..., i, :] for o, i in _blocks(height, reach)]
    images = torch.cat(parts, -2)
    parts = [images[..., i] @ columns[o, i].T for o, i in _blocks(width, reach)]
    return torch.cat(parts, -1)


def _blocks(side: int, reach: int) -> Iterator[tuple[slice, slice]]:
    """Stretches of an axis, and where the pixels lie that they are made of."""
    for start in range(0, side, 64):
        stop = min(start + 64, side)
        yield slice(start, stop), slice(max(start - reach, 0), stop + reach)


def _band(size: int, weights: Tensor, border: Border) -> Tensor:
    """The `[size, size]` matrix of a correlation along one axis, borders folded in."""
    radius = len(weights) // 2
    pixels = torch.arange(size)[:, None]
    taken = inside(pixels + torch.arange(-radius, radius + 1), size, border)
    band = weights.new_zeros(size, size)
    band.scatter_add_(1, taken, weights.expand(size, -1))
    return band


def disk(radius: float, sigma: float) -> Tensor:
    """The kernel of a lens out of focus: a disk, softened at its rim, in float64."""
    reach, softening = (8, 1) if radius <= 8 else (int(radius), 2)
    squares = torch.arange(-reach, reach + 1).double() ** 2
    within: Tensor = squares[:, None] + squares <= radius**2
    kernel = within.double()
    offsets = torch.arange(-softening, softening + 1)
    weights = torch.exp(-0.5 * (offsets / sigma).double() ** 2)
    return separable(kernel / kernel.sum(), weights / weights.sum(), "reflect")


def correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlates images with a `[K, K]` kernel (K odd) by FFT, mirrored at borders."""
    height, width = images.shape[-2:]
    radius = len(kernel) // 2
    padded = F.pad(images, (radius,) * 4, mode="reflect")
    size = [_even(side) for side in padded.shape[-2:]]
    # A correlation is the convolution with the mirrored kernel.
    spectrum = torch.fft.rfft2(kernel.flip(0, 1).to(images), s=size)
    result: Tensor = torch.fft.irfft2(
        torch.fft.rfft2(padded, s=size) * spectrum, s=size
    )
    ends = 2 * radius + height, 2 * radius + width
    return result[..., 2 * radius : ends[0], 2 * radius : ends[1]]


def _even(side: int) -> int:
    """A length that transforms fast."""
    return -(-side // 16) * 16


def motion(images: Tensor, angles: Tensor, radius: int, sigma: float) -> Tensor:
    """Blurs each image along one side of a line, as a camera that moves would.

    Args:
        images: `[N, C, H, W]`.
        angles: `[N]` in degrees.
        radius: 2 * radius + 1 pixels of the line are taken.
        sigma: of the weights, half a Gaussian.

    Source: motion blur of ImageMagick, as its manual and sources describe it.
    """
    height, width = images.shape[-2:]
    reach = 2 * radius
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(reach + 1)]
    # Neighbours in angle share most of their steps, and are blurred together.
    order = angles.argsort()
    padded = F.pad(images[order], (reach,) * 4, mode="replicate")
    blurred = torch.zeros_like(images)
    turns = [math.radians(angle) for angle in angles[order].tolist()]
    lines = torch.tensor(
        [(math.sin(t), math.cos(t)) for t in turns], dtype=torch.float64
    )
    steps = (torch.arange(reach + 1)[:, None, None] * lines - 0.5).ceil().long() + reach
    for weight, places in zip(weights, steps.tolist(), strict=True):
        start = 0
        for (y, x), run in groupby(places):
            stop = start + len(list(run))
            part = padded[start:stop, :, y : y + height, x : x + width]
            blurred[start:stop].add_(part, alpha=weight / sum(weights))
            start = stop
    return blurred[order.argsort()]


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of images, magnified bilinearly to their size again."""
    sides = images.shape[-2:]
    if factor == 1:
        return images
    crops = [math.ceil(side / factor) for side in sides]
    sizes = [round(crop * factor) for crop in crops]
    cut = _middle(images, crops)
    large = F.interpolate(cut, size=sizes, mode="bilinear", align_corners=True)
    return _middle(large, list(sides))


def _middle(images: Tensor, sides: list[int]) -> Tensor:
    for axis, side in zip((-2, -1), sides, strict=True):
        images = images.narrow(axis, (images.shape[axis] - side) // 2, side)
    return images


def coarse(images: Tensor, share: float) -> Tensor:
    """Images of `int(share * side)` pixels a side, shown at their size again.

    A coarse pixel is the mean of the pixels whose centres it covers.
    """
    height, width = images.shape[-2:]
    for axis in (-1, -2):
        images = _means(images, axis, int(images.shape[axis] * share))
    for axis, side in ((-1, width), (-2, height)):
        shown = torch.arange(side, dtype=torch.float64) + 0.5
        block = (shown * images.shape[axis] / side).long()
        images = images.index_select(axis, block.to(images.device))
    return images


def _means(images: Tensor, axis: int, count: int) -> Tensor:
    """The means of `count` stretches of an axis, as differences of running sums."""
    edges = torch.arange(count + 1, dtype=torch.float64)
    edges = (edges * images.shape[axis] / count + 0.5).long().to(images.device)
    sums = F.pad(images.cumsum(axis), (1, 0) if axis == -1 else (0, 0, 1, 0))
    lengths = edges.diff().to(images)
    totals = sums.index_select(axis, edges).diff(dim=axis)
    return totals / (lengths if axis == -1 else lengths[:, None])


def sample(images: Tensor, points: Tensor, border: Border) -> Tensor:
    """Reads images `[N, C, H, W]` bilinearly at points `[N, 2, H, W]` (x, y) in pixels.

    The border is "reflect" or "symmetric".
    """
    corners = border == "reflect"
    size = points.new_tensor(images.shape[:-3:-1])[:, None, None]
    step = 2 / (size - 1) if corners else 2 / size
    first = -torch.ones_like(step) if corners else step / 2 - 1
    grid = torch.addcmul(first, points, step).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=corners)
