"""Gradient attacks on a classifier inside a ball: PGD, and FGSM, its first step.

Each is called with a model from [0, 1] pixels to logits (`adversary.OnPixels`), images
`[B, C, H, W]` in [0, 1] and classes `[B]`, and returns images of the same shape. What
is drawn for an image depends on the seed and its pixels alone, not on batch or order.
"""

from dataclasses import dataclass
from math import inf
from typing import get_args

from torch import Tensor, nn

from dai_plugin.measures.adversary import undisturbed
from dai_plugin.measures.balls import Ball, Norm
from dai_plugin.measures.search import Loss, Search, check_counts, image_seeds

__all__ = ["PGD", "fgsm"]


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent of the loss inside a ball (arXiv:1706.06083).

    The result is the first point on the way that the network takes for another class,
    else that of the highest loss; images that are misclassified already come back as
    they are. With a fixed `step_size`, more steps or restarts never find less.

    Attributes:
        eps: radius of the ball, in [0, 1] pixels.
        norm: "linf" (steps along the gradient's sign) or "l2" (along the gradient).
        steps: of each restart.
        step_size: in [0, 1] pixels; None is `2.5 * eps / steps`.
        restarts: from one random point after another.
        random_start: whether to start at a random point of the ball, not at the image.
        loss: "ce" (cross-entropy) or "margin"; see `search.strength`.
        seed: of the random starts.

    Raises:
        ValueError: a number is out of range, or a name unknown.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: Loss = "ce"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(steps=self.steps, restarts=self.restarts)
        Ball(self.eps, self.norm)
        if self.loss not in get_args(Loss):
            raise ValueError(
                f"unknown loss {self.loss!r}: take one of {', '.join(get_args(Loss))}"
            )
        if self.step_size is not None and not 0 <= self.step_size < inf:
            raise ValueError(
                f"step_size must be a number from 0 up, got {self.step_size}"
            )
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts={self.restarts} from the image itself are all the same: "
                "take random_start=True, or restarts=1"
            )

    @property
    def ball(self) -> Ball:
        """In which the results lie about their images."""
        return Ball(self.eps, self.norm)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial images `[B, C, H, W]`; see the module."""
        with undisturbed(model):
            search = Search(model, images, labels, self.loss)
            if self.random_start:
                search.offer(search.images)
            for restart in range(self.restarts):
                self._ascend(search, restart)
            search.warn_of_flatness()
            return search.found

    def _ascend(self, search: Search, restart: int) -> None:
        """One way up from one start, for all images that are pending."""
        size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        points = search.pending
        if self.random_start and len(points):
            points = self.ball.random(points, image_seeds(points, self.seed, restart))
        for _ in range(self.steps):
            if not len(points):
                return
            points, gradient = search.climb(points)
            moved = self.ball.step(points, gradient, size)
            points = self.ball.project(moved, search.pending)
        if len(points):
            search.offer(points)


def fgsm(eps: float = 8 / 255, norm: Norm = "linf", loss: Loss = "ce") -> PGD:
    """One step of the whole radius from the image (arXiv:1412.6572)."""
    return PGD(eps, norm, steps=1, step_size=eps, random_start=False, loss=loss)
