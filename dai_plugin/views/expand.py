"""From B images to rows, their views, on their device; `rows.py` has the order."""

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from dai_plugin.views.calls import call
from dai_plugin.views.composed import Composed
from dai_plugin.views.motion import Views, draw
from dai_plugin.views.rows import Layout
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
    viewed: int | None = None,
) -> Tensor:
    """`[N, C, H, W]` view-major rows of `[B, C, H, W]` images, N = B + (M - 1) n.

    Dtype, device and memory format are those of the images. The rows are the same for
    the same seed on the same kind of device; the global random stream is untouched. A
    gradient reaches the images through all views if they require one.

    Args:
        images: floating point, carrying `normalization`.
        num_views: M.
        scheme: a `Scheme`, a callable from float32 `[N, C, H, W]` in [0, 1] to the
            same shape, called once with all rows that are to be changed (once more for
            the first view, if that is changed and has other images than the others), or
            several in turn.
        first_view: "clean" leaves view 0 as it came, "augmented" transforms it too.
        normalization: what the images carry.
        seed: of the parameters drawn here.
        check: whether to look at what a callable scheme returns and to warn of what
            is wrong with it; waits for the device.
        viewed: n, how many images, from the first on, get further views; None is all.

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
    batch = images.shape[0]
    layout = Layout(num_views, batch, batch if viewed is None else viewed)
    if isinstance(scheme, Scheme) and check and _idle(scheme):
        logger.warning(
            "the scheme changes %s: all views of an image are the same", scheme
        )
    follow = images.requires_grad and torch.is_grad_enabled()
    rows = images if follow else _empty_rows(images, layout.rows)
    parts, end = [images] * start, batch * start
    if start and not follow:
        rows[:end].copy_(images)
    for block in made_together(images, layout, first_view, seed):
        begin, end = end, end + block.rows
        out = None if follow else rows[begin:end].view(block.views, *block.shape)
        some = images[: block.shape[0]]
        made = _make(some, scheme, normalization, block, check, out)
        parts.append(made.flatten(0, 1))
    if not follow:
        return rows
    return torch.cat(parts).contiguous(memory_format=_memory_format(images))


def _idle(scheme: Scheme) -> bool:
    return not (scheme.geometric or scheme.colours)


def made_together(
    images: Tensor, layout: Layout, first_view: FirstView, seed: int
) -> list[Views]:
    """The views that are not clean, in the order of their rows, with their seeds.

    All at once, but for a first view of more images than the others have.
    """
    still = first_view == "clean"
    counts = [(layout.num_views - still, layout.viewed)]
    if not still and layout.alone:
        counts = [(1, layout.images), (layout.num_views - 1, layout.viewed)]
    seeds, inside = [seed, mix_seed(seed, 1)], images.shape[1:]
    return [
        Views(views, torch.Size((count, *inside)), seeds[number], images.device)
        for number, (views, count) in enumerate(counts)
    ]


def _make(
    images: Tensor,
    scheme: Scheme | Composed | Transform,
    normalization: Normalization,
    block: Views,
    check: bool,
    out: Tensor | None,
) -> Tensor:
    """V views `[V, n, C, H, W]`, in `out`, or with a gradient to the images."""
    views, seed = block.views, block.seed
    if not isinstance(scheme, Scheme):
        changed = call(scheme, images, views, normalization, seed, check=check)
        return changed.to(images.dtype) if out is None else out.copy_(changed)
    drawn = draw(scheme, block)
    if out is None:
        return differentiable(images, scheme, drawn, normalization, views)
    return transform(images, scheme, drawn, normalization, out=out)


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
    return Layout(num_views, len(targets), len(targets)).repeat(targets)


def _base(images: Tensor) -> Tensor:
    """The images as a plain tensor, if they are a labelled one (`tv_tensors.Image`)."""
    # Subclasses that hold other tensors (distributed ones) cannot be relabelled.
    kept = type(images) in (Tensor, nn.Parameter) or hasattr(
        images, "__tensor_flatten__"
    )
    return images if kept else images.as_subclass(Tensor)


def _empty_rows(images: Tensor, rows: int) -> Tensor:
    return torch.empty(
        rows,
        *images.shape[1:],
        dtype=images.dtype,
        device=images.device,
        memory_format=_memory_format(images),
    )


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    keep = last and not images.is_contiguous()
    return torch.channels_last if keep else torch.contiguous_format
