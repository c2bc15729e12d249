"""The built-in transformations of a batch: one warp, one colour pass, one clip."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dai_plugin.views.schemes import Parameters, Scheme
from dai_plugin.views.statistics import Normalization

Bounds = list[tuple[float, float]] | tuple[Tensor, Tensor]

# Pixels so little outside [0, 1] were rounded there by their normalisation.
# Where a number is read without waiting for it, and clamping by numbers is faster.
_READ_BACK = ("cpu",)
_ROUNDING = 0.01


def transform(
    images: Tensor,
    scheme: Scheme,
    parameters: Parameters,
    normalization: Normalization,
    *,
    out: Tensor,
) -> Tensor:
    """Writes V transformed views of `[B, C, H, W]` images into `out [V, B, C, H, W]`.

    The colour change and the clip are carried over into the images' own normalisation,
    so that no pass over the images is needed to leave it and to come back.

    Args:
        images: floating point, carrying `normalization`.
        scheme: what to do.
        parameters: of V * B transformations, view-major, as `scheme.draw` gives them.
        normalization: what the images carry.
        out: the views, of any floating dtype.
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        moved = _moved(images, scheme, parameters, out.shape[0])
        if not scheme.colours:
            return out.copy_(moved)
        _, std = normalization.tensors(images)
        limits = bounds(images, normalization)
        return clip_(colour(moved, parameters, std, out=out), limits)


def differentiable(
    images: Tensor,
    scheme: Scheme,
    parameters: Parameters,
    normalization: Normalization,
    views: int,
) -> Tensor:
    """What `transform` writes, `[V, B, C, H, W]`, with a gradient to the images."""
    with torch.autocast(images.device.type, enabled=False):
        moved = _moved(images, scheme, parameters, views)
        if not scheme.colours:
            return moved.to(images.dtype)
        _, std = normalization.tensors(images)
        limits = bounds(images, normalization)
        changed = colour(moved, parameters, std).to(images.dtype)
        return clip(changed, limits)


def _moved(
    images: Tensor, scheme: Scheme, parameters: Parameters, views: int
) -> Tensor:
    """V views `[V, B, C, H, W]` in float32, their colours unchanged."""
    if not scheme.geometric:
        return images.float().expand(views, *images.shape)
    height, width = images.shape[2:]
    return warp(images.float(), scheme.matrix(parameters, height, width))


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """V warped versions `[V, B, C, H, W]` of float32 `[B, C, H, W]` images.

    Bilinear, the nearest pixel beyond the border, one resampling. Coordinates are
    float32 whatever the images are.

    Args:
        images: float32.
        matrices: `[V * B, 3, 3]`, view-major, from input to output pixels counted from
            the top left, as `Scheme.matrix` gives them.
    """
    count, channels, height, width = images.shape
    grid = sampling_grid(matrices.view(-1, count, 3, 3).transpose(0, 1), height, width)
    # All views of an image are stacked below each other in one tall grid, so that one
    # call reads every image in place instead of a repeated batch.
    tall = F.grid_sample(
        images, grid.flatten(1, 2), padding_mode="border", align_corners=False
    )
    return tall.view(count, channels, -1, height, width).permute(2, 0, 1, 3, 4)


