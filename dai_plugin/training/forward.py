"""The hooks on the network itself: arguments in, the first view's outputs out."""

import logging
import sys
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.training import given
from dai_plugin.training.arguments import Arguments, Remembered
from dai_plugin.training.follow import Follow, ignored_by
from dai_plugin.training.hooks import in_backward
from dai_plugin.training.inert import Hook
from dai_plugin.training.step import Step
from dai_plugin.training.steps import Steps
from dai_plugin.training.watch import calls_of, raising

logger = logging.getLogger("dai_plugin")

NO_DATA_PARALLEL = (
    "DataParallel replicates the network at each step and loses its hooks: attach to "
    "the network inside, attach(model.module, criterion), and use one device, or "
    "DistributedDataParallel, as `accelerate launch train.py` does"
)


class Loss(Protocol):
    """How a forward ends in a loss."""

    needs_rows: bool

    def begin(self, arguments: Arguments) -> None:
        """Sees the arguments of a training forward."""

    def end(self, args: Any, kwargs: Any) -> Any:
        """What the caller of the forward gets."""

    def evaluating(self) -> None:
        """A forward in evaluation begins."""

    def stock(self, output: Any) -> None:
        """A training forward without views has ended."""


class Forward:
    """The forwards of one attached network.

    Args:
        steps: of the network.
        loss: how they end.
        owner: whom `attached(model)` finds.

    Attributes:
        calls: of the network, in any mode.
    """

    def __init__(self, steps: Steps, loss: Loss, owner: Any) -> None:
        self._steps, self._loss = steps, loss
        self._remembered = Remembered()
        self._arguments: Arguments | None = None
        self._inner = 0
        self._warned = False
        opaque: Any = torch.compiler.disable
        # Opaque to the compiler: what happens once a step would break its graph in many
        # places, while the network itself, layer hooks included, stays one graph.
        before, after = Hook(opaque(self._before), owner), Hook(opaque(self._after))
        base = steps.base
        self._handles = [
            base.register_forward_pre_hook(before, with_kwargs=True),
            base.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    def remove(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        steps = self._steps
        if steps.hooks.visit is not None:  # a look, which is no forward
            return None
        if getattr(module, "_is_replica", False):
            raise TypeError(NO_DATA_PARALLEL)
        steps.usage.calls += 1
        if steps.hooks.current is not None:
            if calls_of(module) > 1:
                self._inner += 1  # the network calls itself: these are rows already
                return None
            steps.discard()  # an interrupt ended the forward before this one
        elif steps.hooks.stock and calls_of(module) > 1:
            self._inner += 1
            return None
        self._inner, steps.hooks.stock = 0, False
        if not steps.active:
            if not steps.base.training:  # a look under no_grad leaves the step open
                self._loss.evaluating()
                steps.end()
                steps.ledger.settle()
            return None
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise RuntimeError(
                "the attached network runs inside a transform of torch.func (grad, "
                "vmap, ...), which cannot see the losses of its layers; use "
                "torch.func.functional_call with backward() or torch.autograd.grad, or "
                "call the transform in evaluation mode"
            )
        if in_backward():
            raise RuntimeError(
                "the whole attached network is recomputed by activation checkpointing, "
                "which would draw other views; checkpoint the blocks inside it instead"
            )
        if not steps.draws.due:
            self._loss.evaluating()  # to the loss it is no other than that
            steps.skip()
            steps.hooks.stock = True
            return None
        return self._open(args, kwargs)

    def _open(self, args: Any, kwargs: Any) -> Any:
        steps = self._steps
        made: Tensor | None = None
        if steps.draws.given:
            args, kwargs, made = given.found_in(args, kwargs, steps.settings.num_views)
        arguments = Arguments(args, kwargs, steps.base, steps.settings.targets)
        self._remembered.check(arguments)
        self._loss.begin(arguments)
        step, rows = steps.open(arguments.images, made)
        moved = self._moved(step, arguments)
        self._arguments = arguments
        steps.hooks.current = step
        expanded = arguments.expanded(rows, step.layout, moved)
        step.grown = arguments.grown
        return expanded

    def _moved(self, step: Step, arguments: Arguments) -> dict[str, Tensor]:
        """Those arguments that move with the views, by name, with all rows."""
        steps = self._steps
        following = Follow(step, steps.settings, ignored_by(steps.base))
        try:
            others = arguments.others.items()
            kinds = {name: following.kind_of_argument(name, t) for name, t in others}
            return {n: following.named_rows(t, kinds[n]) for n, t in others if kinds[n]}
        except BaseException:
            steps.discard()
            raise

    def _after(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        steps = self._steps
        if steps.hooks.visit is not None:
            return None
        if self._inner:
            self._inner -= 1
            return None
        if steps.hooks.stock:
            steps.hooks.stock = False
            return self._loss.stock(output)
        if steps.hooks.current is None:
            return self._watch_evaluation(output)
        step = steps.hooks.current
        if output is None and raising():
            self._explain()
            return steps.discard()
        try:
            steps.close(step, args, kwargs)
            outputs = steps.split(step, output, self._loss.needs_rows)
            reached = outputs.whole(output) if self._loss.needs_rows else None
            steps.measure(step, output, reached)
            return self._loss.end(args, kwargs)
        except BaseException:
            steps.discard()
            raise
        finally:
            self._arguments = None
            steps.growth.end()

    def _explain(self) -> None:
        """Says beside an error of the network's which arguments were not repeated."""
        error, arguments, steps = sys.exc_info()[1], self._arguments, self._steps
        views = steps.settings.num_views
        if error is None or arguments is None or views == 1:
            return
        images = arguments.images.shape[0]
        layout = steps.settings.layout(images)
        kept = arguments.as_they_came()
        names = f"; not repeated, since they have not {images} rows: {', '.join(kept)}"
        error.add_note(
            f"dai_plugin: this training forward ran on {layout.rows} rows "
            f"({layout}), and so did every argument with {images} rows"
            f"{names if kept else ''}"
        )

    def _watch_evaluation(self, output: Any) -> None:
        """Warns once if a network in evaluation mode is trained past the plugin."""
        if self._warned or not torch.is_grad_enabled() or self._steps.active:
            return
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._warn_evaluation)  # type: ignore[no-untyped-call]
                return

    def _warn_evaluation(self, _: Tensor) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "gradients flow through a network in evaluation mode, without views "
                'and invariance loss; attach with when="grad" to train it so'
            )
