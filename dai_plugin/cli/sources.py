"""What stands in a Python file of the user's: `FILE.py:NAME`."""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dai_plugin.views.schemes import AnyScheme, Given, find_scheme


def from_file(path: Path, name: str, wanted: str) -> Any:
    """The object of that name in a file, which is run as Python runs a script.

    Files beside it can be imported, and what it defines can be pickled.

    Args:
        path: of the file.
        name: of a function or another object in it.
        wanted: what it is to be, for messages.

    Raises:
        ValueError: there is no such file, or nothing of that name in it.
    """
    if not path.is_file():
        raise ValueError(f"the file {path} does not exist")
    module = _run(path)
    if not hasattr(module, name):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__
        ]
        raise ValueError(
            f"{path} has no function {name!r}, it holds {', '.join(own) or 'none'}; "
            f"give FILE.py:FUNCTION, {wanted}"
        )
    return getattr(module, name)


def load_scheme(source: str) -> AnyScheme:
    """A scheme by its name, or from `FILE.py:FUNCTION`.

    The function takes float batches `[N, C, H, W]` in [0, 1] and returns such; a
    pipeline or a scheme of that name in the file does as well.

    Raises:
        ValueError: there is none, it cannot be a scheme, or it is "given".
        TypeError: what stands there is no scheme.
    """
    path, _, name = source.partition(":")
    if path.endswith(".py"):
        wanted = "a function on float batches [N, C, H, W] in [0, 1], or a scheme"
        found = from_file(Path(path), name, wanted)
        if isinstance(found, str):
            raise TypeError(f"{source} is the text {found!r}; it must be {wanted}")
        try:
            return find_scheme(found)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{source}: {error}") from error
    scheme = find_scheme(source)
    if isinstance(scheme, Given):
        raise ValueError(
            'the scheme "given" takes views from a loader of your own, in a loop of '
            "your own: take another here"
        )
    return scheme


def with_values(scheme: AnyScheme, **values: Any) -> AnyScheme:
    """The scheme with some of its ranges changed; those that are None stay.

    Raises:
        ValueError: it has no such range.
    """
    given = {name: value for name, value in values.items() if value is not None}
    known = dataclasses.fields(scheme) if dataclasses.is_dataclass(scheme) else ()
    missing = set(given) - {field.name for field in known}
    if missing:
        raise ValueError(
            f"the scheme {scheme} has no {' and no '.join(sorted(missing))} to change"
        )
    return dataclasses.replace(scheme, **given) if given else scheme  # type: ignore[type-var]


def _run(path: Path) -> ModuleType:
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        with _neighbours(path.resolve().parent):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _module_name(path: Path) -> str:
    """The file's own, unless there is one of that name: no module is replaced."""
    taken = path.stem in sys.modules
    return f"{path.stem} of {path.resolve().parent}" if taken else path.stem


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Files of the folder are found before all others, and after all others later.

    Later is when a function of the file is called: then nothing of ours that is still
    to be imported gives way to a file of the same name.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
