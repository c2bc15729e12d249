"""Where the loss of a step is taken: at the criterion, or in the network's output."""

import logging
import weakref
from typing import Any

import torch
from torch import Tensor

from dai_plugin.training.arguments import COUNT, Arguments, target_among
from dai_plugin.training.criterion import (
    Call,
    Snapshot,
    told_ignore_index,
    told_reduction,
)
from dai_plugin.training.follow import UNNAMED, Follow, ignored_by
from dai_plugin.training.objective import factor
from dai_plugin.training.outputs import StockOutputs
from dai_plugin.training.past import Past
from dai_plugin.training.step import Step
from dai_plugin.training.steps import Steps

logger = logging.getLogger("dai_plugin")

_TRIES = 3  # calls in which a label that nobody named is seen to be ignored


class CriterionLoss:
    """Takes the loss at the calls of a criterion (`attach(model, criterion)`)."""

    needs_rows = True

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._stock = StockOutputs()
        self._past = Past(steps, self._stock)
        self._sums: bool | None = None  # whether the criterion sums over images
        self._ended: list[weakref.ref[Tensor]] = []
        self._tries = _TRIES

    def begin(self, arguments: Arguments) -> None:
        """Remembers what the forward before this one returned."""
        self._move_terms()
        self._remember()

    def evaluating(self) -> None:
        """The same."""
        self._move_terms()
        self._remember()

    def stock(self, output: Any) -> None:
        """Remembers what a forward without views returned."""
        self._stock.add(output)

    def end(self, args: Any, kwargs: Any) -> Any:
        """The first view's outputs."""
        step = self._steps.current
        assert step is not None
        assert step.outputs is not None
        return step.outputs.handed_out()

    def match(self, before: Snapshot) -> Call | StockOutputs | None:
        """The call, if it is about the outputs of the current step.

        A call about those of a stock forward is the loop's own: known, and left alone.
        """
        step = self._steps.current
        if step is not None:
            step.take_up()
        outputs = None if step is None else step.outputs
        call = Call(outputs, before) if outputs is not None else None
        ended, stock = self._ended_among(before), self._stock.among(before.nodes)
        if not call:
            return self._stock if stock and not ended else None
        if ended or stock:
            raise RuntimeError(
                "the criterion got outputs of two training forwards: those of the "
                "first were replaced when the second began, so that its further views "
                "are gone. Run the network once on both batches, torch.cat([a, b]), "
                "and part its output inside the criterion"
            )
        return call

    def unmatched(self, before: Snapshot) -> None:
        """Judges a call that no attached network knows."""
        tensors = [t for t in before.leaves if isinstance(t, Tensor)]
        self._past.saw(tensors, self._steps.current, self._ended_among(before))

    def _ended_among(self, before: Snapshot) -> bool:
        """Whether outputs of an earlier step are among the arguments."""
        tensors = [t for t in before.leaves if isinstance(t, Tensor)]
        return any(reference() is t for reference in self._ended for t in tensors)

    def combine(
        self, match: Call | StockOutputs, criterion: Any, call: Any, result: Any
    ) -> Any:
        """The objective, in the place of the criterion's own loss."""
        if isinstance(match, StockOutputs):
            return self._past.reset()
        step = self._steps.current
        assert step is not None
        self._follow(step, match, criterion)
        match.run(call, result)
        self._check_ignored(match, criterion)
        asked = match.carries or step.layout.alone
        sums = bool(asked) and self._is_sum(match, criterion)
        task = step.layout.mean(match.losses, sums)
        self._past.reset()
        if not match.carries:
            step.reached = match.reached
            if not step.called:
                step.complaint = (
                    f"output {match.reached} of the network, while the terms go with "
                    f"output {match.outputs.primary}"
                )
            return match.with_loss(factor(step, self._steps.settings) * task)
        needed = self._steps.settings.needs_targets
        total = self._steps.total(
            step,
            task,
            match.labels if needed else None,
            scale=step.images if sums else 1.0,
            told=told_ignore_index(criterion, *match.arguments) if needed else None,
        )
        return match.with_loss(total)

    def discard(self) -> None:
        """Drops the step of a call that raised."""
        self._steps.discard()

    def _is_sum(self, match: Call, criterion: Any) -> bool:
        told = told_reduction(criterion, *match.arguments)
        if told is not None:
            return told == "sum"
        if self._sums is None:
            self._sums = match.sums(criterion)
        return bool(self._sums)  # not seen: the next step asks again

    def _follow(self, step: Step, match: Call, criterion: Any) -> None:
        """Lets the targets that belong to pixels follow their views."""
        settings = self._steps.settings
        if not step.motions:
            return
        outside = told_ignore_index(criterion, *match.arguments)
        following = Follow(step, settings, outside)
        if match.carries:
            following.check_told(match.targets, match.shapes)
        match.follow(following)
        if match.moved and settings.first_view == "augmented":
            shapes = [list(t.shape) for t in match.moved.values()]
            raise ValueError(
                f"targets (rows {shapes}) belong to pixels, and the loop holds those "
                'of the images as they came, while first_view="augmented" gives it the '
                'outputs of moved ones: take first_view="clean", or the explicit form, '
                "dai_plugin.DataAugmentationInvariance(model), whose views() moves them"
            )

    def _check_ignored(self, match: Call, criterion: Any) -> None:
        """Raises a ValueError if the criterion learns from what lies outside images."""
        if self._tries and match.marked:
            self._tries -= 1
            if match.learns_from(criterion, self._steps.settings.ignored()):
                raise ValueError(UNNAMED)

    def _remember(self) -> None:
        step = self._steps.current
        if step is not None and step.outputs is not None:
            self._ended = [weakref.ref(t) for t in step.outputs.returned()]

    def _move_terms(self) -> None:
        """If another output than the first reached the criterion, the terms follow."""
        step, steps = self._steps.current, self._steps
        if step is None or step.called or step.reached is None or steps.carrier:
            return
        steps.carry(step.reached)
        steps.ledger.drop(step)
        steps.ledger.missed += 1
        logger.warning(
            "the criterion got output %d of the network and never the first one, "
            "with which the invariance losses went: they were not trained in this "
            "step, and go with output %d from now on",
            step.reached,
            step.reached,
        )


