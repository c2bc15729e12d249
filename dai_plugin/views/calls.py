"""Callable schemes: one call with all rows, in a random stream of its own, checked."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dai_plugin.views.composed import Composed
from dai_plugin.views.pipelines import Transform
from dai_plugin.views.schemes import Scheme
from dai_plugin.views.statistics import Normalization
from dai_plugin.views.warp import differentiable

logger = logging.getLogger("dai_plugin")

# How far beyond its input's range, in pixels, a scheme's noise or overshoot may go.
_BEYOND = 0.25
# How often a scheme is asked again before it is said to draw nothing.
_ASKED = 3
_WORD = 0xFFFFFFFF  # numpy's seeds are lists of 32 bits each


def call(
    scheme: Composed | Transform,
    images: Tensor,
    views: int,
    normalization: Normalization,
    seed: int,
    *,
    check: bool = False,
) -> Tensor:
    """A callable scheme's `[views, B, C, H, W]`, drawn from a forked random stream.

    A gradient reaches the images if they require one, gradients are enabled and the
    scheme lets it through.

    Args:
        scheme: from float32 `[N, C, H, W]` in [0, 1] to the same shape, or several in
            turn.
        images: `[B, C, H, W]`, floating point, carrying `normalization`.
        views: how many are made of each image.
        normalization: what the images carry.
        seed: of the scheme's random numbers.
        check: whether to look at the values that the scheme returns, too.

    Raises:
        ValueError: the scheme returned another shape, or (checked) no finite numbers.
        TypeError: it returned integers.
    """
    mean, std = normalization.tensors(images)
    follow = images.requires_grad and torch.is_grad_enabled()
    with (
        torch.set_grad_enabled(follow),
        torch.autocast(images.device.type, enabled=False),
    ):
        plain = images.float()
        plain = plain if normalization.none else plain * std + mean

        def draw(number: int) -> Tensor:
            with forked_stream(images.device, number):
                return _rows(scheme, plain, views)

        changed = draw(seed).to(images.device)
        if check:
            _check(scheme, changed, plain, lambda k: draw(seed ^ k))
        changed = changed if normalization.none else (changed - mean) / std
        return changed.reshape(views, *images.shape)


def _rows(scheme: Scheme | Composed | Transform, pixels: Tensor, views: int) -> Tensor:
    """`[views * B, C, H, W]` rows of `[B, C, H, W]` pixels, from the global stream."""
    if isinstance(scheme, Composed):
        first, *others = scheme.parts
        rows = _rows(first, pixels, views)
        for part in others:
            rows = _rows(part, rows, 1)
        return rows
    if isinstance(scheme, Scheme):
        drawn = scheme.draw(views * len(pixels), device=pixels.device)
        none = Normalization()
        return differentiable(pixels, scheme, drawn, none, views).flatten(0, 1)
    rows = pixels.repeat(views, 1, 1, 1)
    return _usable(scheme, scheme(rows), list(rows.shape))


def _usable(scheme: Transform, changed: Any, shape: list[int]) -> Tensor:
    """What the scheme returned, if it is floats of that shape."""
    if not isinstance(changed, Tensor) or list(changed.shape) != shape:
        got = list(changed.shape) if isinstance(changed, Tensor) else type(changed)
        raise ValueError(
            f"the scheme {scheme!r} returned {got} for a batch {shape}; it must keep "
            "the shape"
        )
    if not changed.is_floating_point():
        raise TypeError(
            f"the scheme {scheme!r} returned {changed.dtype}; it must return floating "
            "point numbers in [0, 1] (after a conversion to uint8 inside: "
            "v2.ToDtype(torch.float32, scale=True), or .float() / 255)"
        )
    return changed


def _check(
    scheme: Composed | Transform,
    changed: Tensor,
    pixels: Tensor,
    again: Callable[[int], Tensor],
) -> None:
    """Looks at the values `[V * B, C, H, W]` made of `[B, C, H, W]` pixels."""
    values, before = changed.detach(), pixels.detach()
    if not values.isfinite().all() and before.isfinite().all():
        raise ValueError(
            f"the scheme {scheme!r} returned NaN or infinite values for finite images"
        )
    low, high = (end.item() for end in values.aminmax())
    least, most = (end.item() for end in before.aminmax())
    if low < min(0.0, least) - _BEYOND or high > max(1.0, most) + _BEYOND:
        logger.warning(
            "the scheme %r returned values from %.4g to %.4g for pixels from %.4g to "
            "%.4g; it must return pixels in [0, 1]: is there a Normalize or a scaling "
            "to 0 to 255 in it? Leave it out",
            scheme, low, high, least, most,
        )  # fmt: skip
    if pixels.requires_grad and not changed.requires_grad:
        logger.warning(
            "the images require a gradient, which the scheme %r does not let through: "
            "none reaches them from the views that it makes",
            scheme,
        )
    if _repeats(values, before) and all(
        _repeats(again(k), before) for k in range(1, _ASKED + 1)
    ):
        logger.warning(
            "the scheme %r gives every view of an image the same pixels, so that "
            "there is nothing to be invariant to; it must draw random numbers for "
            "each of its rows",
            scheme,
        )


def _repeats(changed: Tensor, pixels: Tensor) -> bool:
    """Whether all views are equal; of a single one, whether nothing was changed."""
    views = changed.detach().reshape(-1, *pixels.shape)
    first = views[0] if views.shape[0] > 1 else pixels.to(views)
    return bool((views == first).all())


@contextmanager
def forked_stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the default generators that a scheme may draw from, and restores them.

    Those of torch, on the host and on the device, of Python and of numpy.
    """
    accelerator = device.type != "cpu"
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(
            [device] if accelerator else [], device_type=device.type
        ):
            # torch.manual_seed would reseed every device, and leave the others so.
            torch.default_generator.manual_seed(seed)
            if accelerator:
                module: Any = torch.get_device_module(device)
                with module.device(device):
                    module.manual_seed(seed)
            random.seed(seed)
            np.random.seed([seed & _WORD, seed >> 32 & _WORD])
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
