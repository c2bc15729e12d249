"""Drops of water on a lens: edges, distances and contrast of `[N, H, W]` fields."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dai_plugin.measures.filters import separable

_FAR = 20  # pixels; what is farther from an edge is as far as this


def drops(liquid: Tensor) -> Tensor:
    """How bright drops of water are, `[N, H, W]` with maximum 1 (or all 0: no drops).

    Args:
        liquid: how much there is, from 0 to 1; 0 outside the drops.

    Drops are bright in proportion to the liquid and to an embossed map of the distance
    to their rims (Canny's edges), with its histogram made even.
    """
    levels = (liquid * 255).floor()
    thirds = torch.full((3,), 1 / 3, dtype=torch.float64)
    far = separable(distance(edges(levels, 50, 150)), thirds, "reflect").floor()
    relief = separable(_emboss(equalized(far)), thirds, "reflect").round()
    shine = levels * relief
    return shine / shine.amax((1, 2), keepdim=True).clamp(min=1)


def edges(levels: Tensor, low: float, high: float) -> Tensor:
    """Canny's edges, `[N, H, W]` bool, of a field of grey levels.

    Args:
        levels: 0 to 255.
        low: gradients (sum of both Sobel responses' sizes) above it may be edges.
        high: gradients above it are, and so are those that touch them.

    Source: Canny, IEEE PAMI 8(6), 1986, with Sobel gradients.
    """
    p = F.pad(levels[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    up, down = p[:, :-2], p[:, 2:]
    left, right = p[..., :-2], p[..., 2:]
    x = right[:, :-2] + 2 * right[:, 1:-1] + right[:, 2:]
    x = x - left[:, :-2] - 2 * left[:, 1:-1] - left[:, 2:]
    y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    y = y - up[..., :-2] - 2 * up[..., 1:-1] - up[..., 2:]
    size = x.abs() + y.abs()
    ridge = (size > low) & _is_ridge(x, y, size)
    strong, found = ridge & (size > high), None
    while found is None or not torch.equal(found, strong):
        found = strong
        strong = ridge & _grown(found)
    return found


def _grown(marked: Tensor) -> Tensor:
    """What is marked, and the eight pixels around each."""
    p = F.pad(marked, (1, 1, 1, 1))
    rows = p[:, :-2] | p[:, 1:-1] | p[:, 2:]
    return rows[..., :-2] | rows[..., 1:-1] | rows[..., 2:]


def _is_ridge(x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """Whether a gradient is the largest along its direction, in steps of 45 degrees."""
    height, width = size.shape[-2:]
    around = F.pad(size, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        rows = slice(1 + down, 1 + down + height)
        return around[:, rows, 1 + right : 1 + right + width]

    tangent = 2**0.5 - 1  # of 22.5 degrees
    flat = y.abs() < tangent * x.abs()
    steep = x.abs() < tangent * y.abs()
    across = (size > at(0, -1)) & (size >= at(0, 1))
    along = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    diagonal = torch.where(x * y < 0, rising, falling)
    return torch.where(flat, across, torch.where(steep, along, diagonal))


def distance(marked: Tensor) -> Tensor:
    """Pixels to the nearest marked pixel, at most 20, `[N, H, W]`."""
    squares = torch.where(marked, 0.0, float(_FAR**2))
    for axis in (1, 2):
        squares = _lowest(squares, axis)
    return squares.sqrt()


def _lowest(heights: Tensor, axis: int) -> Tensor:
    """The lower envelope of parabolas that stand on each point of one axis."""
    lowest, size = heights.clone(), heights.shape[axis]
    for k in range(1, min(_FAR, size)):
        for start, source in ((k, 0), (0, k)):
            part = lowest.narrow(axis, start, size - k)
            other = heights.narrow(axis, source, size - k)
            torch.minimum(part, other + k * k, out=part)
    return lowest


def equalized(levels: Tensor) -> Tensor:
    """Spreads each image's grey levels so that their histogram is even."""
    index = levels.flatten(1).long()
    counts = index.new_zeros(len(index), 256)
    below = counts.scatter_add_(1, index, torch.ones_like(index)).cumsum(1)
    first = below.gather(1, index.amin(1, keepdim=True))
    spread = (index.shape[1] - first).clamp(min=1)
    table = ((below - first) * (255 / spread)).round().clamp(0, 255)
    # One level alone stays as it is.
    even = torch.where(first == index.shape[1], index, table.gather(1, index))
    return even.view_as(levels).to(levels)


def _emboss(levels: Tensor) -> Tensor:
    """Correlates with [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]: light from one corner."""
    p = F.pad(levels[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    corners = 2 * (p[:, 2:, 2:] - p[:, :-2, :-2])
    sides = p[:, 2:, 1:-1] + p[:, 1:-1, 2:] - p[:, :-2, 1:-1] - p[:, 1:-1, :-2]
    return (levels + corners + sides).clamp(0, 255)
