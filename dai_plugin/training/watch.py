"""How the calls of a criterion are seen, whatever kind of callable it is.

A module is watched by forward hooks; a function is exchanged for a stand-in wherever a
module holds it, because loops look it up by name; an object with `__call__` stays what
it is and gets a class that calls back. A criterion that calls itself counts once.
"""

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from dai_plugin.training.criterion import Snapshot
from dai_plugin.training.inert import Hook
from dai_plugin.training.standins import install, watched_by

_LOCK = threading.RLock()


class Subscriber(Protocol):
    """Who wants to know of the calls of a criterion."""

    def match(self, before: Snapshot) -> Any:
        """What a call with these arguments is to the subscriber; None if nothing."""

    def unmatched(self, before: Snapshot) -> None:
        """Sees a call that is about no attached network's outputs."""

    def combine(self, match: Any, criterion: Any, call: Any, result: Any) -> Any:
        """What the caller is to get instead of the result; None leaves that."""

    def discard(self) -> None:
        """Called when such a call raises, so that its step is dropped."""


class Watcher:
    """Sees the calls of one criterion on behalf of all networks attached to it.

    Attributes:
        criterion: what the loop is to call (for modules, objects and module-level
            functions the loop's own name for it works as well).
    """

    def __init__(self, criterion: Any) -> None:
        self._original = criterion
        self._subscribers: list[weakref.ref[Any]] = []
        self._local = threading.local()
        self._undone = False
        self._install()

    def _install(self) -> None:
        original = self._original
        if isinstance(original, nn.Module):
            self.criterion, self._undo = original, _watch_module(original, self)
        else:
            self.criterion, self._undo = install(original, self)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tells the subscriber of calls, for as long as it lives."""
        with _LOCK:
            if not self._subscribers and self._undone:
                self._install()  # all had gone, and somebody kept the stand-in
                self._undone = False
            self._subscribers.append(weakref.ref(subscriber, _tidy_up(self)))

    def unsubscribe(self, subscriber: Subscriber | None = None) -> None:
        """Restores what was there before, if nobody else is subscribed."""
        with _LOCK:
            alive = [r for r in self._subscribers if r() not in (None, subscriber)]
            self._subscribers = alive
            if not alive and not self._undone:
                self._undone = True
                self._undo()

    def run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls the criterion, and gives its caller what the subscriber makes of it."""
        if getattr(self._local, "inside", False):
            return call(*args, **kwargs)
        self._local.inside, result = True, None
        try:
            self.before(args, kwargs)
            try:
                result = call(*args, **kwargs)
            except BaseException:
                self.after(call, None)
                raise
            combined = self.after(call, result)
            return result if combined is None else combined
        finally:
            self._local.inside = False

    def before(self, args: Any, kwargs: Any) -> None:
        """Notes the arguments of an outermost call."""
        watched = torch.is_grad_enabled() and self._subscribers
        self._local.before = Snapshot(args, kwargs) if watched else None

    def after(self, call: Callable[..., Any], result: Any) -> Any:
        """What the caller of an outermost call gets; None leaves the result.

        Args:
            call: the criterion itself, past the watching.
            result: of the call, None if it raised.

        Raises:
            RuntimeError: the call concerns two attached networks.
        """
        before = getattr(self._local, "before", None)
        self._local.before = None
        if before is None or not torch.is_grad_enabled():
            return None
        alive = [s for r in self._subscribers if (s := r()) is not None]
        found = [(s, m) for s in alive if (m := s.match(before)) is not None]
        if not found:
            for subscriber in alive:
                subscriber.unmatched(before)
            return None
        if len(found) > 1:
            raise RuntimeError(
                "a criterion call got the outputs of two attached networks, and "
                "neither knows of the other's views; attach one module that holds both"
            )
        ((subscriber, match),) = found
        if result is None and raising():
            return subscriber.discard()
        try:
            return subscriber.combine(match, self._original, call, result)
        except BaseException:
            subscriber.discard()
            raise


def watcher_of(criterion: Any) -> Watcher:
    """The watcher of a criterion, the one that it has or a new one.

    Raises:
        TypeError: the criterion is no callable, or its calls cannot be seen.
    """
    with _LOCK:
        return _existing(criterion) or Watcher(criterion)


def raising() -> bool:
    """Whether this code runs because a call has just raised.

    Hooks registered with `always_call` get None then, as if that had been returned.
    """
    return sys.exc_info()[1] is not None


def _tidy_up(watcher: Watcher) -> Callable[[Any], None]:
    """What is done when a subscriber has been collected."""
    reference = weakref.ref(watcher)

    def tidy(_: Any) -> None:
        if (watcher := reference()) is not None:
            watcher.unsubscribe()

    return tidy


def _existing(criterion: Any) -> Watcher | None:
    if isinstance(criterion, nn.Module):
        owners = [getattr(h, "owner", None) for h in criterion._forward_hooks.values()]
        return next((o for o in owners if isinstance(o, Watcher)), None)
    found = watched_by(criterion)
    return found if isinstance(found, Watcher) else None


def _watch_module(module: nn.Module, watcher: Watcher) -> Callable[[], None]:
    if isinstance(module, torch._dynamo.OptimizedModule):
        raise TypeError(
            "criterion was compiled by itself, which bypasses hooks; attach, "
            "and call, the one that was given to torch.compile"
        )
    if type(module).__call__ is not nn.Module.__call__:
        raise TypeError(
            f"{type(module).__name__} overrides __call__, which bypasses "
            "hooks; move its code to forward, or attach a function"
        )

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if calls_of(module) <= 1:
            watcher.before(args, kwargs)

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        inner = calls_of(module) > 1
        return None if inner else watcher.after(module.forward, result)

    opaque: Any = torch.compiler.disable
    first, last = Hook(opaque(before), watcher), Hook(opaque(after), watcher)
    handles = [
        module.register_forward_pre_hook(first, with_kwargs=True),
        module.register_forward_hook(last, with_kwargs=True, always_call=True),
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def calls_of(module: nn.Module) -> int:
    """How many calls of the module are under way in this thread.

    Looked up on the stack: a count of one's own would be off for good after a
    KeyboardInterrupt, which runs no hook.
    """
    frame, count = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code.co_name == "_call_impl":
            count += frame.f_locals.get("self") is module
        frame = frame.f_back  # type: ignore[assignment]
    return count
