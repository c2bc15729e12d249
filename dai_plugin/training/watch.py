"""How the calls of a criterion are watched, be it a module or a function.

A module is watched by a forward hook; a function is exchanged for a stand-in wherever a
module holds it, because loops look it up by name.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.training.hooks import Hook
from dai_plugin.training.outputs import Call


class CriterionHooks:
    """Watches the calls of one criterion on behalf of an attachment.

    Args:
        criterion: a module, a function that loops look up by its module-level name, or
            any other callable.
        match: finds the call that concerns the attachment, else None.
        combine: turns the views' losses into the loss that the caller gets.
        discard: called when such a call raises, so that its step is dropped.

    Attributes:
        criterion: what the loop is to call (for modules and module-level functions the
            loop's own name for it works as well).

    Raises:
        TypeError: the criterion is no callable, or a module whose calls bypass hooks.
    """

    def __init__(
        self,
        criterion: Any,
        match: Callable[[Sequence[Any], Any], Call | None],
        combine: Callable[[Call], Tensor],
        discard: Callable[[], None],
    ) -> None:
        self._match, self._combine, self._discard = match, combine, discard
        self.criterion = criterion
        self._reduction = getattr(criterion, "reduction", None)
        if isinstance(criterion, type):
            raise TypeError(
                f"criterion is the class {criterion.__name__}; give an instance: "
                f"{criterion.__name__}()"
            )
        if isinstance(criterion, nn.Module):
            if isinstance(criterion, torch._dynamo.OptimizedModule):
                raise TypeError(
                    "criterion was compiled by itself, which bypasses hooks; attach, "
                    "and call, the one that was given to torch.compile"
                )
            if type(criterion).__call__ is not nn.Module.__call__:
                raise TypeError(
                    f"{type(criterion).__name__} overrides __call__, which bypasses "
                    "hooks; move its code to forward, or attach a function"
                )
            handle = criterion.register_forward_hook(
                Hook(self._after_module), with_kwargs=True, always_call=True
            )
            self._undo: Callable[[], None] = handle.remove
        elif callable(criterion):
            bound = getattr(criterion, "keywords", {})  # of a functools.partial
            self._reduction = bound.get("reduction", self._reduction)
            self.criterion = _dispatcher(criterion)
            self.criterion.dai_watchers.append(self)
            self._undo = functools.partial(_forget, self.criterion, self)
        else:
            raise TypeError(
                "criterion must be a module, a callable, or None if the model returns "
                f"the loss itself; got {type(criterion).__name__}"
            )

    def after(
        self, criterion: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> Any:
        """The combined loss if the call is this attachment's, else None."""
        call = self._match(args, kwargs) if torch.is_grad_enabled() else None
        if call is None:
            return None
        if result is None and raising():
            return self._discard()
        call.reduction = self._reduction or call.reduction
        try:
            call.run(criterion, result)
            return self._combine(call)
        except BaseException:
            self._discard()
            raise

    def remove(self) -> None:
        """Restores what was there before."""
        self._undo()

    def _after_module(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        return self.after(module.forward, args, kwargs, out)


def raising() -> bool:
    """Whether this code runs because a call has just raised.

    Hooks registered with `always_call` get None then, as if that had been returned.
    """
    return sys.exc_info()[1] is not None


def _dispatcher(function: Any) -> Any:
    """A stand-in for the function, put wherever a module holds it under any name."""
    dispatcher = function if hasattr(function, "dai_watchers") else _wrap(function)
    if not dispatcher.dai_watchers:
        dispatcher.homes = _homes(dispatcher.function)
        for home, name in dispatcher.homes:
            home[name] = dispatcher
    return dispatcher


def _wrap(function: Any) -> Any:
    watchers: list[CriterionHooks] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except BaseException:
            for watcher in watchers:
                watcher.after(function, args, kwargs, None)
            raise
        for watcher in watchers:
            combined = watcher.after(function, args, kwargs, result)
            if combined is not None:
                return combined
        return result

    vars(call).update(dai_watchers=watchers, function=function, homes=[])
    return call


def _homes(function: Any) -> list[tuple[dict[str, Any], str]]:
    modules = [m for m in list(sys.modules.values()) if isinstance(m, type(sys))]
    return [
        (vars(module), name)
        for module in modules
        for name, value in list(vars(module).items())
        if value is function
    ]


def _forget(dispatcher: Any, watcher: CriterionHooks) -> None:
    dispatcher.dai_watchers.remove(watcher)
    if dispatcher.dai_watchers:
        return
    for home, name in dispatcher.homes:
        if home.get(name) is dispatcher:
            home[name] = dispatcher.function
