"""The corruptions of ImageNet-C and CIFAR-10-C, a batch at a time, on its device.

Source: Hendrycks & Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019, arXiv 1903.12261.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dai_plugin.measures import effects, weather
from dai_plugin.measures.constants import ConstantSet, constants_for
from dai_plugin.measures.fields import Draws

SMALLEST = 16  # pixels a side; below, the largest blurs are wider than the image
_ROUNDING = 1e-3


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    seeds: Sequence[int] | Tensor,
    *,
    constants: ConstantSet | None = None,
) -> Tensor:
    """Corrupted versions of images.

    An image with its seed gives the same result in any batch, up to the rounding of
    the device's sums; global random streams are untouched.

    Args:
        images: `[N, C, H, W]`, floating point in [0, 1], three channels (RGB) or one,
            16 pixels a side or more, on any device.
        name: one of `NAMES` (the 15 of the benchmark) or `EXTRA_NAMES` (the 4 that the
            authors keep for validation).
        severity: 1 to 5.
        seeds: N whole numbers, one for each image.
        constants: "imagenet" or "cifar", whose constants to take; None takes "cifar"
            for images with a side of 64 pixels or less.

    Returns:
        Images like `images`, in [0, 1], not rounded to grey levels (apart from JPEG's).

    Raises:
        TypeError: if images are not floating point.
        ValueError: for shapes, pixels, names, severities or seeds that do not fit.
    """
    _check(images, name)
    found = constants_for(name, severity, constants, min(images.shape[-2:]))
    numbers = [int(seed) for seed in seeds]
    if len(numbers) != len(images):
        raise ValueError(
            f"{len(numbers)} seeds for {len(images)} images; give one for each image"
        )
    if not numbers:
        return images.clone()
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        draws = Draws(numbers, images.device)
        changed = _CORRUPTIONS[name](images.float(), draws, *found)
        return changed.clamp(0, 1).to(images.dtype).contiguous()


def _check(images: Tensor, name: str) -> None:
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}; give floating point in [0, 1] "
            "(uint8 images: images / 255)"
        )
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ValueError(f"images are {shape}; give [N, 3, H, W] or [N, 1, H, W]")
    if shape[1] == 1 and name == "saturate":
        raise ValueError("saturate changes colours, and images have one channel")
    if min(shape[2:]) < SMALLEST:
        raise ValueError(f"images are {shape}; {SMALLEST} pixels a side are needed")
    low, high = (x.item() for x in images.aminmax()) if len(images) else (0, 1)
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"pixels lie in [{low:.3g}, {high:.3g}]; give images in [0, 1] "
            "(before they are normalised)"
        )


_CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        effects.gaussian_noise,
        effects.shot_noise,
        effects.impulse_noise,
        effects.defocus_blur,
        effects.glass_blur,
        effects.motion_blur,
        effects.zoom_blur,
        weather.snow,
        weather.frost,
        weather.fog,
        effects.brightness,
        effects.contrast,
        effects.elastic_transform,
        effects.pixelate,
        effects.jpeg_compression,
        effects.speckle_noise,
        effects.gaussian_blur,
        weather.spatter,
        effects.saturate,
    )
}
