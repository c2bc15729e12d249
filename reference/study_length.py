"""What the budget of a training comes to: images in a step, steps, rows."""

import math
from dataclasses import dataclass
from typing import Any, Self

from study_settings import Training

import dai_plugin


@dataclass(frozen=True)
class Length:
    """Of a training.

    Attributes:
        images: in a step.
        steps: how many.
        rows: in all, as planned.
    """

    images: int
    steps: int
    rows: int

    @classmethod
    def of(
        cls, training: Training, keywords: dict[str, Any] | None, train: int
    ) -> Self:
        """What the budget comes to.

        `keywords` are those of attach, None for a plain loop, `train` the number of
        training images.
        """
        cost = 1.0  # rows an image
        if keywords is not None:
            told = dai_plugin.Settings(**keywords)
            cost += (told.num_views - 1) * told.share / told.every
        images = training.images or max(round((training.rows or 0) / cost), 1)
        if training.steps is not None:
            steps = training.steps
        elif training.epochs is not None:
            steps = math.ceil(training.epochs * train / images)
        else:
            steps = round((training.total_rows or 0) / images / cost)
        steps = max(steps, 1)
        return cls(images, steps, round(steps * images * cost))
