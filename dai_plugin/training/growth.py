"""Which dimensions of outputs and layers grow with the rows of the batch.

A size may equal the number of rows by chance: eight classes, or channels, or tokens
beside eight rows. What a batch of another size showed, or a look at the network with
one row more, tells; it is asked once, and only where there is a doubt.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dai_plugin.losses.weights import Key, key_name
from dai_plugin.training.graph import nodes_behind
from dai_plugin.training.look import Look
from dai_plugin.training.step import Step

_TAP = "_TapBackward"


class Growth:
    """What is known of the sizes of one network's outputs and layers."""

    def __init__(self) -> None:
        self._known: dict[int, frozenset[int]] = {}
        self._shapes: dict[int, torch.Size] = {}
        self._layers: set[str] = set()
        self.end()

    def begin(self, take: Callable[[], Look | None]) -> None:
        """A forward has ended, of which a look can be taken if need be."""
        self._take: Callable[[], Look | None] = take
        self._looked = False
        self._look: Look | None = None

    def end(self) -> None:
        """Lets go of that forward."""
        self._take, self._looked, self._look = _no_look, True, None

    def of_output(self, number: int, leaf: Tensor, rows: int) -> frozenset[int]:
        """Dimensions of an output that grow with the rows, among those as long."""
        before = self._shapes.get(number)
        self._shapes[number] = leaf.shape
        known = self._known.get(number)
        if known is not None and all(d < leaf.dim() for d in known):
            return known
        as_long = frozenset(d for d, size in enumerate(leaf.shape) if size == rows)
        if as_long == {0} and _comes_from_a_layer(leaf):
            found = as_long
        elif before is not None and len(before) == leaf.dim() and before != leaf.shape:
            # Images of another size may have changed more than the number of rows.
            found = _changed(before, leaf.shape) & as_long
        else:
            seen = self._seen()
            other = seen.outputs.get(number) if seen else None
            if other is None or len(other) != leaf.dim():
                return as_long  # nothing is known: chance is not ruled out
            found = _changed(other, leaf.shape)
        self._known[number] = found
        return found

    def refuse_layers(self, step: Step) -> None:
        """Refuses layers whose first dimension is as long as the rows by chance.

        Raises:
            RuntimeError: there is one.
        """
        rows = step.groups.rows
        for key in step.fired:
            if key_name(key) in self._layers or step.groups.num_views == 1:
                continue
            shape = step.shapes.get(key)  # unknown behind a compiler
            if shape is None or (len(shape) > 1 and shape[0] == shape[1]):
                self._check(key, shape, rows)
            self._layers.add(key_name(key))

    def _check(self, key: Key, shape: torch.Size | None, rows: int) -> None:
        seen = self._seen()
        if seen is None and shape is None:
            return
        others = seen.layers.get(key, []) if seen else []
        if any(len(o) and o[0] == rows + 1 for o in others):
            return
        raise RuntimeError(
            f"the layer {key_name(key)!r} returned {list(shape or others[0])}: its "
            f"first dimension has {rows} entries, as there are rows, but does not grow "
            "with them, so that the images lie in another one (tokens first, say). "
            "Choose layers that return [rows, ...], or build this one with "
            "batch_first=True"
        )

    def _seen(self) -> Look | None:
        if not self._looked:
            self._looked, self._look = True, self._take()
        return self._look


def _no_look() -> None:
    """No forward is at hand that could be looked at."""


def _changed(one: torch.Size, other: torch.Size) -> frozenset[int]:
    sizes = enumerate(zip(one, other, strict=True))
    return frozenset(d for d, (first, second) in sizes if first != second)


def _comes_from_a_layer(leaf: Tensor) -> bool:
    """Whether a measured activation is among what a tensor was computed from."""
    return any(node.name() == _TAP for node in nodes_behind([leaf], most=300))
