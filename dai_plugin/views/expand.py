"""From B images to `num_views * B` rows on their device.

Row order, everywhere in this package: view-major. Row `v * B + i` is view v of image i;
targets follow as `targets.repeat(num_views, ...)`.
"""

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from dai_plugin.views.calls import call
from dai_plugin.views.composed import Composed
from dai_plugin.views.schemes import Scheme, Transform
from dai_plugin.views.statistics import Normalization, check_images
from dai_plugin.views.warp import differentiable, transform, warp

__all__ = [
    "FirstView",
    "expand",
    "mix_seed",
    "repeat_targets",
    "transform",
    "warp",
]

logger = logging.getLogger("dai_plugin")

_MASK = 2**64 - 1

FirstView = Literal["clean", "augmented"]


def expand(
    images: Tensor,
    num_views: int,
    scheme: Scheme | Composed | Transform,
    *,
    first_view: FirstView,
    normalization: Normalization,
    seed: int,
    check: bool = False,
) -> Tensor:
    """`[num_views * B, C, H, W]` view-major rows of `[B, C, H, W]` images.

    Dtype, device and memory format are those of the images. The rows are the same for
    the same seed on the same kind of device; the global random stream is untouched. A
    gradient reaches the images through all views if they require one.

    Args:
        images: floating point, carrying `normalization`.
        num_views: M.
        scheme: a `Scheme`, a callable from float32 `[N, C, H, W]` in [0, 1] to the
            same shape, called once with all rows that are to be changed, or several in
            turn.
        first_view: "clean" leaves view 0 as it came, "augmented" transforms it too.
        normalization: what the images carry.
        seed: of the parameters drawn here.
        check: whether to look at what a callable scheme returns and to warn of what
            is wrong with it; waits for the device.

    Raises:
        ValueError: the images hold no pixels, or a callable scheme returned another
            shape or (checked) NaN.
        TypeError: a callable scheme returned integers.
    """
    check_images(images)
    start = 1 if first_view == "clean" else 0
    if num_views == start:
        return images
    images = _base(images)
    follow = images.requires_grad and torch.is_grad_enabled()
    views = num_views - start
    if isinstance(scheme, Scheme):
        if check and not (scheme.geometric or scheme.colours):
            logger.warning(
                "the scheme changes %s: all views of an image are the same", scheme
            )
        generator = torch.Generator(images.device).manual_seed(seed)
        drawn = scheme.draw(
            views * images.shape[0], generator=generator, device=images.device
        )
        if follow:
            changed = differentiable(images, scheme, drawn, normalization, views)
    else:
        changed = call(scheme, images, views, normalization, seed, check=check)
    if follow:
        return _joined(images, changed.to(images.dtype), start)
    rows = _empty_rows(images, num_views)
    out = rows.view(num_views, *images.shape)
    if start:
        out[0].copy_(images)
    if isinstance(scheme, Scheme):
        transform(images, scheme, drawn, normalization, out=out[start:])
    else:
        out[start:].copy_(changed)
    return rows


def mix_seed(*numbers: int) -> int:
    """One seed of 63 bits from several numbers (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def repeat_targets(targets: Tensor, num_views: int) -> Tensor:
    """Targets `[B, ...]` for view-major rows: `[num_views * B, ...]`."""
    return targets.repeat(num_views, *[1] * (targets.dim() - 1))


def _base(images: Tensor) -> Tensor:
    """The images as a plain tensor, if they are a labelled one (`tv_tensors.Image`)."""
    # Subclasses that hold other tensors (distributed ones) cannot be relabelled.
    kept = type(images) in (Tensor, nn.Parameter) or hasattr(
        images, "__tensor_flatten__"
    )
    return images if kept else images.as_subclass(Tensor)


def _joined(images: Tensor, changed: Tensor, start: int) -> Tensor:
    """Rows of the images, if `start` is 1, and of their changed views."""
    whole = torch.cat([images[None], changed]) if start else changed
    rows = whole.flatten(0, 1)
    return rows.contiguous(memory_format=_memory_format(images))


def _empty_rows(images: Tensor, num_views: int) -> Tensor:
    return torch.empty(
        num_views * images.shape[0],
        *images.shape[1:],
        dtype=images.dtype,
        device=images.device,
        memory_format=_memory_format(images),
    )


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    keep = last and not images.is_contiguous()
    return torch.channels_last if keep else torch.contiguous_format
