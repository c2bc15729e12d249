"""When a chosen layer fires, its activation goes to the current step.

The sums of a loss are taken while its activation is fresh, so that neither a later
in-place operation nor a second call of the same module can change what is measured. The
network goes on with the alias that `tap` returns. Hooks are inert in copies and pickles
of the network, and on modules that inherited them from another; they follow replaced
modules by name.
"""

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import resolve
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.tap import Taps, Version, tap
from dai_plugin.training.inert import Hook
from dai_plugin.training.paths import Path
from dai_plugin.training.step import Step, sequence_number
from dai_plugin.wrappers import INPUT

logger = logging.getLogger("dai_plugin")

Visit = Callable[[str, Any], None]


@dataclass(frozen=True)
class Ended:
    """A forward that has ended, and may be recomputed in its backward.

    Attributes:
        started: sequence number of autograd at its beginning.
        ended: that at its end.
        groups: of its rows, which the graph keeps alive.
        layers: that were measured.
    """

    started: int
    ended: int
    groups: weakref.ref[ViewGroups]
    layers: frozenset[str]


class LayerHooks:
    """The forward hooks on the chosen layers of one network.

    Args:
        base: the network.
        names: of the layers, first to last; each exists.
        tapped: those whose sums of squares are taken.
        kept: those whose activations are kept, for losses of other kinds.

    Attributes:
        names: of the layers that are hooked.
        current: the step whose forward runs, if one does.
        stock: whether a training forward runs in which nothing is measured.
        visit: what sees the layers instead, while the network is only looked at.
    """

    def __init__(
        self,
        base: nn.Module,
        names: Iterable[str],
        tapped: Iterable[str] = (),
        kept: Iterable[str] = (),
    ) -> None:
        self.base, self.names = base, list(names)
        self._tapped, self._kept = frozenset(tapped), frozenset(kept)
        self.current: Step | None = None
        self.stock = False
        self.visit: Visit | None = None
        self._bound: dict[str, tuple[nn.Module, Any, Path]] = {}
        self._ended: list[Ended] = []
        self._dropped: set[str] = set()
        self.bind()

    def bind(self) -> None:
        """Hooks every layer by name; a module that was replaced is hooked anew.

        Raises:
            KeyError: a chosen layer exists no more.
        """
        if self._dropped and not any(each.groups() for each in self._ended):
            for name in self._dropped:
                self._bound.pop(name)[1].remove()
            self._dropped = set()
        for name in self.names:
            bound = self._bound.get(name)
            if bound is not None and bound[2].still_leads_there():
                continue
            module = resolve(self.base, name)
            if bound is not None and bound[0] is module:
                self._bound[name] = *bound[:2], Path(self.base, module)
                continue
            if bound is not None:
                bound[1].remove()
                self._sweep(module)
            handle = _register(self, name, module)
            self._bound[name] = module, handle, Path(self.base, module)

    def drop(self, names: Iterable[str]) -> None:
        """Leaves layers out from now on.

        Their hooks stay while a forward that measured them may be recomputed.
        """
        for name in names:
            self.names.remove(name)
            self._dropped.add(name)

    def remove(self) -> None:
        """Takes the hooks away, those that other modules inherited, too."""
        self.current = None
        self._bound.clear()
        for module in self.base.modules():
            self._sweep(module)

    def _sweep(self, module: nn.Module) -> None:
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Hook) and hook.owner is self:
                del module._forward_hooks[key]
                module._forward_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_always_called.pop(key, None)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, Hook) and hook.owner is self:
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)

    def close(self, step: Step) -> None:
        """Ends the forward of a step.

        Raises:
            RuntimeError: a chosen layer did not fire.
        """
        self.current = None
        # Kept weakly: the graph holds the groups for as long as it may be recomputed.
        here = Ended(
            step.started,
            sequence_number(),
            weakref.ref(step.groups),
            frozenset(name for name, _ in step.parts),
        )
        self._ended = [*(each for each in self._ended if each.groups()), here]
        step.close()
        silent = [n for n in self.names if (n, 0) not in step.fired]
        if silent:
            raise RuntimeError(
                f"the chosen layers {silent} did not fire in this forward pass, so "
                "their invariance would not be trained; choose layers that take part "
                "in every training forward. If the network was compiled before "
                "attach, compile it afterwards; if another network of its class was "
                "compiled in this process, set torch._dynamo.config."
                "skip_nnmodule_hook_guards = False first, or its graph is reused"
            )

    def fired(self, name: str, value: Any) -> Any:
        """What a hook does when its layer has run, or begins to.

        Args:
            name: of the layer.
            value: what it returned, or what enters it.
        """
        if self.visit is not None:
            return self.visit(name, value)
        if self.current is not None:
            measured = name not in self._dropped
            return self._measure(self.current, name, value) if measured else None
        if self.stock or name not in self._tapped:
            return None  # without asking for a backward, of which no compiler knows
        again = torch.is_grad_enabled() and in_backward()
        return self._again(name, value) if again else None

    def _measure(self, step: Step, name: str, value: Any) -> Any:
        if not torch.is_grad_enabled():
            raise RuntimeError(
                f"the layer {name!r} ran without gradients inside a training forward; "
                "with activation checkpointing use use_reentrant=False, and choose no "
                "layer inside torch.no_grad()"
            )
        assert step.rows is not None
        activation = find_rows(name, value, step.rows.shape[0])
        key = name, sum(layer == name for layer, _ in step.calls)
        step.calls.append(key)
        alias = activation
        if name in self._tapped:
            alias, step.parts[key], centre = _tap(activation, step.groups)
            if centre is not None:
                step.centres[key] = centre
        if name in self._kept:
            # A compiled graph hands out what the tensor is at its end, and no version
            # tells whether that is what it was here.
            compiling = torch.compiler.is_compiling()
            step.activations[key] = activation.clone() if compiling else activation
        if not torch.compiler.is_compiling():
            step.versions[key] = Version(activation)
            step.shapes[key] = activation.shape
            step.frozen[key] = not activation.requires_grad
        return _replaced(value, activation, alias)

    def _again(self, name: str, output: Any) -> Any:
        """What activation checkpointing runs again must save what it saved before.

        The forward that is recomputed is known by the node that needs it: autograd
        numbers its nodes, and those of a forward lie between its beginning and its end.
        A forward that was not measured is left alone. The sums are dropped.
        """
        node = torch._C._current_autograd_node()
        number = node._sequence_nr() if node is not None else -1
        for each in self._ended:
            groups = each.groups()
            inside = each.started <= number < each.ended and name in each.layers
            if groups is not None and inside:
                activation = find_rows(name, output, groups.rows)
                alias, *_ = _tap(activation, groups)
                return _replaced(output, activation, alias)
        return None


