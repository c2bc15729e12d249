"""One training forward: everything that is true of it, and nothing else's."""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.tap import Version
from dai_plugin.losses.weights import Key
from dai_plugin.training.outputs import Outputs
from dai_plugin.views.motion import Motion
from dai_plugin.views.rows import Layout


@dataclass(eq=False)
class Step:
    """A training forward, from its views to the backward of its loss.

    A new one each forward, replaced as a whole.

    Attributes:
        number: of the step in the random stream.
        multiplier: of alpha and beta, as scheduled.
        layout: of the rows.
        rows: `[N, ...]`, the batch that the network gets, until the forward
            has ended; layers compare their sizes with its own.
        groups: of the rows.
        motions: how the pixels of the views moved, of views that were made together,
            in the order of the rows; none if they did not.
        grown: identities of the network's arguments that have rows, where known.
        fired: the calls of the layers in their order, once the forward has ended.
        calls: of the layers, while the forward runs.
        parts: sums of squares of each call of a layer, for ratios of variances.
        centres: means of all rows, where other processes need them.
        activations: kept for losses of other kinds.
        versions: of the activations when they were measured; like the next two only
            where no compiler was at work.
        shapes: of the activations.
        frozen: whether an activation needed no gradient.
        losses: of each term that needs no targets, `[calls]`, once the forward has
            ended, by the number of the term.
        outputs: what the network returned, once the forward has ended.
        started: sequence number of autograd when the forward began.
        ran: whether the forward has begun.
        reached: number of the first output that a criterion got, if one did.
        called: whether a loss with the invariance terms was handed out.
        passed: whether a gradient came back to the network's output.
        trained: whether the backward of that loss ran.
        complaint: what the loop did instead, where that is known.
    """

    number: int
    multiplier: float
    layout: Layout
    rows: Tensor | None
    groups: ViewGroups
    motions: tuple[Motion, ...] = ()
    grown: set[int] | None = None
    fired: tuple[Key, ...] = ()
    calls: list[Key] = field(default_factory=list)
    parts: dict[Key, Tensor] = field(default_factory=dict)
    centres: dict[Key, Tensor] = field(default_factory=dict)
    activations: dict[Key, Tensor] = field(default_factory=dict)
    versions: dict[Key, Version] = field(default_factory=dict)
    shapes: dict[Key, torch.Size] = field(default_factory=dict)
    frozen: dict[Key, bool] = field(default_factory=dict)
    losses: dict[int, Tensor] | None = None
    outputs: Outputs | None = None
    started: int = field(default_factory=lambda: sequence_number())
    ran: bool = True
    reached: int | None = None
    called: bool = False
    passed: bool = False
    trained: bool = False
    complaint: str = ""
    _marks: list["weakref.ref[Any]"] = field(default_factory=list)
    _held: "weakref.ref[Tensor] | None" = None

    @property
    def images(self) -> int:
        """B."""
        return self.layout.images

    @property
    def pending(self) -> bool:
        """Whether a loss of this step may still be back-propagated.

        The hook of a tensor lives as long as the graph that it belongs to.
        """
        alive = any(mark() is not None for mark in self._marks)
        return self.called and alive and not self.trained and not self.passed

    def watch_output(self, output: Tensor) -> None:
        """Notes when a gradient comes back to what the network returned."""
        if output.requires_grad:
            output.register_hook(_Passed(self))  # type: ignore[no-untyped-call]

    def watch_total(self, total: Tensor) -> None:
        """Notes when this loss is back-propagated."""
        self.called = True
        if not total.requires_grad:
            self.trained = True  # everything is frozen: nothing is to be trained
            return
        mark = _Trained(self)
        self._marks.append(weakref.ref(mark))
        total.register_hook(mark)  # type: ignore[no-untyped-call]

    def overwritten(self) -> list[Key]:
        """Calls whose activations were changed in place since they were measured."""
        return [key for key, version in self.versions.items() if version.changed()]

    def forget(self, names: list[str]) -> None:
        """Leaves out what these layers gave."""
        given = (self.parts, self.centres, self.activations, self.versions)
        for of_calls in (*given, self.shapes, self.frozen):
            for key in [key for key in of_calls if key[0] in names]:
                del of_calls[key]
        self.calls = [key for key in self.calls if key[0] not in names]

    def close(self) -> None:
        """Ends the forward."""
        self.rows, self.fired = None, tuple(self.calls)

    def let_go(self) -> None:
        """Leaves what a later loss needs to the output that the loop still holds.

        Called when its backward begins. A graph that is kept (retain_graph) can be
        asked for another loss, but nothing else is to outlive its backward.
        """
        outputs, losses = self.outputs, self.losses
        self.release()
        if outputs is not None:
            main = outputs.main
            outputs.loosen()
            if main is not None:
                self._held = weakref.ref(main)
                _HELD[main] = outputs, losses

    def take_up(self) -> None:
        """Takes back what was left to the output, if the loop still holds that."""
        main = self._held() if self.outputs is None and self._held else None
        if main is not None and main in _HELD:
            self.outputs, self.losses = _HELD[main]

    def release(self) -> None:
        """Forgets every tensor, and with them the graph."""
        self.rows = self.losses = self.outputs = None
        for kept in (self.parts, self.centres, self.activations):
            kept.clear()


# What belongs to the outputs of a step whose backward has begun, for as long as they
# live.
_HELD = WeakTensorKeyDictionary()


class _Passed:
    def __init__(self, step: Step) -> None:
        self._step = weakref.ref(step)

    def __call__(self, _: Tensor) -> None:
        if (step := self._step()) is not None:
            step.passed = True


class _Trained:
    def __init__(self, step: Step) -> None:
        # Strongly: who asks later whether it ran holds the step, not this.
        self._step: Step | None = step

    def __call__(self, _: Tensor) -> None:
        if self._step is not None:
            self._step.trained = True
            self._step.let_go()
            self._step = None


def sequence_number() -> int:
    """Of the next node that autograd makes in this thread."""
    number: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
    return number
