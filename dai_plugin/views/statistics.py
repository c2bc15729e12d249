"""The normalisation that images carry: schemes see [0, 1] pixels behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

Statistics = float | Sequence[float] | Tensor
Range = Sequence[tuple[float, float]]
"""Lowest and highest value, channel by channel."""


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
        self.check(images.shape[1])
        return _column(self.mean, images.device), _column(self.std, images.device)

    def suits(self, channels: int) -> bool:
        """Whether images of so many channels can carry it."""
        return {len(self.mean), len(self.std)} <= {1, channels}

    def check(self, channels: int) -> None:
        """Raises if images of so many channels cannot carry it.

        Raises:
            ValueError: so it is.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"{name} has {len(values)} values ({self.source}), the images have "
                    f"{channels} channels: give mean= and std= for these images"
                )

    @property
    def none(self) -> bool:
        """Whether images are the pixels themselves."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    def pixels(self, values: Range) -> tuple[float, float]:
        """Lowest and highest pixel, in [0, 1], of images in that range.

        Raises:
            ValueError: the number of channels is another.
        """
        channels = len(values)
        self.check(channels)
        means, stds = (
            each * channels if len(each) == 1 else each
            for each in (self.mean, self.std)
        )
        ends = [
            (low * std + mean, high * std + mean)
            for (low, high), mean, std in zip(values, means, stds, strict=True)
        ]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def holds(self, values: Range, tolerance: float) -> bool:
        """Whether pixels of images in that range lie in [0, 1], but for the tolerance.

        Raises:
            ValueError: the number of channels is another.
        """
        low, high = self.pixels(values)
        return low > -tolerance and high < 1 + tolerance

    def ranges(
        self, channels: int, low: float = 0.0, high: float = 1.0
    ) -> list[tuple[float, float]]:
        """Where pixels from `low` to `high` lie, channel by channel."""
        mean, std = (
            values * channels if len(values) == 1 else values
            for values in (self.mean, self.std)
        )
        return [
            (-(m - low) / s, (high - m) / s) for m, s in zip(mean, std, strict=True)
        ]

    def prepare(self, images: Tensor) -> Tensor:
        """Float images as they are; uint8 ones scaled to [0, 1] and normalised.

        These come in torch's default dtype, computed in float32 at least.

        Raises:
            ValueError: the images are of another integer dtype, bool or complex.
        """
        check_dtype(images)
        if images.is_floating_point():
            return images
        mean, std = self.tensors(images)
        default = torch.get_default_dtype()
        wide = torch.promote_types(default, torch.float32)
        return ((images.to(wide) / 255 - mean) / std).to(default)

    def carry(self, pixels: Tensor, like: Tensor) -> Tensor:
        """Images of [0, 1] pixels, as other images are: their dtype and device."""
        mean, std = self.tensors(like)
        return ((pixels.to(like.device) - mean) / std).to(like.dtype)

    def __str__(self) -> str:
        if self.none:
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
    return tuple(
        torch.as_tensor(values, dtype=torch.float64, device="cpu").flatten().tolist()
    )


def check_images(images: Tensor) -> None:
    """Raises unless the images are `[B, C, H, W]` floats or uint8 with pixels in them.

    Raises:
        ValueError: so it is.
    """
    if images.dim() != 4:
        raise ValueError(
            f"images of shape {list(images.shape)}: views are made of [B, C, H, W]"
        )
    sizes = dict(
        zip(("images", "channels", "lines", "columns"), images.shape, strict=True)
    )
    missing = [name for name, size in sizes.items() if size == 0]
    if missing:
        raise ValueError(
            f"images of shape {list(images.shape)} have 0 {' and 0 '.join(missing)}, "
            "so that there is no pixel to make views of; leave such batches out"
        )
    _, second, third, last = images.shape
    if last in (1, 3, 4) and second > 4 and third > 4:
        raise ValueError(
            f"images of shape {list(images.shape)} look like [B, H, W, C]; views are "
            "made of [B, C, H, W]: images.permute(0, 3, 1, 2)"
        )
    check_dtype(images)


def check_dtype(images: Tensor) -> None:
    """Raises unless the images are floats or uint8.

    Raises:
        ValueError: so it is.
    """
    if images.is_floating_point() or images.dtype == torch.uint8:
        return
    if images.dtype == torch.bool:
        advice = "images.float() turns False and True into 0 and 1"
    elif images.is_complex():
        advice = "torch.view_as_real(images) gives their parts, to stack as channels"
    else:
        advice = (
            "images.float() / highest, where highest is the largest value that they "
            "may have (65535 for 16 bits), or images.to(torch.uint8) where that is 255"
        )
    raise ValueError(
        f"images of dtype {images.dtype}: they must be floating point, or uint8, which "
        f"alone is scaled to [0, 1], by 255; convert them: {advice}"
    )