def _register(hooks: LayerHooks, name: str, bound: nn.Module) -> Any:
    """Hooks a module: what it returns, or what enters it."""

    # Tools that exchange a module copy its hooks to the new one.
    def leaves(module: nn.Module, _: Any, output: Any) -> Any:
        return hooks.fired(name, output) if module is bound else None

    def enters(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return hooks.fired(name, (args, kwargs)) if module is bound else None

    if name.startswith(INPUT):
        hook = Hook(enters, hooks)
        return bound.register_forward_pre_hook(hook, with_kwargs=True)
    return bound.register_forward_hook(Hook(leaves, hooks))


def _tap(activation: Tensor, groups: ViewGroups) -> Taps:
    """What the network goes on with, the sums of the layer, and its mean."""
    if torch.compiler.is_compiling():
        # Sizes of its own, which the compiler need not take for fixed.
        groups = ViewGroups(
            groups.num_views,
            activation.shape[0],
            groups.correction,
            groups.centred,
            groups.alone,
        )
    return tap(activation, groups)


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """The layer's output with one tensor exchanged; None leaves it as it is."""
    if new is old:
        return None
    if output is old:
        return new
    return pytree.tree_map(lambda leaf: new if leaf is old else leaf, output)


def find_rows(name: str, output: Any, rows: int) -> Tensor:
    """The first tensor of floating point in a layer's output that has so many rows.

    Raises:
        RuntimeError: there is none.
        TypeError: there are complex ones alone.
    """
    tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    found = [t for t in tensors if t.dim() and t.shape[0] == rows]
    for tensor in found:
        if tensor.is_floating_point():
            return tensor
    if any(t.is_complex() for t in found):
        raise TypeError(
            f"the layer {name!r} returned complex numbers, whose invariance is not "
            "defined here; choose a layer with real activations (after abs(), say)"
        )
    shapes = [list(t.shape) for t in tensors] or type(output).__name__
    raise RuntimeError(
        f"the layer {name!r} returned {shapes}, no tensor with {rows} rows (one a view "
        "of an image) of floating point in its first dimension; choose other layers. "
        "If only some rows go through it, choose the module around it"
    )


def in_backward() -> bool:
    """Whether autograd is running: a forward now is a recomputation."""
    return torch._C._current_graph_task_id() != -1
