"""Task loss and invariance losses become the objective: pure functions of a step.

L = (1 - alpha - beta) * L_task + sum_l alpha_l * L_inv_l + sum_l beta_l * L_class_l
"""

import torch
from torch import Tensor

from dai_plugin.losses.ratio import class_invariance_loss
from dai_plugin.losses.weights import spread_weights
from dai_plugin.settings import Settings
from dai_plugin.training.step import Step


def factor(step: Step, settings: Settings) -> float:
    """The weight of the task loss in this step, 1 - alpha - beta."""
    return 1 - step.multiplier * (settings.alpha + settings.beta)


def objective(
    step: Step,
    settings: Settings,
    weights: Tensor,
    task: Tensor,
    labels: Tensor | None = None,
    scale: float | Tensor = 1.0,
    ignore_index: int = -100,
) -> Tensor:
    """The objective, a fresh tensor.

    Args:
        step: whose layers were measured.
        settings: of the run.
        weights: `[calls]` of the layers, which sum to 1.
        task: the task loss, of any shape; the terms are added to each element.
        labels: `[num_views * B]` hard labels, for beta > 0.
        scale: of the terms; B where the task loss is a sum over images.
        ignore_index: the label of rows that have none.

    Raises:
        ValueError: beta > 0 without labels.
        RuntimeError: beta > 0 after a backward of the step.
    """
    total = factor(step, settings) * task
    if step.multiplier * settings.alpha > 0:
        assert step.losses is not None
        total = total + _weighted(step.losses, weights, settings.alpha, step, scale)
    if step.multiplier * settings.beta > 0:
        if labels is None:
            raise ValueError("beta > 0 needs labels, and none were given")
        losses = _class_losses(step, labels, settings, ignore_index)
        total = total + _weighted(losses, weights, settings.beta, step, scale)
    return total


def _weighted(
    losses: Tensor, weights: Tensor, share: float, step: Step, scale: float | Tensor
) -> Tensor:
    # A layer of weight 0 contributes nothing, whatever its loss: not 0 * NaN.
    counted = torch.where(weights > 0, losses, 0.0)
    return scale * (step.multiplier * share) * torch.dot(counted, weights)


def _class_losses(
    step: Step, labels: Tensor, settings: Settings, ignore_index: int
) -> Tensor:
    """Class-wise losses `[calls]` of the activations that were kept."""
    if not step.activations:
        raise RuntimeError(
            "a loss with class-wise terms (beta > 0) was asked for after a backward of "
            "this step, which let go of the activations; take all losses of a step "
            "before the first backward"
        )
    losses = [
        class_invariance_loss(
            activation,
            labels,
            correction=settings.correction,
            ignore_index=ignore_index,
        )
        for activation in step.activations.values()
    ]
    return torch.stack([loss.to(losses[-1].device) for loss in losses])


class Weights:
    """Weights of the layers, kept on the device: a copy from the host waits for it."""

    def __init__(self, settings: Settings, chosen: list[str]) -> None:
        self._law = settings.layer_weights, settings.last_to_first
        self._chosen = list(chosen)
        self._kept: dict[object, Tensor] = {}
        spread_weights(*self._law, self._chosen, [(name, 0) for name in self._chosen])

    def shares(self, step: Step) -> list[float]:
        """Of the calls of a step; they sum to 1."""
        return spread_weights(*self._law, self._chosen, step.fired)

    def __call__(self, step: Step, like: Tensor) -> Tensor:
        """The same as a tensor `[calls]` of that device and dtype."""
        key = (*step.fired, like.device, like.dtype)
        if key not in self._kept:
            self._kept[key] = torch.tensor(
                self.shares(step), device=like.device, dtype=like.dtype
            )
        return self._kept[key]
