"""Task loss and terms become the objective: pure functions of a step.

L = (1 - alpha - beta) * L_task + sum over terms t, layers l of w_t * w_tl * L_tl

Where views are made in every k-th step, the terms weigh k times as much there.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from dai_plugin.settings import Settings
from dai_plugin.training.step import Step


def factor(step: Step, settings: Settings) -> float:
    """The weight of the task loss in this step, 1 - alpha - beta."""
    return 1 - step.multiplier * settings.weight


def objective(
    step: Step,
    task: Tensor,
    settings: Settings,
    terms: Iterable[tuple[float, Tensor, Tensor]],
    scale: float | Tensor = 1.0,
) -> Tensor:
    """The objective, a fresh tensor.

    Args:
        step: of the losses.
        task: the task loss, of any shape; the terms are added to each element.
        settings: of the run.
        terms: weight of each, losses `[calls]` on the task's device, and the shares
            `[calls]` of its layers, which sum to 1.
        scale: of the terms; B where the task loss is a sum over images.
    """
    total = factor(step, settings) * task
    for weight, losses, shares in terms:
        # A layer of weight 0 contributes nothing, whatever its loss: not 0 * NaN.
        counted = torch.where(shares > 0, losses, 0.0)
        share = step.multiplier * weight * settings.every
        total = total + scale * share * torch.dot(counted, shares)
    return total
