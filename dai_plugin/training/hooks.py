"""Activations become per-layer losses inside the forward hooks of the chosen layers.

The sums of a loss are taken while its activation is fresh, so that neither a later
in-place operation nor a second call of the same module can change what is measured. The
network goes on with the alias that `tap` returns. Hooks are inert in copies and pickles
of the network, follow replaced modules by name, and keep nothing of a step once its
backward has begun.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import resolve
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.ranks import check_same_layers, global_losses, world_size
from dai_plugin.losses.ratio import class_invariance_loss, variance_ratio
from dai_plugin.losses.tap import Taps, tap

logger = logging.getLogger("dai_plugin")


class Hook:
    """A callable for `register_*_hook` that does nothing in copies and pickles."""

    def __init__(self, function: Callable[..., Any], owner: Any = None) -> None:
        self.function = function
        self.owner = owner

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self.function(*args)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return do_nothing

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _unpickled, ()


def do_nothing(*_: Any) -> None:
    """What a copied or unpickled hook does."""


def _unpickled() -> Callable[..., None]:
    return do_nothing


def hooked(base: nn.Module) -> bool:
    """Whether a module of the network carries a hook of this package."""
    return any(
        isinstance(hook, Hook)
        for module in base.modules()
        for hook in module._forward_hooks.values()
    )


class LayerHooks:
    """The forward hooks on the chosen layers of one network.

    Args:
        base: the network.
        names: of the layers, first to last; each exists.
        correction: of the losses.
        keep: keep the activations too, for losses that need the labels.
        sync: take the statistics of all ranks.
    """

    def __init__(
        self,
        base: nn.Module,
        names: Iterable[str],
        correction: int,
        keep: bool,
        sync: bool,
    ) -> None:
        self.base, self.names = base, list(names)
        self.correction, self.keep, self.sync = correction, keep, sync
        self._bound: dict[str, tuple[nn.Module, Any]] = {}
        self.armed = False
        self._graph = True
        self.rows, self._groups = 1, ViewGroups(1, 1, correction)
        self._warned: set[str] = set()
        self._agreed: dict[str, int] = {}
        self._measured: dict[tuple[int, bool], tuple[ViewGroups, bool]] = {}
        self.clear()
        self._bind()

    def arm(self, rows: int, num_views: int, graph: bool) -> None:
        """Measures the next forward, of `rows` rows; with gradients if `graph`.

        Raises:
            KeyError: a chosen layer exists no more.
        """
        self.clear()
        self._bind()
        self.rows, self._graph = rows, graph
        centred = self.sync and world_size() > 1
        self._groups = ViewGroups(num_views, rows, self.correction, centred)
        self._measured[rows, self.base.training] = self._groups, graph
        self.armed = True

    def disarm(self) -> None:
        """Ends the forward.

        Raises:
            RuntimeError: a chosen layer did not fire.
        """
        self.armed = False
        silent = [name for name in self.names if name not in self._parts]
        if silent:
            self.clear()
            raise RuntimeError(
                f"the chosen layers {silent} did not fire in this forward pass, so "
                "their invariance would not be trained; choose layers that take part "
                "in every training forward. If the network was compiled before "
                "attach, compile it afterwards; if another network of its class was "
                "compiled in this process, set torch._dynamo.config."
                "skip_nnmodule_hook_guards = False first, or its graph is reused"
            )

    @property
    def fired(self) -> list[str]:
        """The calls in their order: a layer's second is "name:1", and so on."""
        return list(self._parts)

    def losses(self) -> Tensor:
        """The invariance losses `[calls]` of the forward that ended."""
        parts = list(self._parts.values())
        stacked = torch.stack([each.to(parts[-1].device) for each in parts])
        if not self._groups.centred:
            return variance_ratio(stacked, self._groups)
        sizes = {name: len(centre) for name, centre in self._centres.items()}
        if sizes != self._agreed:
            check_same_layers(sizes)
            self._agreed = sizes
        return global_losses(stacked, list(self._centres.values()), self._groups)

    def check(self) -> None:
        """Checks that no measured activation was overwritten since.

        Raises:
            RuntimeError: a later operation overwrote one in place.
        """
        spoiled = self.overwritten()
        if spoiled:
            raise RuntimeError(
                f"the activations of {spoiled} were overwritten in place after they "
                "were measured (by a ReLU(inplace=True) that follows, say), which "
                "spoils their gradient; choose the module that overwrites them "
                "instead, or the block around both"
            )

    def overwritten(self) -> list[str]:
        """Layers whose activation changed since it was measured."""
        return [
            name
            for name, (reference, version) in self._watched.items()
            if (a := reference()) is not None and a._version != version
        ]

    def drop(self, names: Iterable[str]) -> None:
        """Leaves layers out from now on."""
        for key in names:
            self._parts.pop(key, None)
            self._centres.pop(key, None)
            self._watched.pop(key, None)
            self._activations.pop(key, None)
            name = key.split(":")[0]
            if name in self._bound:
                self._bound.pop(name)[1].remove()
                self.names.remove(name)

    def class_losses(self, labels: Tensor) -> Tensor:
        """Class-wise losses `[calls]` of the kept activations; `labels` `[rows]`."""
        losses = [
            class_invariance_loss(a, labels, correction=self.correction)
            for a in self._activations.values()
        ]
        return torch.stack([loss.to(losses[-1].device) for loss in losses])

    def clear(self) -> None:
        """Forgets the step: parts, and whatever is held of its activations."""
        self.armed = False
        self._parts: dict[str, Tensor] = {}
        self._centres: dict[str, Tensor] = {}
        self._watched: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        self._activations: dict[str, Tensor] = {}

    def remove(self) -> None:
        """Takes the hooks away."""
        self.clear()
        for _, handle in self._bound.values():
            handle.remove()
        self._bound.clear()

    def _bind(self) -> None:
        """Hooks every layer by name; a module that was replaced is hooked anew."""
        for name in self.names:
            module = resolve(self.base, name)
            bound = self._bound.get(name)
            if bound is not None and bound[0] is module:
                continue
            if bound is not None:
                bound[1].remove()
            hook = Hook(lambda _, __, output, name=name: self._fired(name, output))
            self._bound[name] = (module, module.register_forward_hook(hook))

    def _fired(self, name: str, output: Any) -> Any:
        if self.armed:
            return self._measure(name, output)
        if torch.is_grad_enabled() and in_backward():
            return self._again(name, output)
        return None

    def _again(self, name: str, output: Any) -> Any:
        """What activation checkpointing runs again must save what it saved before.

        Its parts are dropped. A forward that was not measured (a gradient in
        evaluation) is left alone: it is told by the mode of the network and the number
        of rows.
        """
        tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
        for activation in tensors:
            count = activation.shape[0] if activation.dim() else 0
            key = (count, self.base.training)
            if key in self._measured:
                alias, *_ = self._tap(activation, *self._measured[key])
                return _replaced(output, activation, alias)
        return None

    def _measure(self, name: str, output: Any) -> Any:
        if not torch.is_grad_enabled():
            raise RuntimeError(
                f"the layer {name!r} ran without gradients inside a training forward; "
                "with activation checkpointing use use_reentrant=False, and choose no "
                "layer inside torch.no_grad()"
            )
        activation = find_rows(name, output, self.rows)
        key = self._key(name)
        if not activation.requires_grad and self._graph and name not in self._warned:
            self._warned.add(name)
            logger.warning(
                "the layer %r is frozen (its activation needs no gradient): its "
                "invariance loss is reported but trains nothing",
                name,
            )
        alias, self._parts[key], centre = self._tap(
            activation, self._groups, self._graph
        )
        if centre is not None:
            self._centres[key] = centre
        if self.keep:
            self._activations[key] = activation
        if not torch.compiler.is_compiling():
            # Weakly: with activation checkpointing it is not to outlive its block.
            self._watched[key] = (weakref.ref(activation), activation._version)
        return _replaced(output, activation, alias)

    def _tap(self, activation: Tensor, groups: ViewGroups, graph: bool) -> Taps:
        """What the network goes on with, the parts of the layer, and its mean."""
        with torch.set_grad_enabled(graph):
            return tap(activation, groups)

    def _key(self, name: str) -> str:
        calls = sum(key.split(":")[0] == name for key in self._parts)
        return f"{name}:{calls}" if calls else name


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """The layer's output with one tensor exchanged; None leaves it as it is."""
    if new is old:
        return None
    if output is old:
        return new
    return pytree.tree_map(lambda leaf: new if leaf is old else leaf, output)


def find_rows(name: str, output: Any, rows: int) -> Tensor:
    """The first tensor of a layer's output that has so many rows.

    Raises:
        RuntimeError: there is none.
    """
    tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    for tensor in tensors:
        if tensor.dim() and tensor.shape[0] == rows:
            return tensor
    shapes = [list(t.shape) for t in tensors] or type(output).__name__
    raise RuntimeError(
        f"the layer {name!r} returned {shapes}, no tensor with {rows} rows (one a view "
        "of an image) in its first dimension; choose other layers"
    )


def in_backward() -> bool:
    """Whether autograd is running: a forward now is a recomputation."""
    return torch._C._current_graph_task_id() != -1
