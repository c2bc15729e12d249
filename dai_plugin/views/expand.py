"""From B images to `num_views * B` rows on their device: one warp, one colour pass.

Row order, everywhere in this package: view-major. Row `v * B + i` is view v of image i;
targets follow as `targets.repeat(num_views, ...)`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Parameters, Scheme, Transform

_MASK = 2**64 - 1

FirstView = Literal["clean", "augmented"]


def expand(
    images: Tensor,
    num_views: int,
    scheme: Scheme | Transform,
    *,
    first_view: FirstView,
    normalization: Normalization,
    seed: int,
) -> Tensor:
    """`[num_views * B, C, H, W]` view-major rows of `[B, C, H, W]` images.

    Dtype, device and memory format are those of the images. The rows are the same for
    the same seed on the same kind of device; the global random stream is untouched.

    Args:
        images: floating point, carrying `normalization`.
        num_views: M.
        scheme: a `Scheme`, or a callable from float32 `[N, C, H, W]` in [0, 1] to the
            same shape, called once with all rows that are to be changed.
        first_view: "clean" leaves view 0 as it came, "augmented" transforms it too.
        normalization: what the images carry.
        seed: of the parameters drawn here.

    Raises:
        ValueError: a callable scheme returned another shape.
    """
    start = 1 if first_view == "clean" else 0
    if num_views == start:
        return images
    rows = _empty_rows(images, num_views)
    views = rows.view(num_views, *images.shape)
    if start:
        views[0].copy_(images)
    if isinstance(scheme, Scheme):
        generator = torch.Generator(images.device).manual_seed(seed)
        count = (num_views - start) * images.shape[0]
        drawn = scheme.draw(count, generator=generator, device=images.device)
        transform(images, scheme, drawn, normalization, out=views[start:])
    else:
        views[start:].copy_(
            _call(scheme, images, num_views - start, normalization, seed)
        )
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
        if scheme.geometric:
            height, width = images.shape[2:]
            moved = warp(images.float(), scheme.matrix(parameters, height, width))
        else:
            moved = images.float().expand(out.shape)
        if not scheme.colours:
            return out.copy_(moved)
        _, std = normalization.tensors(images)
        return clip(colour(moved, parameters, std, out=out), normalization)


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
    grid = _sampling_grid(matrices.view(-1, count, 3, 3).transpose(0, 1), height, width)
    # All views of an image are stacked below each other in one tall grid, so that one
    # call reads every image in place instead of a repeated batch.
    tall = F.grid_sample(
        images, grid.flatten(1, 2), padding_mode="border", align_corners=False
    )
    return tall.view(count, channels, -1, height, width).permute(2, 0, 1, 3, 4)


def colour(
    images: Tensor, parameters: Parameters, std: Tensor, *, out: Tensor
) -> Tensor:
    """`g * (x - mean of the channel) + mean of the channel + b`.

    Args:
        images: `[V, B, C, H, W]`, carrying a normalisation.
        parameters: "contrast" g and "brightness" b, each `[V * B]`, in pixels.
        std: `[C, 1, 1]` standard deviation of the normalisation.
        out: where the result is written.
    """
    shape = (*images.shape[:2], 1, 1, 1)
    gain = parameters["contrast"].view(shape)
    shift = parameters["brightness"].view(shape) / std
    centre = images.mean((3, 4), keepdim=True)
    # Not addcmul, which is not vectorized on a CPU with two numbers an image. Half
    # precision is not rounded in between.
    place = out if out.dtype == images.dtype else None
    scaled = torch.mul(images, gain, out=place)
    return torch.add(scaled, centre * (1 - gain) + shift, out=out)


def clip(images: Tensor, normalization: Normalization) -> Tensor:
    """Clips `[V, B, C, H, W]` images in place to where [0, 1] pixels lie."""
    ranges = normalization.ranges(images.shape[2])
    if len(set(ranges)) == 1:
        return images.clamp_(*ranges[0])
    # With numbers for bounds this is much faster than with tensors.
    for channel, (low, high) in zip(images.unbind(2), ranges, strict=True):
        channel.clamp_(low, high)
    return images


def _sampling_grid(matrices: Tensor, height: int, width: int) -> Tensor:
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


def _empty_rows(images: Tensor, num_views: int) -> Tensor:
    channels_last = images.dim() == 4 and images.is_contiguous(
        memory_format=torch.channels_last
    )
    keep = channels_last and not images.is_contiguous()
    return torch.empty(
        num_views * images.shape[0],
        *images.shape[1:],
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if keep else torch.contiguous_format,
    )


def _call(
    scheme: Callable[[Tensor], Tensor],
    images: Tensor,
    views: int,
    normalization: Normalization,
    seed: int,
) -> Tensor:
    """A callable scheme's `[views, B, C, H, W]`, drawn from a forked random stream."""
    mean, std = normalization.tensors(images)
    untouched = normalization.mean == (0.0,) and normalization.std == (1.0,)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        pixels = images.float().repeat(views, 1, 1, 1)
        pixels = pixels if untouched else pixels.mul_(std).add_(mean)
        with _forked_stream(images.device, seed):
            changed = scheme(pixels)
        if not isinstance(changed, Tensor) or changed.shape != pixels.shape:
            got = list(changed.shape) if isinstance(changed, Tensor) else type(changed)
            raise ValueError(
                f"the scheme {scheme!r} returned {got} for a batch "
                f"{list(pixels.shape)}; it must keep the shape"
            )
        changed = changed if untouched else (changed - mean) / std
        return changed.view(views, *images.shape)


@contextmanager
def _forked_stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the default generators of the host and of the device, and restores them."""
    accelerator = device.type != "cpu"
    with torch.random.fork_rng(
        [device] if accelerator else [], device_type=device.type
    ):
        # torch.manual_seed would reseed every device, and leave the others so.
        torch.default_generator.manual_seed(seed)
        if accelerator:
            module: Any = torch.get_device_module(device)
            with module.device(device):
                module.manual_seed(seed)
        yield
