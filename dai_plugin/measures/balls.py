"""How far an adversarial image may lie from its image: pure functions of pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]

# What lies further out than by this share, and this much, was not rounded there.
_SHARE, _ROUNDING = 1e-4, 1e-6


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of an image, in [0, 1] pixels and inside [0, 1].

    Attributes:
        eps: radius in [0, 1] pixels: of the largest change of any pixel ("linf"), or of
            the length of the change of all pixels of an image together ("l2").
        norm: which of the two.

    Raises:
        ValueError: the norm is unknown, or eps out of range.
    """

    eps: float
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(
                f"unknown norm {self.norm!r}: take one of {', '.join(get_args(Norm))}"
            )
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be a number from 0 up, got {self.eps}")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"eps must lie in [0, 1], as pixels do, got {self.eps}; "
                f"{self.eps:g} of 255 grey levels are eps={self.eps:g} / 255"
            )

    def distances(self, points: Tensor, images: Tensor) -> Tensor:
        """How far points lie from their images, `[B]` of two `[B, C, H, W]`."""
        change = (points - images).flatten(1)
        order = math.inf if self.norm == "linf" else 2
        distances: Tensor = torch.linalg.vector_norm(change, order, dim=1)
        return distances

    def holds(self, points: Tensor, images: Tensor) -> Tensor:
        """Which points lie inside, but for rounding: bool `[B]`."""
        return self.distances(points, images) <= self.eps * (1 + _SHARE) + _ROUNDING

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """The nearest points of the ball, then of [0, 1]: both `[B, C, H, W]`.

        The images lie in [0, 1], so that the second leads no point out of the ball.
        """
        if self.norm == "linf":
            inside = points.clamp(images - self.eps, images + self.eps)
        else:
            lengths = _column(self.distances(points, images))
            inside = images + (points - images) * (self.eps / lengths).clamp(max=1)
        return inside.clamp(0, 1)

    def step(self, points: Tensor, gradient: Tensor, size: float) -> Tensor:
        """The points, moved by `size` up the gradient: steepest ascent in the norm."""
        if self.norm == "linf":
            return points + size * gradient.sign()
        # Of the largest entry first: squares of small gradients would underflow.
        largest = _column(gradient.flatten(1).abs().amax(1))
        scaled = gradient / largest
        lengths = _column(torch.linalg.vector_norm(scaled.flatten(1), dim=1))
        return points + size * scaled / lengths

    def random(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Points drawn evenly from the balls, then brought into [0, 1].

        Args:
            images: `[B, C, H, W]` pixels.
            seeds: one an image, which alone decides what is drawn for it.
        """
        changes = [self._draw(images.shape[1:], seed) for seed in seeds]
        return self.project(images + torch.stack(changes).to(images), images)

    def _draw(self, shape: torch.Size, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.norm == "linf":
            return self.eps * (2 * _drawn(torch.rand, shape, generator) - 1)
        direction = _drawn(torch.randn, shape, generator)
        radius = _drawn(torch.rand, (), generator).pow(1 / shape.numel())
        length: Tensor = torch.linalg.vector_norm(direction)
        return direction * (self.eps * radius / length)


def _drawn(
    law: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator
) -> Tensor:
    # The same numbers whatever torch's default dtype and device are.
    return law(shape, generator=generator, dtype=torch.float32, device="cpu")


def _column(values: Tensor) -> Tensor:
    """`[B]` values beside `[B, C, H, W]`, none of them 0."""
    return values.clamp(min=torch.finfo(values.dtype).tiny)[:, None, None, None]
