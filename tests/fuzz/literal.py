"""The objective as it is written: a stock network on the rows, pairs one by one.

L = (1 - alpha - beta) * task + sum_l alpha_l * L_inv_l + sum_l beta_l * L_class_l
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import oracle
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass
class Seen:
    """One forward of a stock network.

    Attributes:
        output: what it returned.
        fired: (name, activation copied at once) in the order of the calls.
        overwritten: names whose activation a later operation overwrote in place.
        without_rows: names that returned no tensor with the rows.
        without_gradient: names that ran under `no_grad`.
    """

    output: Any = None
    fired: list[tuple[str, Tensor]] = field(default_factory=list)
    overwritten: set[str] = field(default_factory=set)
    without_rows: set[str] = field(default_factory=set)
    without_gradient: set[str] = field(default_factory=set)


def observe(
    stock: nn.Module, names: list[str], rows: int, args: Any, kwargs: Any
) -> Seen:
    """Runs the stock network, with plain hooks on the layers of these names."""
    seen, watched = Seen(), []

    def hook(name: str, output: Any) -> None:
        tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
        found = [t for t in tensors if t.dim() and t.shape[0] == rows]
        if not torch.is_grad_enabled():
            seen.without_gradient.add(name)
        if not found:
            seen.without_rows.add(name)
            return
        watched.append((name, found[0], found[0]._version))
        seen.fired.append((name, found[0].clone()))

    handles = [
        stock.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: hook(name, output)
        )
        for name in names
    ]
    try:
        seen.output = stock(*args, **kwargs)
    finally:
        # Gone before a backward, in which checkpointed layers fire again.
        for handle in handles:
            handle.remove()
    seen.overwritten = {name for name, t, version in watched if t._version != version}
    return seen


@dataclass(frozen=True)
class Weights:
    """How the losses are mixed in one step, schedule included.

    Attributes:
        alpha: of the invariance losses together, beta: of the class-wise ones.
        law: "exponential", "linear", "uniform", or a weight for each chosen layer.
        ratio: of the last weight to the first.
        num_views: M.
        correction: 0 or 1.
        term: "ratio", "cosine" or "apart".
    """

    alpha: float
    beta: float
    law: str | dict[str, float]
    ratio: float
    num_views: int
    correction: int
    term: str

    def spread(self, names: list[str]) -> list[float]:
        """Weights that sum to 1 over the calls of layers, in the order of the calls."""
        last = max(len(names) - 1, 1)
        if self.law == "exponential":
            raw = [self.ratio ** (i / last) for i in range(len(names))]
        elif self.law == "linear":
            raw = [1 + (self.ratio - 1) * i / last for i in range(len(names))]
        elif self.law == "uniform":
            raw = [1.0] * len(names)
        else:
            # What a layer weighs is shared by its calls.
            raw = [self.law[name] / names.count(name) for name in names]
        return [weight / sum(raw) for weight in raw]

    def terms(self, seen: Seen, labels: Tensor | None) -> Tensor:
        """The invariance terms; `labels` `[M * B]` where beta > 0."""
        weights = self.spread([name for name, _ in seen.fired])
        total = torch.zeros((), dtype=torch.float64)
        for weight, (_, rows) in zip(weights, seen.fired, strict=True):
            if self.alpha and weight:
                loss = term_loss(self.term, rows, self.num_views, self.correction)
                total = total + self.alpha * weight * loss
            if self.beta and weight:
                loss = oracle.class_invariance_loss(rows, labels, self.correction)
                total = total + self.beta * weight * loss
        return total


def task_loss(
    output: Any, num_views: int, criterion: Callable[[Any], Tensor]
) -> Tensor:
    """The mean over the views of the criterion on each view's rows.

    Args:
        output: of the network on `[M * B]` rows, in any structure.
        num_views: M.
        criterion: of a view's output, targets included.
    """
    views = [first_rows(output, num_views, view) for view in range(num_views)]
    return torch.stack([criterion(view) for view in views]).mean(0)


def first_rows(output: Any, num_views: int, view: int = 0) -> Any:
    """The structure with the rows of one view in every tensor that has rows."""
    leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    rows = max(t.shape[0] for t in leaves if t.dim() and not t.is_leaf)
    size = rows // num_views

    def part(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() and not leaf.is_leaf:
            return leaf[view * size : (view + 1) * size]
        return leaf

    return pytree.tree_map(part, output)


def term_loss(term: str, rows: Tensor, num_views: int, correction: int) -> Tensor:
    """What alpha weighs, of the rows of a layer."""
    if term == "ratio":
        return oracle.invariance_loss(rows, num_views, correction)
    views = rows.double().unflatten(0, (num_views, -1))
    if term == "cosine":
        return oracle.cosine_distance(views)
    means = torch.stack([sum(image.unbind()) / num_views for image in views.unbind(1)])
    return torch.stack([(view - means).square().mean() for view in views]).mean()


def layer_losses(
    seen: Seen, num_views: int, correction: int, term: str
) -> dict[str, float]:
    """The invariance loss of each call: "name", "name:1" for its second, and so on."""
    losses: dict[str, float] = {}
    for name, rows in seen.fired:
        calls = sum(key.split(":")[0] == name for key in losses)
        key = f"{name}:{calls}" if calls else name
        losses[key] = term_loss(term, rows, num_views, correction).item()
    return losses
