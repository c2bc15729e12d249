"""A look at the network: one more run that leaves no trace.

Sizes alone do not tell an image's row from a feature, or a class, of which there happen
to be as many. So, where they leave a doubt, the network runs once on one row more: what
grows with the rows belongs to them. Nothing of that run stays: no gradient, no
statistics of batch norm, no random numbers drawn.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dai_plugin.losses.tap import Version
from dai_plugin.losses.weights import Key
from dai_plugin.training.arguments import COUNT
from dai_plugin.training.hooks import LayerHooks, Visit
from dai_plugin.training.untouched import untouched

_NEAR = 0.1  # relative difference of losses under dropout, which draws anew


class Look:
    """What a run on `rows + 1` rows showed.

    Attributes:
        outputs: shapes of the tensors that the network returned, by their number.
        layers: shapes of what each call of a layer returned.
        overwritten: names of layers whose activation was overwritten in place.
    """

    def __init__(self) -> None:
        self.outputs: dict[int, torch.Size] = {}
        self.layers: dict[Key, list[torch.Size]] = {}
        self._versions: dict[Key, list[Version]] = {}

    @property
    def overwritten(self) -> list[str]:
        """Names of layers whose activation was overwritten in place."""
        found = [k for k, vs in self._versions.items() if any(v.changed() for v in vs)]
        return list(dict.fromkeys(name for name, _ in found))

    def visit(self, name: str, output: Any) -> None:
        """Notes what a layer returned."""
        key = name, sum(layer == name for layer, _ in self.layers)
        tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
        self.layers[key] = [t.shape for t in tensors]
        self._versions[key] = [Version(t) for t in tensors]


def look(
    hooks: LayerHooks, args: Any, kwargs: Any, rows: int, grown: set[int] | None = None
) -> Look:
    """Runs the network once more, on the same arguments with one row more.

    Args:
        hooks: of the network.
        args: positional arguments of the forward, as they are with views.
        kwargs: its keyword arguments.
        rows: of the forward.
        grown: identities of the arguments that have them; None are all of that size.
    """

    def longer(leaf: Any) -> Any:
        fits = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
        if fits and (grown is None or id(leaf) in grown):
            return torch.cat([leaf, leaf[:1]]).detach()
        return leaf

    seen = Look()
    args, kwargs = pytree.tree_map(longer, (args, kwargs))
    output = _run(hooks, seen.visit, args, kwargs)
    for number, leaf in enumerate(pytree.tree_leaves(output)):
        if isinstance(leaf, Tensor):
            seen.outputs[number] = leaf.shape
    return seen


def answers_to(hooks: LayerHooks, args: Any, kwargs: Any, name: str) -> bool:
    """Whether what the network returns depends on a number among its keywords.

    Args:
        hooks: of the network.
        args: positional arguments of the forward, as they are with views.
        kwargs: its keyword arguments.
        name: of the keyword; tried as it is and doubled.
    """
    found = []
    for times in (1, 2):
        changed = {**kwargs, name: kwargs[name] * times}
        output = _run(hooks, lambda *_: None, args, changed)
        found.append([t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)])
    return any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


def sums_rows(
    hooks: LayerHooks,
    args: Any,
    kwargs: Any,
    loss_of: Callable[[Any], Tensor],
    some: int,
    grown: set[int] | None,
) -> bool | None:
    """Whether the loss that the network returns is a sum over rows.

    If each row comes twice, a sum doubles and a mean stays.

    Args:
        hooks: of the network.
        args: positional arguments of the forward, as they are with views.
        kwargs: its keyword arguments.
        loss_of: finds the loss in what the network returned.
        some: how many of the rows are run.
        grown: identities of the arguments that have them.
    """
    once, twice = (
        loss_of(_run(hooks, lambda *_: None, *_repeated(args, kwargs, some, n, grown)))
        for n in (1, 2)
    )
    return is_sum(twice.sum(), 2 * once.sum(), once.sum())


def _repeated(
    args: Any, kwargs: Any, some: int, times: int, grown: set[int] | None
) -> tuple[Any, Any]:
    """The arguments with some of their rows, each so many times."""

    def part(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and id(leaf) in (grown or ()):
            return torch.cat([leaf[:some].detach()] * times)
        return leaf

    args, kwargs = pytree.tree_map(part, (args, kwargs))
    if kwargs.get(COUNT) is not None:
        kwargs = {**kwargs, COUNT: kwargs[COUNT] * times}
    return args, kwargs


def is_sum(found: Tensor, as_sum: Tensor, as_mean: Tensor) -> bool | None:
    """Whether a loss of more rows is a sum over them, None where that is not seen.

    Args:
        found: the loss.
        as_sum: what it would be as a sum; equal to the next where losses are zero.
        as_mean: what it would be as a mean. What is neither is no sum.
    """
    away, other = (found - as_sum).abs(), (found - as_mean).abs()
    if not found.isfinite() or away == other:
        return None
    return bool((away < other) & (away <= _NEAR * as_sum.abs()))


def _run(hooks: LayerHooks, visit: Visit, args: Any, kwargs: Any) -> Any:
    eager = torch.compiler.set_stance("force_eager")
    with untouched(hooks.base), torch.no_grad(), eager:
        hooks.visit = visit
        try:
            return hooks.base(*args, **kwargs)
        finally:
            hooks.visit = None
