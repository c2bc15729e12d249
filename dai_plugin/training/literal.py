"""The objective as its formula is written: pairs of rows, float64, nothing clever.

For a few images at a time: `check` compares the gradients of a run with these.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import select_layers
from dai_plugin.losses import literal
from dai_plugin.losses.terms import Term
from dai_plugin.losses.weights import Key, spread_weights
from dai_plugin.settings import Settings
from dai_plugin.training.arguments import COUNT
from dai_plugin.training.criterion import told_reduction
from dai_plugin.training.hooks import LayerHooks, find_rows
from dai_plugin.training.look import is_sum
from dai_plugin.training.loss import own_loss
from dai_plugin.training.predictions import predictions
from dai_plugin.views.rows import Layout
from dai_plugin.wrappers import OUTPUT


def literal_gradient(
    network: nn.Module,
    criterion: Any,
    call: tuple[Any, Any],
    targets: Sequence[Any],
    layers: list[str],
    settings: Settings,
    layout: Layout,
    labels: Tensor | None,
    ignored: int,
) -> dict[str, Tensor]:
    """The gradient of the objective in float64, by parameter.

    Args:
        network: that nothing is attached to; its gradients are written.
        criterion: of the loop, or None if the network returns its loss.
        call: arguments and keywords of the network, with views.
        targets: of each view, for the criterion.
        layers: that were chosen.
        settings: of the run.
        layout: of the rows.
        labels: `[B, ...]`, for terms that need targets.
        ignored: label of rows that have none.
    """
    # As it was before the step.
    unused = copy.deepcopy(network) if criterion is None else None
    rows = _rows_of(call)
    chosen = {repr(t.layers): select_layers(network, t.layers) for t in settings.terms}
    chosen = {key: [n for n in names if n in layers] for key, names in chosen.items()}
    activations: dict[Key, Tensor] = {}
    hooks = LayerHooks(network, [name for name in layers if name != OUTPUT])
    hooks.visit = lambda name, value: _keep(name, value, rows, activations)
    torch.manual_seed(0)
    output = network(*call[0], **call[1])
    hooks.remove()
    if OUTPUT in layers:
        reached = None if criterion is None else find_rows(OUTPUT, output, rows)
        loss = settings.loss if criterion is None else None
        activations[OUTPUT, 0] = predictions(output, rows, loss, reached)
    images, viewed = layout.images, layout.viewed
    if criterion is None:
        task = own_loss(output, settings.loss)
        sums = _own_sums(unused, call, settings.loss, task.detach())
        task = task.mean() * (images / rows if sums else 1)
    else:
        task, sums = _task(output, criterion, targets, settings.loss, layout)
    in_groups = [*range(viewed), *range(images, rows)]
    activations = {key: a[in_groups] for key, a in activations.items()}
    own = None if labels is None else labels[:viewed]
    terms = _terms(activations, chosen, own, viewed, settings, ignored, task.device)
    terms = terms * settings.every * (images if sums else 1)
    factor = 1 - settings.multiplier(0) * settings.weight
    total = factor * task.double() + terms
    total.backward()
    return {
        name: parameter.grad.double()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def _task(
    output: Any, criterion: Any, targets: Sequence[Any], name: str | int, layout: Layout
) -> tuple[Tensor, bool]:
    """The task loss over all rows, and whether it is a sum over images."""
    rows, images, viewed = layout.rows, layout.images, layout.viewed
    first = _part(output, slice(images), rows)
    loss = task_of(first, criterion, targets[0], name)
    sums, task = _sums(criterion, first, targets[0], loss), loss.mean() * images / rows
    for v in range(1, layout.num_views):
        view = _part(output, layout.view(v), rows)
        loss = task_of(view, criterion, targets[v], name)
        # A mean counts as often as it has rows; a sum becomes B times the mean.
        task = task + loss.mean() * (images if sums else viewed) / rows
    return task, sums


def _terms(
    activations: dict[Key, Tensor],
    chosen: dict[str, list[str]],
    targets: Any,
    images: int,
    settings: Settings,
    ignored: int,
    device: torch.device,
) -> Any:
    """The terms, weighed: literally."""
    total: Any = 0.0
    for term in settings.terms:
        layers = chosen[repr(term.layers)]
        keys = [key for key in activations if key[0] in layers]
        weights = spread_weights(term.layer_weights, term.last_to_first, layers, keys)
        for weight, key in zip(weights, keys, strict=True):
            loss = _loss(term, activations[key], targets, images, settings, ignored)
            share = settings.multiplier(0) * term.weight * weight
            total = total + share * loss.to(device)
    return total


def _loss(
    term: Term,
    rows: Tensor,
    targets: Any,
    images: int,
    settings: Settings,
    ignored: int,
) -> Tensor:
    if term.loss in ("ratio", "class"):
        groups = torch.arange(images) if term.loss == "ratio" else targets
        groups = groups.repeat(settings.num_views).to(rows.device)
        counts = groups >= 0 if term.loss == "ratio" else groups != ignored
        return literal.grouped(rows[counts], groups[counts], settings.correction)
    views = rows.double().view(-1, images, *rows.shape[1:])
    if isinstance(term.loss, str):
        return _LITERAL[term.loss](views, **term.options)
    return term.loss(views, targets, **term.options)


_LITERAL: dict[str, Callable[..., Tensor]] = {
    "jsd": literal.jensen_shannon,
    "cosine": literal.cosine_distance,
    "vicreg": literal.vicreg,
}


def task_of(output: Any, criterion: Any, targets: Any, name: str | int) -> Tensor:
    """The task loss as a loop takes it: from the criterion, or what has that name."""
    if criterion is None:
        return own_loss(output, name)
    leaves = pytree.tree_leaves(criterion(output, targets))
    loss: Tensor = next(t for t in leaves if isinstance(t, Tensor))
    return loss


def _sums(criterion: Any, output: Any, targets: Any, loss: Tensor) -> bool:
    """Whether the loss of the images is the sum of those of each by itself."""
    if loss.dim():
        return False
    told = told_reduction(criterion, (output, targets), {})
    if told is not None:
        return told == "sum"
    try:
        with torch.no_grad():
            images = len(next(iter(pytree.tree_leaves(targets))))
            single = [
                criterion(*(_part((output, targets), slice(i, i + 1), images)))
                for i in range(images)
            ]
        leaves = [next(iter(pytree.tree_leaves(each))) for each in single]
        each = torch.stack(leaves)
        return bool(is_sum(loss, each.sum(), each.mean()))
    except Exception:
        return False  # a criterion that takes no single image


def _own_sums(network: Any, call: Any, name: str | int, loss: Tensor) -> bool:
    """Whether the loss that the network returned doubles if each row comes twice."""
    rows = _rows_of(call)

    def doubled(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
        return torch.cat([leaf, leaf]) if whole else leaf

    args, kwargs = pytree.tree_map(doubled, call)
    if kwargs.get(COUNT) is not None:
        kwargs = {**kwargs, COUNT: 2 * kwargs[COUNT]}
    if loss.dim():
        return False
    with torch.no_grad():
        twice = own_loss(network(*args, **kwargs), name)
    return bool(is_sum(twice, 2 * loss, loss))


def _part(values: Any, some: slice, rows: int) -> Any:
    """Some of so many rows, in any structure; what has not as many is left."""

    def part(leaf: Any) -> Any:
        split = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
        return leaf[some] if split else leaf

    return pytree.tree_map(part, values)


def _rows_of(call: tuple[Any, Any]) -> int:
    leaves = pytree.tree_leaves(call)
    images = next(t for t in leaves if isinstance(t, Tensor) and t.dim() == 4)
    return int(images.shape[0])


def _keep(name: str, value: Any, rows: int, activations: dict[Key, Tensor]) -> None:
    key = name, sum(layer == name for layer, _ in activations)
    # A copy, since what follows may overwrite it in place.
    activations[key] = find_rows(name, value, rows).clone()
