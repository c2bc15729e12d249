"""Named schemes that draw operations: RandAugment, TrivialAugment, AutoAugment.

They take and return pixels in [0, 1]; what lies outside is clipped. What each row does
is drawn on the CPU, from torch's global stream, which a training step forks and seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from dai_plugin.views.composed import Summand
from dai_plugin.views.operations import Strengths, perform_

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
STATIC = ("auto_contrast", "equalize", "posterize", "solarize")
# Of all that is drawn, whatever torch's default is.
DTYPE = torch.float32
COLOURS = ("color", "contrast", "brightness", "sharpness")


class Named(Summand):
    """A scheme that is a callable of its own, known by a name; pixels move.

    Attributes:
        name: what stands for it in `scheme=`.
    """

    name: ClassVar[str]

    def __call__(self, images: Tensor) -> Tensor:
        """Changed rows of float images `[N, C, H, W]`."""
        return self._changed(images.clamp(0, 1))

    def _changed(self, rows: Tensor) -> Tensor:
        """The changed rows, which may be written to."""
        raise NotImplementedError


@dataclass(frozen=True)
class RandAugment(Named):
    """Several random operations a row, all at one magnitude (arXiv:1909.13719).

    The 14 operations, ranges and defaults of torchvision's `RandAugment`; bilinear
    instead of nearest.

    Attributes:
        num_ops: operations a row, with repetition.
        magnitude: of all, from 0 to `num_magnitude_bins - 1`.
        num_magnitude_bins: steps of the magnitude.

    Raises:
        ValueError: a number out of its range.
    """

    name: ClassVar[str] = "randaugment"
    strengths: ClassVar[Strengths] = Strengths()

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        within(self, "num_ops", 1)
        within(self, "num_magnitude_bins", 2)
        within(self, "magnitude", 0, self.num_magnitude_bins - 1)

    @property
    def _level(self) -> float:
        return self.magnitude / (self.num_magnitude_bins - 1)

    def _changed(self, rows: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            names = some(("identity", *STATIC, *COLOURS, *GEOMETRY), len(rows))
            levels = self._level * signs(len(rows))
            perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(self._level, self._level)
        return f"RandAugment: {self.num_ops} of 14 operations a row, {shown}"


@dataclass(frozen=True)
class TrivialAugment(Named):
    """One random operation a row, at a random magnitude (arXiv:2103.10158).

    The paper's wide space, as torchvision's `TrivialAugmentWide`: 14 operations with
    their ranges; bilinear instead of nearest.

    Attributes:
        num_magnitude_bins: steps of the magnitude, from nothing to the whole range.

    Raises:
        ValueError: there are fewer than two steps.
    """

    name: ClassVar[str] = "trivialaugment"
    strengths: ClassVar[Strengths] = Strengths(
        shear=0.99, translation=0, pixels=32, rotation=135, colour=0.99, bits=(8, 2)
    )

    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        within(self, "num_magnitude_bins", 2)

    def _changed(self, rows: Tensor) -> Tensor:
        count, bins = len(rows), self.num_magnitude_bins
        names = some(("identity", *STATIC, *COLOURS, *GEOMETRY), count)
        levels = torch.randint(bins, (count,)) * signs(count) / (bins - 1)
        perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(0, 1)
        return f"TrivialAugment: 1 of 14 operations a row, {shown}"


@dataclass(frozen=True)
class AutoAugment(Named):
    """One learnt pair of operations a row, each with a chance (arXiv:1805.09501).

    The policies are the paper's, as kornia lists them; the ranges are torchvision's
    (kornia's `AutoAugment` counts magnitudes from the lower end of a signed range).
    Bilinear instead of nearest.

    Attributes:
        policy: "imagenet", "cifar10" or "svhn".

    Raises:
        ValueError: there is no such policy.
    """

    name: ClassVar[str] = "autoaugment"
    strengths: ClassVar[Strengths] = Strengths()

    policy: str = "imagenet"

    def __post_init__(self) -> None:
        if self.policy not in ("imagenet", "cifar10", "svhn"):
            raise ValueError(
                f"unknown policy {self.policy!r}: take imagenet, cifar10 or svhn"
            )

    def _changed(self, rows: Tensor) -> Tensor:
        pairs = _policies(self.policy)
        drawn = [pairs[i] for i in torch.randint(len(pairs), (len(rows),)).tolist()]
        for steps in zip(*drawn, strict=True):
            chances = uniform(len(rows)).tolist()
            names = [
                name if chance < probability else "identity"
                for (name, probability, _), chance in zip(steps, chances, strict=True)
            ]
            levels = signs(len(rows)) * torch.tensor(
                [level for *_, level in steps], dtype=DTYPE
            )
            perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(0, 1)
        return f"AutoAugment ({self.policy}): 1 of 25 pairs a row, {shown}"


def within(scheme: Named, field: str, low: float, high: float = math.inf) -> None:
    """Raises a ValueError if a field of a scheme lies outside."""
    value = getattr(scheme, field)
    if not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
        raise ValueError(
            f"{field} of {type(scheme).__name__} must be {limits}, got {value}"
        )


def some(names: Sequence[str], count: int) -> list[str]:
    """One of the names for each row."""
    return [names[i] for i in torch.randint(len(names), (count,)).tolist()]


def signs(count: int) -> Tensor:
    """-1 or 1 for each row."""
    return torch.randint(2, (count,)).to(DTYPE) * 2 - 1


def uniform(*shape: int, low: float = 0, high: float = 1) -> Tensor:
    """Numbers between two ends."""
    return torch.empty(shape, dtype=DTYPE).uniform_(low, high)


@lru_cache
def _policies(name: str) -> list[list[tuple[str, float, float]]]:
    """Pairs of (operation, probability, level from 0 to 1)."""
    from kornia.augmentation.auto.autoaugment import autoaugment

    return [
        [(op, probability, (step or 0) / 9) for op, probability, step in pair]
        for pair in getattr(autoaugment, f"{name}_policy")
    ]
