"""The objective as its formula is written: pairs of rows, float64, nothing clever.

For two images at a time: `check` compares the gradients of a run with these.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import resolve
from dai_plugin.losses.weights import Key, spread_weights
from dai_plugin.settings import Settings
from dai_plugin.training.criterion import told_reduction
from dai_plugin.training.hooks import find_rows
from dai_plugin.training.loss import own_loss


def literal_gradient(
    network: nn.Module,
    criterion: Any,
    call: tuple[Any, Any],
    targets: Any,
    layers: list[str],
    settings: Settings,
) -> dict[str, Tensor]:
    """The gradient of the objective in float64, by parameter.

    Args:
        network: that nothing is attached to; its gradients are written.
        criterion: of the loop, or None if the network returns its loss.
        call: arguments and keywords of the network, with views.
        targets: of the first view, for the criterion.
        layers: that were chosen.
        settings: of the run.
    """
    activations: dict[Key, Tensor] = {}
    rows = _rows_of(call)
    handles = [
        resolve(network, name).register_forward_hook(_keeper(name, rows, activations))
        for name in layers
    ]
    torch.manual_seed(0)
    output = network(*call[0], **call[1])
    for handle in handles:
        handle.remove()
    images = rows // settings.num_views
    views = settings.num_views if criterion is not None else 1
    losses = [
        task_of(_view(output, v, images, rows), criterion, targets, settings.loss)
        for v in range(views)
    ]
    task = torch.stack([loss.mean() for loss in losses]).mean()
    terms = _invariance_terms(activations, layers, images, settings, task.device)
    if settings.beta:
        terms = terms + _class_terms(activations, layers, targets, settings)
    if _sums(criterion, _view(output, 0, images, rows), targets, losses[0]):
        terms = images * terms
    multiplier = settings.multiplier(0)
    factor = 1 - multiplier * (settings.alpha + settings.beta)
    total = factor * task.double() + terms
    total.backward()
    return {
        name: parameter.grad.double()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def grouped_loss(rows: Tensor, groups: Tensor, correction: int) -> Tensor:
    """Mean distance within groups over that of all pairs, arXiv:1906.04547.

    Args:
        rows: `[N, ...]`.
        groups: `[N]`, the number of the group that each row belongs to.
        correction: 0 counts all ordered pairs, 1 distinct ones.
    """
    flat = rows.double().flatten(1)
    distances = (flat[:, None] - flat[None, :]).square().mean(2)
    pairs = torch.ones_like(distances) - correction * torch.eye(len(flat)).to(distances)
    total = (distances * pairs).sum() / pairs.sum()
    within = []
    for group in torch.unique(groups):
        inside = pairs * (groups[:, None] == group) * (groups[None, :] == group)
        if inside.sum():
            within.append((distances * inside).sum() / inside.sum())
    return torch.stack(within).mean() / total if within and total > 0 else total * 0


def _invariance_terms(
    activations: dict[Key, Tensor],
    layers: list[str],
    images: int,
    s: Settings,
    device: torch.device,
) -> Any:
    groups = torch.arange(images).repeat(s.num_views)
    return sum(
        s.multiplier(0)
        * s.alpha
        * weight
        * grouped_loss(a, groups.to(a.device), s.correction).to(device)
        for weight, a in _weighted(activations, layers, s)
    )


def _class_terms(
    activations: dict[Key, Tensor], layers: list[str], labels: Tensor, s: Settings
) -> Any:
    groups = labels.repeat(s.num_views)
    return sum(
        s.multiplier(0) * s.beta * weight * grouped_loss(a, groups, s.correction)
        for weight, a in _weighted(activations, layers, s)
    )


def _weighted(
    activations: dict[Key, Tensor], layers: list[str], settings: Settings
) -> list[tuple[float, Tensor]]:
    law = settings.layer_weights, settings.last_to_first
    weights = spread_weights(*law, layers, list(activations))
    return list(zip(weights, activations.values(), strict=True))


def task_of(output: Any, criterion: Any, targets: Any, name: str | int) -> Tensor:
    """The task loss as a loop takes it: from the criterion, or what has that name."""
    if criterion is None:
        return own_loss(output, name)
    leaves = pytree.tree_leaves(criterion(output, targets))
    loss: Tensor = next(t for t in leaves if isinstance(t, Tensor))
    return loss


def _sums(criterion: Any, output: Any, targets: Any, loss: Tensor) -> bool:
    """Whether the loss of the images is the sum of those of each by itself."""
    if criterion is None or loss.dim():
        return False
    told = told_reduction(criterion, (output, targets), {})
    if told is not None:
        return told == "sum"
    try:
        with torch.no_grad():
            images = len(next(iter(pytree.tree_leaves(targets))))
            single = [
                criterion(*(_view((output, targets), i, 1, images)))
                for i in range(images)
            ]
        leaves = [next(iter(pytree.tree_leaves(each))) for each in single]
        return bool(torch.isclose(torch.stack(leaves).sum(), loss, rtol=0.05))
    except Exception:
        return False  # a criterion that takes no single image


def _view(output: Any, v: int, images: int, rows: int) -> Any:
    def part(leaf: Any) -> Any:
        split = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
        return leaf[v * images : (v + 1) * images] if split else leaf

    return pytree.tree_map(part, output)


def _rows_of(call: tuple[Any, Any]) -> int:
    leaves = pytree.tree_leaves(call)
    images = next(t for t in leaves if isinstance(t, Tensor) and t.dim() == 4)
    return int(images.shape[0])


def _keeper(name: str, rows: int, activations: dict[Key, Tensor]) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        key = name, sum(layer == name for layer, _ in activations)
        # A copy, since what follows may overwrite it in place.
        activations[key] = find_rows(name, output, rows).clone()

    return keep
