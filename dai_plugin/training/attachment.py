"""`attach`: how an objective meets a training loop that knows nothing of it.

Before the network's forward images become rows, at each chosen layer its loss is taken,
after the forward the caller gets the first view's rows, and after the criterion the
losses of all views become the objective.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Self, Unpack

from torch import nn

from dai_plugin.layers import unwrap
from dai_plugin.settings import Keywords, Settings, shows_settings
from dai_plugin.training.forward import Forward
from dai_plugin.training.inert import Hook
from dai_plugin.training.loss import CriterionLoss, OwnLoss
from dai_plugin.training.steps import Steps
from dai_plugin.training.usage import say_if_unused
from dai_plugin.training.watch import watcher_of


@shows_settings()
def attach(
    model: nn.Module, criterion: Any = None, **settings: Unpack[Keywords]
) -> "Attachment":
    """Trains the network for data augmentation invariance, in place.

    From now on a training forward of B images runs the network once on `num_views * B`
    rows (fewer with `share`, in some forwards alone with `every`) and returns the first
    view's B rows; the criterion, called on them, averages the task loss over the rows
    and adds the invariance loss of each layer (arXiv:1906.04547). Evaluation is
    untouched.

    Args:
        model: any network, wrapped (DistributedDataParallel, `torch.compile`) or not.
        criterion: a module; a function that the loop looks up by its module-level name
            (`F.cross_entropy`); any other callable (then call the returned one); or
            None if the model returns the loss itself (`output.loss`).
        **settings: the fields of `dai_plugin.Settings`, which says what each means.

    Returns:
        An `Attachment`, which unpacks into `(model, criterion)`.

    Raises:
        ValueError: a number out of range, or no layer chosen.
        KeyError: a layer name that does not exist.
        TypeError: a criterion that cannot be watched, or `DataParallel`.
        RuntimeError: something is attached to this network already.
    """
    return Attachment(model, criterion, Settings(**settings))


def attached(model: nn.Module) -> "Attachment | None":
    """The attachment of this network, None without one."""
    for hook in unwrap(model)._forward_pre_hooks.values():
        if isinstance(hook, Hook) and isinstance(hook.owner, Attachment):
            return hook.owner
    return None


class Attachment:
    """What `attach` returns; also a context manager that removes itself.

    Attributes:
        model: as it was given.
        settings: of the run.
    """

    def __init__(self, model: nn.Module, criterion: Any, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self._steps = Steps(model, settings)
        self._watcher = None
        loss = OwnLoss(self._steps) if criterion is None else CriterionLoss(self._steps)
        self._loss = loss
        try:
            if isinstance(loss, CriterionLoss):
                self._watcher = watcher_of(criterion)
                self._watcher.subscribe(loss)
        except TypeError:
            self._steps.remove()
            raise
        self._forward = Forward(self._steps, loss, self)
        self._unused = weakref.finalize(
            self, say_if_unused, self._steps.usage, type(self._steps.base).__name__
        )

    @property
    def layers(self) -> list[str]:
        """Names of the chosen layers."""
        return self._steps.layers

    @property
    def criterion(self) -> Any:
        """The criterion that the loop is to call."""
        return self._watcher.criterion if self._watcher else None

    def stats(self) -> dict[str, Any]:
        """Counters and the last values.

        Returns:
            "forwards", "criterion_calls" (training forwards that reached the criterion,
            each once), "missed" (those whose loss was not trained), "stock" (those
            without views, which `every` makes; neither of the two), "layers" ({name:
            last invariance loss}), "task_loss", "total_loss", and "alpha" and "beta" as
            scheduled. With `watch` "watch" too: "step", the training forward before
            which the last look was, and the mean of each measure ({measure: {place:
            number}}); None before the first.
        """
        return self._steps.stats()

    @property
    def watched(self) -> Any:
        """The `Measures` of the last look of `watch`; None before the first."""
        return self._steps.observer.found

    def replay(self, enabled: bool = True) -> AbstractContextManager[None]:
        """Training forwards inside repeat the views of the last step.

        For optimizers that look at one batch several times (SAM, L-BFGS), which need
        the same objective each time:

            criterion(model(images), targets).backward()  # new views
            with attachment.replay():
                criterion(model(images), targets).backward()  # the same views

        Args:
            enabled: False draws new views, so that a closure can decide.
        """
        return self._steps.draws.replay(enabled)

    def state_dict(self) -> dict[str, Any]:
        """Seed, step and input range: plain numbers.

        They are the same on every rank if `seed` was given, or torch was seeded alike.
        """
        return self._steps.draws.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the random stream where `state_dict` was taken."""
        self._steps.load_state_dict(state)

    def remove(self) -> None:
        """Takes away every hook that attach set, and nothing else's."""
        if self._steps.removed:
            return
        self._unused()
        self._forward.remove()
        self._steps.remove()
        if self._watcher is not None and isinstance(self._loss, CriterionLoss):
            self._watcher.unsubscribe(self._loss)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.criterion))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return (
            f"Attachment(num_views={self.settings.num_views}, "
            f"alpha={self.settings.alpha}, {len(self.layers)} layers of "
            f"{type(self._steps.base).__name__})"
        )
