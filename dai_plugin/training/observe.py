"""Every so many training forwards somebody looks at the network, and leaves no trace.

Who looks, and at what, is no business of a step: `Settings.watch` is asked.
"""

import copy
import logging
from typing import Any

import torch

from dai_plugin.settings import Watching
from dai_plugin.training.hooks import LayerHooks
from dai_plugin.training.untouched import untouched
from dai_plugin.training.watch import calls_of
from dai_plugin.views.statistics import Normalization

logger = logging.getLogger("dai_plugin")


class Observer:
    """Lets `Settings.watch` look at one network.

    Args:
        hooks: of the network, which do nothing meanwhile.
        watch: who looks, None if nobody does.

    Attributes:
        found: all that the last look found, None before the first.
    """

    def __init__(self, hooks: LayerHooks, watch: Watching | None) -> None:
        self._hooks, self._watch = hooks, watch
        self._tried: int | None = None
        self._last: dict[str, Any] | None = None
        self.found: Any = None

    def before(self, step: int, known: Normalization | None) -> None:
        """Looks, if it is time to: before the first forward here, then every so many.

        The first look raises what goes wrong in it, so that a run that cannot be
        watched ends before it has begun; a later one warns, and the run goes on.

        Args:
            step: number of the training forward that is about to begin.
            known: the normalisation of the loop's images.
        """
        watch, first = self._watch, self._tried is None
        if watch is None or step == self._tried or (step % watch.every and not first):
            return
        self._tried = step
        try:
            self.found, numbers = self._look(watch, known or Normalization())
        except Exception as error:
            if first:
                self._tried = None
                error.add_note(
                    f"dai_plugin: so ended the first look of watch={watch!r}, before "
                    f"training forward {step}; change what it measures, or leave it out"
                )
                raise
            logger.warning(
                "the look before training forward %d failed (%s: %s); that of %s stays",
                step,
                type(error).__name__,
                error,
                "none" if self._last is None else self._last["step"],
            )
        else:
            self._last = {"step": step, **numbers}

    def stats(self) -> dict[str, Any]:
        """The numbers of the last look under "watch"; nothing if nobody looks."""
        return {} if self._watch is None else {"watch": copy.deepcopy(self._last)}

    def _look(
        self, watch: Watching, known: Normalization
    ) -> tuple[Any, dict[str, dict[str, float]]]:
        hooks = self._hooks
        kind = next((p.device.type for p in hooks.base.parameters()), "cpu")
        # In the precision of its weights: what is measured from activations is not to
        # be rounded, and no cast weight stays behind in autocast's cache.
        with (
            untouched(hooks.base, inside=calls_of(hooks.base) > 0),
            torch.autocast("cpu", enabled=False),
            torch.autocast(kind, enabled=False),
            torch.compiler.set_stance("force_eager"),
        ):
            hooks.visit = _see_nothing
            try:
                return watch.look(hooks.base, known)
            finally:
                hooks.visit = None


def _see_nothing(name: str, output: Any) -> None:
    """What the layers of the loss do while the network is looked at."""
