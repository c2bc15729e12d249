"""Which normalisation a batch already carries: given, configured, or guessed."""

import torch
from torch import Tensor, nn

from dai_plugin.views.statistics import (
    Normalization,
    Range,
    Statistics,
    check_dtype,
)

__all__ = [
    "PRESETS",
    "Normalization",
    "Statistics",
    "channel_ranges",
    "ends",
    "fitting",
    "from_batch",
    "from_model",
    "from_range",
    "known_normalization",
    "plain",
]

# How far from [0, 1] a cubic resampling of [0, 1] images may lie, on one side alone and
# on both (0.445 at most). MNIST's black, which is no such image, lies at -0.424.
_OVERSHOOT, _BOTH = 0.4, 0.5
# Normalising in half precision rounds the ends of the range.
_ROUNDING = 0.01


PRESETS: dict[int, dict[str, tuple[Statistics, Statistics]]] = {
    3: {
        "half": (0.5, 0.5),
        "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "CIFAR-10, image by image": (
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        ),
    },
    1: {"half": (0.5, 0.5), "MNIST": (0.1307, 0.3081)},
}


def from_model(model: nn.Module) -> Normalization | None:
    """The normalisation of the model's own configuration (timm's), if it has one."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if config is None:
            continue
        values = config if isinstance(config, dict) else getattr(config, "__dict__", {})
        mean, std = values.get("mean"), values.get("std")
        if mean is not None and std is not None:
            return Normalization.given(mean, std, f"the model's {name}")
    return None


def plain(values: Range) -> bool:
    """Whether images in that range are [0, 1] pixels, with an overshoot maybe."""
    lowest, highest = ends(values)
    both = lowest < -0.2 and highest > 1.2
    margin = _BOTH if both else _OVERSHOOT
    return lowest >= -margin and highest <= 1 + margin


def channel_ranges(images: Tensor) -> list[tuple[float, float]]:
    """Lowest and highest value of each channel of `[B, C, H, W]` floats."""
    values = images.detach()
    values = values if values.dtype == torch.float64 else values.float()
    ends = torch.stack([values.amin((0, 2, 3)), values.amax((0, 2, 3))], 1)
    return [(low, high) for low, high in ends.tolist()]


def fitting(values: Range) -> Normalization | None:
    """The normalisation that images in that range seem to carry, None if none is known.

    Raises:
        ValueError: the values look like 0 to 255.
    """
    lowest, highest = ends(values)
    if plain(values):
        over = "" if lowest >= 0 and highest <= 1 else ", but for an overshoot"
        return Normalization(source=f"the first batch lies in [0, 1]{over}")
    if (lowest >= 0 and highest > 20) or (lowest > -64 and highest > 128):
        raise ValueError(
            f"float images with values from {lowest:.4g} to {highest:.4g} look "
            "like 0 to 255: divide them by 255, or pass them as uint8"
        )
    presets = [
        Normalization.given(mean, std, f"{name}, guessed from the batch")
        for name, (mean, std) in PRESETS.get(len(values), {}).items()
    ]
    tight_first = sorted(presets, key=lambda p: -sum(p.std) / len(p.std))
    return next((p for p in tight_first if p.holds(values, _ROUNDING)), None)


def from_range(values: Range) -> Normalization:
    """As `from_batch`, of float images in that range."""
    found = fitting(values)
    if found:
        return found
    if len(values) == 3:
        return Normalization.given(
            *PRESETS[3]["ImageNet"],
            "ImageNet, though the batch exceeds its range",
        )
    lowest, highest = ends(values)
    raise ValueError(
        f"images of {len(values)} channels with values from {lowest:.4g} to "
        f"{highest:.4g} carry no known normalisation: give mean= and std= "
        "(mean=0.0, std=1.0 leaves the values as they are, unclipped but by named "
        "schemes, which work on [0, 1])"
    )


def from_batch(images: Tensor) -> Normalization:
    """The normalisation that this batch `[B, C, H, W]` seems to carry.

    Values in [0, 1], or about as far outside as a cubic resampling takes them, mean
    none (uint8 is scaled to it); otherwise the tightest known preset whose range holds
    every channel; else ImageNet for three channels.

    Raises:
        ValueError: no preset is known for that many channels, the values look like
            0 to 255, or the images are integers of another kind than uint8.
    """
    check_dtype(images)
    if not images.is_floating_point():
        return Normalization(source="integer images, which are scaled to [0, 1]")
    return from_range(channel_ranges(images))


def ends(values: Range) -> tuple[float, float]:
    """Lowest and highest value of all channels."""
    return min(low for low, _ in values), max(high for _, high in values)


def known_normalization(
    model: nn.Module, mean: Statistics | None, std: Statistics | None
) -> Normalization | None:
    """The normalisation given, else the model's own, else None.

    Raises:
        ValueError: only one of mean and std is given.
    """
    if (mean is None) != (std is None):
        raise ValueError(f"give mean and std together, got mean={mean}, std={std}")
    if mean is None or std is None:
        return from_model(model)
    return Normalization.given(mean, std)