def colour(
    images: Tensor, parameters: Parameters, std: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """`g * (x - mean of the channel) + mean of the channel + b`.

    Args:
        images: `[V, B, C, H, W]`, carrying a normalisation.
        parameters: "contrast" g and "brightness" b, each `[V * B]`, in pixels.
        std: `[C, 1, 1]` standard deviation of the normalisation.
        out: where the result is written, if anywhere.
    """
    shape = (*images.shape[:2], 1, 1, 1)
    gain = parameters["contrast"].view(shape)
    shift = parameters["brightness"].view(shape) / std
    centre = images.mean((3, 4), keepdim=True)
    # Not addcmul, which is not vectorized on a CPU with two numbers an image. Half
    # precision is not rounded in between.
    place = out if out is not None and out.dtype == images.dtype else None
    scaled = torch.mul(images, gain, out=place)
    return torch.add(scaled, centre * (1 - gain) + shift, out=out)


def bounds(images: Tensor, normalization: Normalization) -> Bounds:
    """Between which values, channel by channel, the views of this batch may lie.

    Where [0, 1] pixels lie; further apart if the batch itself `[B, C, H, W]` goes
    beyond, so that no value which came in is clipped. Numbers on a CPU; elsewhere
    tensors `[C, 1, 1]`, because numbers would wait for the device.
    """
    values, channels = images.detach(), images.shape[1]
    mean, std = normalization.tensors(images)
    ends = torch.stack([values.amin((0, 2, 3)), values.amax((0, 2, 3))])
    pixels = ends[..., None, None] * std + mean
    low, high = pixels[0].amin(), pixels[1].amax()
    # Of [0, 1] images themselves nothing was rounded.
    slack = 0.0 if normalization.none else _ROUNDING
    if images.device.type in _READ_BACK:
        lowest, highest = low.item(), high.item()
        return normalization.ranges(
            channels,
            lowest if lowest < -slack else 0.0,
            highest if highest > 1 + slack else 1.0,
        )
    return widened(low, high, normalization, channels, slack)


def widened(
    low: Tensor, high: Tensor, normalization: Normalization, channels: int, slack: float
) -> tuple[Tensor, Tensor]:
    """`bounds` as tensors `[C, 1, 1]` on the device of what was found there.

    Args:
        low: lowest pixel of the batch, of no dimension.
        high: highest pixel.
        normalization: what the images carry.
        channels: of the images.
        slack: how far from [0, 1] a pixel may lie and count as rounded.
    """
    exact_low, exact_high, mean, std = _columns(normalization, channels, low.device)
    return (
        torch.where(low < -slack, (low - mean) / std, exact_low),
        torch.where(high > 1 + slack, (high - mean) / std, exact_high),
    )


def clip_(images: Tensor, limits: Bounds) -> Tensor:
    """Clips `[V, B, C, H, W]` images in place to the bounds of their channels."""
    if isinstance(limits, tuple):
        low, high = limits
        return images.clamp_(low.to(images.dtype), high.to(images.dtype))
    if len(set(limits)) == 1:
        return images.clamp_(*limits[0])
    # With numbers for bounds this is much faster than with tensors.
    for channel, (least, most) in zip(images.unbind(2), limits, strict=True):
        channel.clamp_(least, most)
    return images


def clip(images: Tensor, limits: Bounds) -> Tensor:
    """As `clip_`, with a gradient and nothing written in place."""
    if isinstance(limits, list):
        columns = torch.tensor(limits, dtype=torch.float64, device=images.device)
        limits = (columns[:, :1, None], columns[:, 1:, None])
    low, high = limits
    return images.clamp(low.to(images.dtype), high.to(images.dtype))


@lru_cache(maxsize=64)
def _columns(
    normalization: Normalization, channels: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Where [0, 1] pixels end, mean and std, each `[C, 1, 1]`."""
    # Kept, because a copy from the host would wait for the device at each step.
    ends = torch.tensor(
        normalization.ranges(channels), dtype=torch.float32, device=device
    )
    mean, std = normalization.tensors(ends[None, :, :, None])
    return *ends[..., None, None].unbind(1), mean, std


def sampling_grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from: `[..., H, W, 2]` in [-1, 1] coordinates.

    The 2 x 2 part is inverted in closed form: a solver would wait for the device.
    Positions are complex numbers x + i y, so that one addition writes both coordinates.
    """
    a, b, x, c, d, y = matrices[..., :2, :].flatten(-2).float().unbind(-1)
    scale = torch.addcmul(a * d, b, c, value=-1).reciprocal_()
    # align_corners=False: pixel p lies at (2 p + 1) / size - 1.
    unit_x, unit_y = 2 / width * scale, 2 / height * scale
    across = torch.complex(d * unit_x, -c * unit_y)[..., None, None]
    down = torch.complex(-b * unit_x, a * unit_y)[..., None, None]
    origin = torch.complex(
        torch.addcmul(b * y, d, x, value=-1) * unit_x + (1 / width - 1),
        torch.addcmul(c * x, a, y, value=-1) * unit_y + (1 / height - 1),
    )[..., None, None]
    columns = torch.arange(width, device=a.device, dtype=torch.float32)
    lines = torch.arange(height, device=a.device, dtype=torch.float32)[:, None]
    return torch.view_as_real(across * columns + (down * lines + origin))
