"""Targets that belong to pixels, moved as their images are: pure functions of matrices.

A matrix `[3, 3]` takes a pixel of the image to its place in the view, both counted from
the centre of the top left one, x and y from 0 to width - 1 and height - 1, as
`Scheme.matrix` and kornia have them; it may be a homography. Of B targets there are V
views, view-major, as the `[V * B, 3, 3]` matrices are.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["mask", "heatmap", "boxes", "keypoints"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Places are counted from here, so that no colour in [0, 1] that a library fills the
# outside with is taken for one.
_FIRST = 2.0


def places(height: int, width: int, device: torch.device) -> Tensor:
    """A picture `[2, H, W]` whose pixels show their own column and line.

    What moves it with the nearest pixel tells where every pixel of the view comes from:
    `sources` reads it.
    """
    lines = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=device, dtype=torch.float32)
    both = (columns.expand(height, width), lines.expand(height, width))
    return torch.stack(both) + _FIRST


def sources(moved: Tensor) -> Tensor:
    """Numbers `[N, H * W]` of the pixels that moved `places` `[N, 2, H, W]` show.

    Counted line by line; -1 where the view shows what lies outside the image.
    """
    column, line = moved.flatten(2).sub(_FIRST).round().long().unbind(1)
    inside = (column >= 0) & (line >= 0)
    return torch.where(inside, line * moved.shape[3] + column, -1)


def sampled_places(grid: Tensor) -> Tensor:
    """`places` `[N, 2, H, W]` where a grid `[N, H, W, 2]` in [-1, 1] samples them."""
    height, width = grid.shape[1:3]
    picture = places(height, width, grid.device).expand(len(grid), -1, -1, -1)
    return F.grid_sample(
        picture, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )


def warp_masks(masks: Tensor, found: Tensor, outside: float) -> Tensor:
    """`[V * B, ..., H, W]` views of masks `[B, ..., H, W]` of any dtype.

    Args:
        masks: a label a pixel.
        found: `sources` of the views, `[V * B, H * W]`.
        outside: label of what lies outside the image.
    """
    count, pixels = masks.shape[0], found.shape[1]
    shape = (len(found) // count, count, masks[0].numel() // pixels, pixels)
    labels = masks.reshape(1, *shape[1:]).expand(shape)
    index = found.view(*shape[:2], 1, pixels).expand(shape)
    moved = labels.gather(3, index.clamp(min=0)).masked_fill_(index < 0, outside)
    return moved.view(-1, *masks.shape[1:])


def warp_heatmaps(maps: Tensor, matrices: Tensor) -> Tensor:
    """`[V * B, ..., H, W]` views of float maps `[B, ..., H, W]`: bilinear, 0 outside.

    Args:
        maps: a number a pixel, of any resolution.
        matrices: `[V * B, 3, 3]` in pixels of the maps (`rescaled`).
    """
    height, width = maps.shape[-2:]
    grid = homography_grid(matrices, height, width)
    views = len(matrices) // len(maps)
    channels = maps.reshape(len(maps), -1, height, width).float()
    moved = F.grid_sample(channels.repeat(views, 1, 1, 1), grid, align_corners=False)
    return moved.view(-1, *maps.shape[1:]).to(maps.dtype)


def warp_points(points: Tensor, matrices: Tensor) -> Tensor:
    """`[V * B, K, 2]` places of points `[B, K, 2]`, (x, y) in pixels.

    A point that leaves the picture keeps its place there, outside the image's size.
    """
    repeated = points.repeat(len(matrices) // len(points), 1, 1).float()
    moved = torch.stack(_mapped(matrices, *repeated.unbind(2)), 2)
    return _as(points, moved)


def warp_boxes(boxes: Tensor, matrices: Tensor, height: int, width: int) -> Tensor:
    """Boxes `[V * B, 4]` or `[V * B, K, 4]` around the moved ones, cut at the border.

    Args:
        boxes: `[B, 4]` or `[B, K, 4]`, the edges (x1, y1, x2, y2) in pixels from the
            image's top left corner, so that the image itself is (0, 0, width, height),
            as torchvision has them. What leaves the picture comes back without area.
        matrices: `[V * B, 3, 3]`.
        height: of the image.
        width: of the image.
    """
    # Edges lie half a pixel beside the centres that the matrices count from.
    x1, y1, x2, y2 = boxes.reshape(len(boxes), -1, 4).float().sub(0.5).unbind(2)
    corners = torch.stack([torch.cat([x1, x2, x2, x1], 1),
                           torch.cat([y1, y1, y2, y2], 1)], 2)  # fmt: skip
    moved = warp_points(corners, matrices).add(0.5).view(len(matrices), 4, -1, 2)
    x, y = moved[..., 0].clamp(0, width), moved[..., 1].clamp(0, height)
    ends = torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], 2)
    return _as(boxes, ends.view(-1, *boxes.shape[1:]))


def rescaled(matrices: Tensor, size: tuple[int, int], own: tuple[int, int]) -> Tensor:
    """The same maps between pictures of another resolution.

    Args:
        matrices: `[N, 3, 3]` in pixels of images.
        size: height and width of the images.
        own: height and width of what shows the same at another resolution.
    """
    if size == own:
        return matrices
    down, across = size[0] / own[0], size[1] / own[1]
    right, low = (across - 1) / 2, (down - 1) / 2
    # From the own pixel into the image, and back: by hand, since a GPU may round
    # products of matrices.
    first, second, third = matrices.float().unbind(2)
    into = (first * across, second * down, first * right + second * low + third)
    x, y, scale = torch.stack(into, 2).unbind(1)
    back = ((x - right * scale) / across, (y - low * scale) / down, scale)
    return torch.stack(back, 1)


def homography_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel of the views comes from: `[N, H, W, 2]` in [-1, 1]."""
    first, second, third = matrices.float().unbind(2)
    cross = torch.linalg.cross
    # The inverse but for a factor, which is none of a homography.
    back = torch.stack(
        (cross(second, third), cross(third, first), cross(first, second)), 1
    )
    columns = torch.arange(width, device=back.device, dtype=torch.float32)
    lines = torch.arange(height, device=back.device, dtype=torch.float32)[:, None]
    x, y = _mapped(back, columns[None, None], lines[None])
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)


def _mapped(matrices: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The places `[N, ...]` to which matrices take (x, y)."""
    # Not a product of matrices, which a GPU may round to ten bits.
    entries = matrices.float().flatten(1).unbind(1)
    a, b, c, d, e, f, g, h, i = (
        entry.view(-1, *[1] * (x.dim() - 1)) for entry in entries
    )
    scale = g * x + h * y + i
    return (a * x + b * y + c) / scale, (d * x + e * y + f) / scale


def _as(targets: Tensor, moved: Tensor) -> Tensor:
    """In the dtype of the targets, rounded if that is an integer."""
    whole = not targets.is_floating_point()
    return (moved.round() if whole else moved).to(targets.dtype)
