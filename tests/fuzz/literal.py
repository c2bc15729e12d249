"""The objective as it is written: a stock network on the rows, pairs one by one.

L = (1 - alpha - beta) * task + k * (sum_l alpha_l * L_inv_l + sum_l beta_l * L_class_l)

in every k-th step; the task alone in the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import oracle
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Rows:
    """Which images the rows of a forward show.

    Attributes:
        images: B.
        further: n, of which there are further views.
        num_views: M.
    """

    images: int
    further: int
    num_views: int

    @property
    def shown(self) -> list[int]:
        """The image of each row."""
        more = list(range(self.further)) * (self.num_views - 1)
        return [*range(self.images), *more]

    @property
    def views(self) -> list[list[int]]:
        """The rows of each view."""
        rows = list(range(len(self.shown)))
        starts = range(self.images, len(rows), self.further)
        return [rows[: self.images], *(rows[s : s + self.further] for s in starts)]

    @property
    def grouped(self) -> list[int]:
        """The rows whose images have every view."""
        shown = self.shown
        return [r for r, i in enumerate(shown) if shown.count(i) == self.num_views]


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
        rows: of the step.
    """

    alpha: float
    beta: float
    law: str | dict[str, float]
    ratio: float
    num_views: int
    correction: int
    term: str
    rows: Rows

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
        """The invariance terms; `labels` `[N]` where beta > 0."""
        kept = self.rows.grouped
        weights = self.spread([name for name, _ in seen.fired])
        total = torch.zeros((), dtype=torch.float64)
        for weight, (_, rows) in zip(weights, seen.fired, strict=True):
            if self.alpha and weight:
                own = rows[kept]
                loss = term_loss(self.term, own, self.num_views, self.correction)
                total = total + self.alpha * weight * loss
            if self.beta and weight:
                loss = oracle.class_invariance_loss(
                    rows[kept], labels[kept], self.correction
                )
                total = total + self.beta * weight * loss
        return total


def task_loss(
    output: Any,
    rows: Rows,
    criterion: Callable[[Any, list[int]], Tensor],
    reduction: str,
) -> Tensor:
    """The mean over all rows; B times that of a sum; what each image has in it.

    Args:
        output: of the network on the rows, in any structure.
        rows: of the forward.
        criterion: of a view's output and the images that it shows.
        reduction: of the criterion.
    """
    total, count = torch.zeros(()), len(rows.shown)
    for own in rows.views:
        loss = criterion(some_rows(output, own), [rows.shown[r] for r in own])
        if reduction == "none":
            pad = torch.zeros(rows.images - len(own)).to(loss)
            total = total + rows.images / count * torch.cat([loss, pad])
        elif reduction == "sum":
            total = total + rows.images / count * loss
        else:
            total = total + len(own) / count * loss
    return total


def some_rows(output: Any, kept: list[int]) -> Any:
    """The structure with some rows of every tensor that has rows."""

    def part(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() and not leaf.is_leaf:
            return leaf[kept]
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
    seen: Seen, rows: Rows, correction: int, term: str
) -> dict[str, float]:
    """The invariance loss of each call: "name", "name:1" for its second, and so on."""
    losses: dict[str, float] = {}
    for name, activation in seen.fired:
        calls = sum(key.split(":")[0] == name for key in losses)
        key = f"{name}:{calls}" if calls else name
        own = activation[rows.grouped]
        losses[key] = term_loss(term, own, rows.num_views, correction).item()
    return losses
