"""What stands in a Python file of the user's: `FILE.py:NAME`."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from dai_plugin.views.schemes import AnyScheme, Given, find_scheme


def from_file(path: Path, name: str, wanted: str) -> Any:
    """The object of that name in a file, which is run.

    Args:
        path: of the file.
        name: of a function or another object in it.
        wanted: what it is to be, for messages.

    Raises:
        ValueError: there is no such file, or nothing of that name in it.
    """
    if not path.is_file():
        raise ValueError(f"the file {path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == path.stem
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