class OwnLoss:
    """Takes the loss out of what the network returns (`attach(model)`)."""

    needs_rows = False

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._targets: Tensor | None = None
        self._sums: bool | None = None  # whether the model sums over rows
        self._counts: bool | None = None  # whether it uses the loop's count

    def begin(self, arguments: Arguments) -> None:
        """Finds the targets, for terms that need them."""
        needed = self._steps.settings.needs_targets
        self._targets = target_among(arguments.others) if needed else None

    def evaluating(self) -> None:
        """Nothing is to be done."""

    def stock(self, output: Any) -> None:
        """Nor here: its loss is the model's own."""

    def end(self, args: Any, kwargs: Any) -> Any:
        """The first view's outputs, with the objective for their loss."""
        step, settings = self._steps.current, self._steps.settings
        assert step is not None
        outputs = step.outputs
        assert outputs is not None
        loss = own_loss(outputs.first, settings.loss)
        place = outputs.place_of(loss)
        views = outputs.rows_of(place)
        task = loss if views is None else step.layout.mean(views)
        sums = views is None and self._is_sum(step, args, kwargs)
        if sums:  # of all rows: B times their mean, as of a criterion that sums
            task = task / (step.layout.rows / step.images)
        total = self._steps.total(
            step,
            task,
            self._targets,
            scale=step.images if sums else self._scale(step, args, kwargs),
            told=ignored_by(self._steps.base),
        )
        return _with_entry(outputs.handed_out(), settings.loss, total)

    def _is_sum(self, step: Step, args: Any, kwargs: Any) -> bool:
        if self._sums is None and step.layout.num_views > 1:
            name = self._steps.settings.loss
            self._sums = self._steps.sums(
                step, args, kwargs, lambda output: own_loss(output, name)
            )
        return bool(self._sums)  # not seen: the next step asks again

    def _scale(self, step: Step, args: Any, kwargs: Any) -> Any:
        """Of the terms: the share of this micro-batch in the loop's count of images.

        A model that uses the count returns a sum over rows divided by it; one that
        ignores it returns a mean, which a look at the network tells apart.
        """
        count = kwargs.get(COUNT)
        if count is None:
            return 1.0
        rows = step.layout.rows  # the count is one of rows, too
        if self._counts is None:
            whole = bool(torch.as_tensor(count == rows))
            if whole:  # no accumulation in this step: both are alike
                return 1.0
            self._counts = self._steps.uses(args, kwargs, COUNT)
        return rows / count if self._counts else 1.0


def own_loss(output: Any, name: str | int) -> Tensor:
    """The loss in what the network returned.

    Raises:
        TypeError: there is none.
    """
    found = None
    if isinstance(name, int):
        if isinstance(output, list | tuple) and -len(output) <= name < len(output):
            found = output[name]
    elif isinstance(output, dict):
        found = output.get(name)
    else:
        found = getattr(output, name, None)
    if isinstance(found, Tensor):
        return found
    held = f" with {list(output)}" if isinstance(output, dict) else ""
    raise TypeError(
        "criterion=None means that the model returns its loss (output.loss or "
        f'output["loss"]; loss={name!r} was asked for), but it returned '
        f"{type(output).__name__}{held} without one; give attach the criterion, the "
        "model its labels, or say where the loss is: loss=0 for the first of a tuple, "
        'loss="name" for a key or an attribute'
    )


def _with_entry(output: Any, name: str | int, value: Tensor) -> Any:
    if isinstance(output, dict):
        output[name] = value
        return output
    if isinstance(output, tuple) and hasattr(output, "_replace"):
        fields: Any = output
        field = fields._fields[name] if isinstance(name, int) else name
        return fields._replace(**{field: value})
    if isinstance(output, list | tuple):
        assert isinstance(name, int)
        changed = list(output)
        changed[name] = value
        return type(output)(changed)
    setattr(output, str(name), value)
    return output
