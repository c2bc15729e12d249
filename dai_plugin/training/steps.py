"""Steps of one network, opened and closed: shared by `attach` and explicit form."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import unwrap
from dai_plugin.losses import ranks
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.weights import key_name
from dai_plugin.settings import Settings
from dai_plugin.training.draws import Draws
from dai_plugin.training.growth import Growth
from dai_plugin.training.inert import hooked
from dai_plugin.training.ledger import Ledger
from dai_plugin.training.look import Look, answers_to, look, sums_rows
from dai_plugin.training.notice import tell, warn
from dai_plugin.training.objective import objective
from dai_plugin.training.observe import Observer
from dai_plugin.training.outputs import Outputs
from dai_plugin.training.record import Record
from dai_plugin.training.step import Step
from dai_plugin.training.terms import Terms
from dai_plugin.training.usage import Usage
from dai_plugin.views.rows import Layout
from dai_plugin.wrappers import OUTPUT, check_hookable

logger = logging.getLogger("dai_plugin")


class Steps:
    """Opens a step before a training forward, and closes it after.

    Args:
        model: the network, wrapped or not.
        settings: of the run.

    Attributes:
        base: the network inside its wrappers.
        draws: the views of its steps.
        terms: of the objective, at their layers.
        usage: of the network.
        current: the step whose loss is still to come, if there is one.
        ledger: what became of the forwards.
        hooks: on the chosen layers.
        record: of the last losses.
        observer: of the network, for `Settings.watch`.
        stock: whether the last training forward made no views, as `every` has it.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {model!r:.80}")
        check_hookable(model)
        self.settings, self.base = settings, unwrap(model)
        if hooked(self.base):
            raise RuntimeError(
                f"something is attached to this {type(self.base).__name__} already; "
                "remove it first: dai_plugin.attached(model).remove(), or .remove() of "
                "the explicit form"
            )
        self.draws = Draws(self.base, settings)
        self.terms = Terms(self.base, settings)
        self.hooks = self.terms.hooks(self.base)
        self.ledger = Ledger(settings.strict)
        self.current: Step | None = None
        self.removed = False
        self.growth = Growth()
        self.record = Record([term.name for term in settings.terms])
        self.observer = Observer(self.hooks, settings.watch)
        self.multiplier = 1.0
        self.usage = Usage()
        self.stock = False
        self._carrier: int | None = None
        self._told = False

    @property
    def layers(self) -> list[str]:
        """Names of the layers that are measured."""
        hooked = {*self.hooks.names, OUTPUT}
        return [name for name in self.terms.names if name in hooked]

    @property
    def active(self) -> bool:
        """Whether a forward now would be a training forward."""
        training = self.settings.when == "grad" or self.base.training
        return training and torch.is_grad_enabled() and not _tracing()

    def open(self, images: Tensor, made: Tensor | None = None) -> tuple[Step, Tensor]:
        """Starts a training step: the rows `[N, C, H, W]` of the images.

        Args:
            images: `[B, C, H, W]`.
            made: the rows, if the loader made the views.
        """
        self._begin()
        number, rows, motions = self.draws.next(images, made)
        self.observer.before(number, self.draws.pixels.known)
        multiplier = self.settings.multiplier(number)
        layout = self.settings.layout(images.shape[0])
        groups = self._groups(layout)
        step = Step(number, multiplier, layout, rows, groups, motions)
        self.stock = False
        self.hooks.bind()
        self.multiplier, self.current = multiplier, step
        self.ledger.begin(step)
        return step, rows

    def skip(self) -> None:
        """Counts a training forward that is to be the stock one."""
        self._begin()
        self.observer.before(self.draws.upcoming, self.draws.pixels.known)
        self.multiplier = self.settings.multiplier(self.draws.upcoming)
        self.draws.skip()
        self.ledger.skip()
        self.stock = True

    def _begin(self) -> None:
        if self.removed:
            raise RuntimeError("this attachment was removed: attach anew to train on")
        self.end()
        self.ledger.settle()

    def _groups(self, layout: Layout) -> ViewGroups:
        settings = self.settings
        centred = settings.sync and ranks.world_size() > 1
        if centred:
            ranks.refuse_join()
        return ViewGroups(
            layout.num_views, layout.rows, settings.correction, centred, layout.alone
        )

    def close(self, step: Step, args: Any, kwargs: Any) -> None:
        """Ends the forward of a step: takes over the losses of its layers."""
        self.hooks.close(step)
        self._leave_out_spoiled(step, args, kwargs)
        self.growth.begin(lambda: self._look(step, args, kwargs))
        self.growth.refuse_layers(step)

    def measure(self, step: Step, output: Any, reached: Tensor | None = None) -> None:
        """Takes the losses of a step that need no targets.

        Args:
            step: that was closed.
            output: what the network returned, with all its rows.
            reached: the tensor in it that goes to the criterion, if there is one.
        """
        self.terms.measure(step, output, reached)
        if not self._told:
            self._told = True
            warn(step, self.settings, self.terms.placed)
            if not self.draws.rank:
                known = self.draws.pixels.known
                tell(step, self.settings, self.terms.placed, self.draws.scheme, known)

    def split(self, step: Step, output: Any, needed: bool) -> Outputs:
        """Takes over what the forward of a step returned.

        Args:
            step: of the forward.
            output: what the network returned.
            needed: whether something in it must have rows.
        """
        rows = step.layout.rows
        step.outputs = Outputs(
            output,
            step.layout,
            self.base,
            lambda i, leaf: self.growth.of_output(i, leaf, rows),
            self._carrier,
            needed,
        )
        if step.outputs.main is not None:
            step.watch_output(step.outputs.main)
        return step.outputs

    def _look(self, step: Step, args: Any, kwargs: Any) -> Look | None:
        try:
            return look(self.hooks, args, kwargs, step.groups.rows, step.grown)
        except Exception as error:
            logger.debug("a look at the network failed: %s", error)
            return None

    def uses(self, args: Any, kwargs: Any, name: str) -> bool:
        """Whether a keyword changes the loss that the network returns."""
        return answers_to(self.hooks, args, kwargs, name)

    def sums(
        self, step: Step, args: Any, kwargs: Any, loss_of: Callable[[Any], Tensor]
    ) -> bool | None:
        """Whether the network's own loss is a sum over rows; None if not seen."""
        some = max(step.images, 2)  # a batch norm may want more than one
        try:
            return sums_rows(self.hooks, args, kwargs, loss_of, some, step.grown)
        except Exception as error:
            logger.debug("a look at the network's loss failed: %s", error)
            return False

    def _leave_out_spoiled(self, step: Step, args: Any, kwargs: Any) -> None:
        """Lets "auto" leave out what the network overwrites in place."""
        droppable = self.terms.droppable
        if self._told or not droppable:
            return
        if len(step.versions) == len(step.fired):
            spoiled = list(dict.fromkeys(name for name, _ in step.overwritten()))
        else:  # a compiler was at work, which shows no versions
            seen = self._look(step, args, kwargs)
            spoiled = seen.overwritten if seen else []
        spoiled = [name for name in spoiled if name in droppable]
        if not spoiled:
            return
        self.hooks.drop(spoiled)
        step.forget(spoiled)
        logger.info("left out, because overwritten in place: %s", ", ".join(spoiled))
        step.fired = tuple(step.calls)
        self.terms.check(step, spoiled)

    def total(
        self,
        step: Step,
        task: Tensor,
        targets: Tensor | None = None,
        scale: float | Tensor = 1.0,
        told: int | None = None,
    ) -> Tensor:
        """The objective of a step from its task loss, a fresh tensor.

        Args:
            step: whose forward has ended.
            task: the task loss.
            targets: `[B, ...]` of the loop, for terms that need them.
            scale: of the terms.
            told: the label that the criterion or the network ignores, if it names one.

        Raises:
            RuntimeError: a measured activation was overwritten in place.
        """
        _refuse_overwritten(step)
        losses = self.terms.losses(step, targets, self.settings.ignored(told))
        losses = {number: each.to(task.device) for number, each in losses.items()}
        weighed = self.terms.weighed(step, losses)
        total = objective(step, task, self.settings, weighed, scale)
        self.ledger.call(step)
        step.watch_total(total)
        keys = [each.keys(step) for each in self.terms.placed]
        self.record.note(keys, losses, task, total)
        return total

    def carry(self, place: int) -> None:
        """The output that the terms go with from now on."""
        self._carrier = place

    @property
    def carrier(self) -> int | None:
        """The output that the terms go with, if it is not the first."""
        return self._carrier

    def end(self) -> None:
        """Lets go of the step whose loss was to come."""
        step, self.current, self.hooks.current = self.current, None, None
        if step is not None:
            step.release()

    def discard(self) -> None:
        """The same after an error: the step counts neither as reached nor as missed."""
        if self.current is not None:
            self.ledger.drop(self.current)
        self.end()

    def stats(self) -> dict[str, Any]:
        """Counters and the last values."""
        settings = self.settings
        return {
            "forwards": self.ledger.forwards,
            "criterion_calls": self.ledger.calls,
            "missed": self.ledger.missed,
            "stock": self.ledger.stock,
            **self.record.values(),
            "alpha": self.multiplier * (settings.alpha if settings.convex else 0.0),
            "beta": self.multiplier * settings.beta,
            **self.observer.stats(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the random stream where the state of `draws` was taken."""
        self.draws.load_state_dict(state)
        self.multiplier = self.settings.multiplier(max(self.draws.number - 1, 0))

    def remove(self) -> None:
        """Takes away every hook on the layers."""
        self.end()
        self.hooks.remove()
        self.removed = True


def _refuse_overwritten(step: Step) -> None:
    changed = [key_name(key) for key in step.overwritten()]
    if changed:
        raise RuntimeError(
            f"the activations of {changed} were overwritten in place after they "
            "were measured (by a ReLU(inplace=True) that follows, say), which "
            "spoils their gradient; choose the module that overwrites them "
            "instead, or the block around both"
        )


def _tracing() -> bool:
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()
