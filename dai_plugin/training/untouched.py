"""What a run of the network leaves behind is undone: to the loop, it never was.

Buffers, what a module keeps in its attributes (counters, caches, the last activation),
random streams of torch, numpy and Python are as they were; hooks of the loop saw
nothing. Not undone is what `forward` does outside the network's modules (a global
counter, a file), nor what it changes inside objects of classes of its own.
"""

import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from dai_plugin.training.inert import Hook

_OWN = frozenset(vars(nn.Module()))  # what torch itself keeps in a module
_EVERYWHERE = ("_global_forward_pre_hooks", "_global_forward_hooks")
_LOCK = threading.RLock()


@contextmanager
def untouched(base: nn.Module, inside: bool = False) -> Iterator[None]:
    """Works on copies of what the modules hold, shows the run to nobody.

    Copies, because a buffer that is written to can be no part of a backward to come;
    to nobody, because the hooks of a loop (features, logs) expect one call a forward.

    Args:
        base: the network.
        inside: whether a forward of it has begun and its modules' have not: what torch
            did then (FSDP gathered the network's own weights) is neither done again nor
            undone.
    """
    before = [(module, vars(module).copy()) for module in base.modules()]
    buffers = [(m, n, b) for m in base.modules() for n, b in m._buffers.items()]
    copies: dict[int, Any] = {}
    with _random_streams(base), _no_hooks_everywhere():
        try:
            for module, held in before:
                vars(module).update(_replaced(held, copies, inside, module is base))
            for module, name, buffer in buffers:
                module._buffers[name] = _copy(buffer, copies)
            yield
        finally:
            for module, held in before:
                vars(module).clear()
                vars(module).update(held)
            for module, name, buffer in buffers:
                module._buffers[name] = buffer


@contextmanager
def _no_hooks_everywhere() -> Iterator[None]:
    """Without the loop's hooks on all modules, of which there seldom are any."""
    if not any(getattr(modules, name) for name in _EVERYWHERE):
        yield
        return
    with _LOCK:  # or two threads would put back what the other left them
        before = {name: getattr(modules, name) for name in _EVERYWHERE}
        try:
            for name, hooks in before.items():
                setattr(modules, name, _needed(hooks))
            yield
        finally:
            for name, hooks in before.items():
                setattr(modules, name, hooks)


@contextmanager
def _random_streams(base: nn.Module) -> Iterator[None]:
    places = [p.device for p in base.parameters() if p.device.type == "cuda"]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(list(dict.fromkeys(places))):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _replaced(
    held: dict[str, Any], copies: dict[int, Any], inside: bool, whole: bool
) -> dict[str, Any]:
    """What a module, which may be the whole network, has as attributes meanwhile."""
    found = {name: _copy(v, copies) for name, v in held.items() if name not in _OWN}
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        found[name] = _needed(held[name], begun=inside and whole)
    if inside:  # where FSDP takes gathered weights away
        found["_state_dict_pre_hooks"] = OrderedDict()
    return found


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """Tensors and the plain containers around them anew, each once; the rest as is."""
    if isinstance(value, nn.Parameter):
        return value
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, Tensor):
        found = copies[id(value)] = value.detach().clone()
        return found
    if type(value) is tuple:
        return tuple(_copy(each, copies) for each in value)
    if type(value) not in _PLAIN:
        return value
    found = copies[id(value)] = value.copy()  # known before what may hold it again
    if not isinstance(found, set):
        places = list(found) if isinstance(found, dict) else range(len(found))
        for place in places:
            found[place] = _copy(found[place], copies)
    return found


_PLAIN = (dict, OrderedDict, defaultdict, Counter, list, deque, set)


def _needed(hooks: dict[int, Any], begun: bool = False) -> "OrderedDict[int, Any]":
    """This package's hooks, and torch's own, which make weights or gather them."""

    def needed(hook: Any) -> bool:
        source = getattr(hook, "__module__", None) or type(hook).__module__
        theirs = not begun and source.startswith(("torch.", "accelerate."))
        return isinstance(hook, Hook) or theirs

    return OrderedDict((key, hook) for key, hook in hooks.items() if needed(hook))
