"""Activations become per-layer losses inside the forward hooks of the chosen layers.

A loss is computed while its activation is fresh, so that neither a later in-place
operation nor a second call of the same module can change what is measured. Hooks are
inert in copies and pickles of the network, follow replaced modules by name, and keep
nothing of a step once its backward has begun.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import resolve
from dai_plugin.loss import class_invariance_loss, invariance_loss

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
    """

    def __init__(
        self, base: nn.Module, names: Iterable[str], correction: int, keep: bool
    ) -> None:
        self.base, self.names = base, list(names)
        self.correction, self.keep = correction, keep
        self._bound: dict[str, tuple[nn.Module, Any]] = {}
        self.armed = False
        self._graph = True
        self._num_views = self.rows = 1
        self._warned: set[str] = set()
        self.clear()
        self._bind()

    def arm(self, rows: int, num_views: int, graph: bool) -> None:
        """Measures the next forward, of `rows` rows; with gradients if `graph`.

        Raises:
            KeyError: a chosen layer exists no more.
        """
        self.clear()
        self._bind()
        self.rows, self._num_views, self._graph = rows, num_views, graph
        self.armed = True

    def disarm(self) -> dict[str, Tensor]:
        """The losses of the forward that ended, in the order of firing.

        A layer that fired several times appears as "name", "name:1", and so on.

        Raises:
            RuntimeError: a chosen layer did not fire.
        """
        self.armed = False
        losses = self._losses
        silent = [name for name in self.names if name not in losses]
        if silent:
            self.clear()
            raise RuntimeError(
                f"the chosen layers {silent} did not fire in this forward pass, so "
                "their invariance would not be trained; choose layers that take part "
                "in every training forward. If the network was compiled before "
                "attach, compile it afterwards"
            )
        return losses

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
            self._losses.pop(key, None)
            self._watched.pop(key, None)
            self._activations.pop(key, None)
            name = key.split(":")[0]
            if name in self._bound:
                self._bound.pop(name)[1].remove()
                self.names.remove(name)

    def class_losses(self, labels: Tensor) -> dict[str, Tensor]:
        """Class-wise losses of the kept activations; `labels` are `[rows]`."""
        return {
            name: class_invariance_loss(a, labels, correction=self.correction)
            for name, a in self._activations.items()
        }

    def clear(self) -> None:
        """Forgets the step: losses, and whatever is held of its activations."""
        self.armed = False
        self._losses: dict[str, Tensor] = {}
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

    def _fired(self, name: str, output: Any) -> None:
        if self.armed:
            self._measure(name, output)
        elif torch.is_grad_enabled() and in_backward():
            # Activation checkpointing runs the layer again: it must save what it saved
            # the first time. The result is dropped.
            self._loss(find_rows(name, output, self.rows))

    def _measure(self, name: str, output: Any) -> None:
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
        self._losses[key] = self._loss(activation)
        if self.keep:
            self._activations[key] = activation
        if not torch.compiler.is_compiling():
            # Weakly: with activation checkpointing it is not to outlive its block.
            self._watched[key] = (weakref.ref(activation), activation._version)

    def _loss(self, activation: Tensor) -> Tensor:
        with torch.set_grad_enabled(self._graph):
            return invariance_loss(
                activation, self._num_views, correction=self.correction
            )

    def _key(self, name: str) -> str:
        calls = sum(key.split(":")[0] == name for key in self._losses)
        return f"{name}:{calls}" if calls else name


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
