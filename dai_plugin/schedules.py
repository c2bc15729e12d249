"""Schedules for `alpha_schedule`: from the step to a multiplier of alpha and beta.

A step is a training forward, so that with gradient accumulation an optimizer's step
counts several. The multiplier times alpha + beta must lie in [0, 1].
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class linear_warmup:
    """From `start` at step 0 to 1 at step `steps`, in equal increments.

    Raises:
        ValueError: `steps` is not positive or `start` is negative.
    """

    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps, start=self.start)

    def __call__(self, step: int) -> float:
        """The multiplier at a step."""
        return self.start + (1 - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class cosine:
    """From `start` at step 0 to `end` at step `steps`, along half a cosine wave.

    Raises:
        ValueError: `steps` is not positive, or an end is negative.
    """

    steps: int
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps, start=self.start, end=self.end)

    def __call__(self, step: int) -> float:
        """The multiplier at a step."""
        wave = (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.end + (self.start - self.end) * wave


@dataclass(frozen=True)
class milestones:
    """1 at first, times `gamma` at each of the steps.

    Raises:
        ValueError: the steps do not grow, or `gamma` is negative.
    """

    steps: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"milestones must grow, got {list(self.steps)}")
        _check(1, gamma=self.gamma)

    def __call__(self, step: int) -> float:
        """The multiplier at a step."""
        return self.gamma ** bisect_right(self.steps, step)


def _check(steps: int, **multipliers: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for name, value in multipliers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number from 0 up, got {value}")
