"""Which normalisation a batch already carries: schemes see [0, 1] pixels behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn

Statistics = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Normalization:
    """Images are `(pixels - mean) / std` with pixels in [0, 1], channel by channel.

    Attributes:
        mean: one number, or one a channel.
        std: one number, or one a channel; positive.
        source: where the values come from, for messages.

    Raises:
        ValueError: a standard deviation is not positive.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    source: str = "given"

    def __post_init__(self) -> None:
        if not all(std > 0 for std in self.std):
            raise ValueError(f"std must be positive, got {self.std}")

    @classmethod
    def given(cls, mean: Statistics, std: Statistics, source: str = "given") -> Self:
        """From numbers, sequences or tensors."""
        return cls(_floats(mean), _floats(std), source)

    def tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std as float32 `[C, 1, 1]` (or `[1, 1, 1]`) on the images' device.

        Raises:
            ValueError: the number of channels is another.
        """
        channels = images.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"{name} has {len(values)} values ({self.source}), the images have "
                    f"{channels} channels: give mean= and std= for these images"
                )
        return _column(self.mean, images.device), _column(self.std, images.device)

    def ranges(self, channels: int) -> list[tuple[float, float]]:
        """Where [0, 1] pixels lie, channel by channel."""
        mean, std = (
            values * channels if len(values) == 1 else values
            for values in (self.mean, self.std)
        )
        return [(-m / s, (1 - m) / s) for m, s in zip(mean, std, strict=True)]

    def prepare(self, images: Tensor) -> Tensor:
        """Float images as they are; integer ones scaled to [0, 1] and normalised."""
        if images.is_floating_point():
            return images
        mean, std = self.tensors(images)
        return (images / 255 - mean) / std

    def __str__(self) -> str:
        if self.mean == (0.0,) and self.std == (1.0,):
            return f"none ({self.source})"
        mean, std = (
            ", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std)
        )
        return f"mean ({mean}), std ({std}) ({self.source})"


@cache
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept, because a copy from the host would wait for the device at each step.
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _floats(values: Statistics) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


PRESETS: dict[int, dict[str, tuple[Statistics, Statistics]]] = {
    3: {
        "half": (0.5, 0.5),
        "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
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


def from_batch(images: Tensor) -> Normalization:
    """The normalisation that this batch `[B, C, H, W]` seems to carry.

    Values in [0, 1] mean none (uint8 is scaled to it); otherwise the tightest known
    preset whose range holds every channel; else ImageNet for three channels.

    Raises:
        ValueError: no preset is known for that many channels, or the values look like
            0 to 255.
    """
    if not images.is_floating_point():
        return Normalization(source="integer images, which are scaled to [0, 1]")
    values = images.detach().float()
    low, high = values.amin((0, 2, 3)), values.amax((0, 2, 3))
    if low.min() >= 0 and high.max() <= 1:
        return Normalization(source="the first batch lies in [0, 1]")
    if low.min() >= 0 and high.max() > 20:
        raise ValueError(
            f"float images with values from {low.min():.4g} to {high.max():.4g} look "
            "like 0 to 255: divide them by 255, or pass them as uint8"
        )
    presets = [
        Normalization.given(mean, std, f"{name}, guessed from the batch")
        for name, (mean, std) in PRESETS.get(images.shape[1], {}).items()
    ]
    for preset in sorted(presets, key=lambda p: -sum(p.std) / len(p.std)):
        mean, std = preset.tensors(low[None, :, None, None])
        # Normalising in half precision rounds the ends of the range.
        inside = (low * std.view(-1) + mean.view(-1) > -0.01).all() and (
            high * std.view(-1) + mean.view(-1) < 1.01
        ).all()
        if inside:
            return preset
    if images.shape[1] == 3:
        return Normalization.given(
            *PRESETS[3]["ImageNet"],
            "ImageNet, though the batch exceeds its range",
        )
    raise ValueError(
        f"images of {images.shape[1]} channels with values from {low.min():.4g} to "
        f"{high.max():.4g} carry no known normalisation: give mean= and std= "
        "(mean=0.0, std=1.0 leaves the values as they are)"
    )


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
