"""Hooks that do nothing in copies and pickles of the network."""

from collections.abc import Callable
from typing import Any

from torch import nn


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
