"""Criteria that are no modules: functions, objects with `__call__`, other callables.

A function is looked up by its name, so every module that holds it gets a stand-in under
that name. An object stays the same object, of a class of the same name whose calls are
seen. What is neither (a `functools.partial`, a bound method) gets a stand-in that has
all of its attributes; the loop has to call that one.
"""

import copyreg
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_FIXED = (*_FUNCTIONS, types.MethodType, functools.partial)
# By the id of the function, which its stand-in keeps alive.
_STAND_INS: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


class Runner(Protocol):
    """Who runs the calls of a criterion."""

    def run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls the criterion, and gives its caller what is made of it."""


def _opaque(runner: Runner) -> Callable[..., Any]:
    """The runner's calls, which a compiler does not look into."""
    run: Callable[..., Any] = torch.compiler.disable(runner.run)  # type: ignore[no-untyped-call]
    return run


def install(criterion: Any, runner: Runner) -> tuple[Any, Callable[[], None]]:
    """What the loop calls from now on, and how that is undone.

    Raises:
        TypeError: the criterion is a class, or no callable.
    """
    if isinstance(criterion, type):
        raise TypeError(
            f"criterion is the class {criterion.__name__}; give an instance: "
            f"{criterion.__name__}()"
        )
    if not callable(criterion):
        raise TypeError(
            "criterion must be a module, a callable, or None if the model returns "
            f"the loss itself; got {type(criterion).__name__}"
        )
    if isinstance(criterion, _FUNCTIONS):
        stand_in = _function(criterion, runner)
        _exchange(criterion, stand_in)
        return stand_in, functools.partial(_restore, stand_in, *_renamed(criterion))
    cls = type(criterion)
    if not isinstance(criterion, _FIXED):
        try:
            watched = _watched_class(cls, runner)
            # Past a __setattr__ of its own, which may refuse or keep it elsewhere.
            object.__setattr__(criterion, "__class__", watched)
        except TypeError:  # its class is written in C
            pass
        else:
            return criterion, functools.partial(_back, criterion, watched, cls)
    return StandIn(criterion, runner), _nothing


def watched_by(criterion: Any) -> Any:
    """Who runs the calls of this criterion already, None if nobody does."""
    if isinstance(criterion, StandIn):
        return object.__getattribute__(criterion, "_runner")
    # Who kept the function itself attaches the very one that others call by its name.
    return getattr(_STAND_INS.get(id(criterion), criterion), "dai_runner", None)


class StandIn:
    """Another callable's attributes and class, with its calls seen."""

    __slots__ = ("_runner", "_wrapped")

    def __init__(self, wrapped: Any, runner: Runner) -> None:
        object.__setattr__(self, "_wrapped", wrapped)
        object.__setattr__(self, "_runner", runner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the runner makes of a call."""
        wrapped = object.__getattribute__(self, "_wrapped")
        return object.__getattribute__(self, "_runner").run(wrapped, args, kwargs)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_wrapped"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_wrapped"), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(object.__getattribute__(self, "_wrapped"), name)

    def __repr__(self) -> str:
        return repr(object.__getattribute__(self, "_wrapped"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (object.__getattribute__(self, "_wrapped"),)


def _itself(wrapped: Any) -> Any:
    """A copy of a stand-in is what it stands for."""
    return wrapped


def _nothing() -> None:
    """A stand-in that nobody else holds needs no undoing."""


def _function(function: Any, runner: Runner) -> Any:
    run = _opaque(runner)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return run(function, args, kwargs)

    call.dai_runner = runner  # type: ignore[attr-defined]
    _STAND_INS[id(function)] = call
    return call


def _exchange(old: Any, new: Any) -> None:
    """Puts one object in the place of another in every module that holds it."""
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                vars(module)[name] = new


def _back(criterion: Any, watched: type, cls: type) -> None:
    """Gives an object its own class again, unless somebody else gave it another."""
    if type(criterion) is watched:
        object.__setattr__(criterion, "__class__", cls)


class _Stock:
    """Finds the functions behind stand-ins by name, for pickles of them.

    A function is pickled as the name under which its module holds it; while that is a
    stand-in, the function itself goes by `stock` and the same name.
    """

    def __getattr__(self, path: str) -> Any:
        module, _, name = path.rpartition("/")
        found = getattr(importlib.import_module(module.replace("/", ".")), name)
        return found.__wrapped__ if hasattr(found, "dai_runner") else found


stock = _Stock()


def _renamed(function: Any) -> tuple[Any, str, str]:
    """Gives the function the name that pickles need; returns it with its own ones."""
    module, name = function.__module__, function.__qualname__
    if isinstance(function, types.FunctionType) and name.isidentifier():
        path = f"{module}.{name}".replace(".", "/")
        function.__module__, function.__qualname__ = __name__, f"stock.{path}"
    return function, module, name


def _restore(stand_in: Any, function: Any, module: str, name: str) -> None:
    if isinstance(function, types.FunctionType):
        function.__module__, function.__qualname__ = module, name
    _exchange(stand_in, function)


def _watched_class(cls: type, runner: Runner) -> type:
    """The class of an object, with its calls seen. Copies are of the class itself."""
    run = _opaque(runner)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(functools.partial(cls.__call__, self), args, kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        plain: Any = cls.__reduce_ex__
        return _made_by(cls, _with_class(plain(self, protocol), watched, cls))

    names = {
        "__call__": call,
        "__reduce_ex__": reduce,
        "__slots__": (),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "dai_runner": runner,
    }
    watched = type(cls.__name__, (cls,), names)
    return watched


def _with_class(reduced: Any, old: type, new: type) -> Any:
    if reduced is old:
        return new
    if isinstance(reduced, tuple):
        return tuple(_with_class(part, old, new) for part in reduced)
    return reduced


def _made_by(cls: type, reduced: Any) -> Any:
    """Pickle refuses copyreg's own makers for what is not of the very class."""
    if not isinstance(reduced, tuple):
        return reduced
    make, given, *rest = reduced
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        return cls.__new__, given, *rest
    if make is copyreg.__newobj_ex__:  # type: ignore[attr-defined]
        _, args, keywords = given
        return functools.partial(cls.__new__, cls, *args, **keywords), (), *rest
    return reduced
