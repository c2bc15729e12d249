"""Files of weights, opened without running anything that is in them.

A pickle names the classes and functions that make its objects. Here tensors, numbers,
texts, dictionaries and lists are made; whatever else a file names (the arguments of a
script, callbacks, whole networks) becomes an empty stand-in, so that its weights can be
read and nothing of it runs.
"""

import argparse
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

SAFETENSORS = ".safetensors"
# Names of classes that are kinds of dictionaries: nothing else tells.
_DICTIONARY = re.compile(r"(dict|cfgnode)[^.]*$", re.IGNORECASE)
SCRIPT, EXPORT, PLAIN = "TorchScript", "torch.export", "torch.save"


class StandIn:
    """In place of an object that only code could make.

    Attributes:
        stands_for: name of its class or function.
    """

    stands_for = ""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Takes whatever the original would have been made of."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update({str(k): value for k, value in state.items()})


class _Dictionary:
    """In place of a kind of dictionary: one of torch's harmless ones."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def open_checkpoint(path: Path) -> Any:
    """What lies in a file of `torch.save` or safetensors, on the CPU.

    Raises:
        ValueError: there is no such file, it is damaged, or of another kind.
    """
    if not path.is_file():
        kind = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ValueError(f"the weights file {path} {kind}")
    archive = kind_of(path)
    if archive != PLAIN:
        raise ValueError(
            f"{path} holds no weights but a network, as {archive} writes it: give it "
            "to --model"
        )
    try:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    # What damaged bytes lead to is not for torch to foresee: errors of any kind.
    except Exception as error:
        raise ValueError(
            f"{path} holds no weights: it is damaged, or no file of torch.save or "
            f"safetensors ({type(error).__name__}: {first_line(error)})"
        ) from error


def kind_of(path: Path) -> str:
    """Which of torch's writers made a file: SCRIPT, EXPORT, else PLAIN."""
    try:
        with zipfile.ZipFile(path) as archive:
            ends = {name.partition("/")[2] for name in archive.namelist()}
    # Of old torch, or damaged, which is said when it is loaded.
    except Exception:
        return PLAIN
    if "constants.pkl" in ends:
        return SCRIPT
    return EXPORT if "archive_format" in ends else PLAIN


def networks_in(content: Any) -> dict[str, Any]:
    """Whole networks in what a file holds, and stand-ins of such, by their place.

    One that is all of the file has the place "".
    """
    entries = {str(k): v for k, v in content.items()} if _maps(content) else {}
    return {k: v for k, v in {"": content, **entries}.items() if _is_network(v)}


def class_of(value: Any) -> str:
    """Name of the class of an object in a file, that of its original for a stand-in."""
    stands = isinstance(value, StandIn)
    return value.stands_for if stands else type(value).__name__


def names_in(path: Path) -> list[str]:
    """Classes and functions in a file of `torch.save` that are not plain types.

    Files from before torch 1.6 do not tell them, nor do damaged ones.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    # What damaged bytes lead to is said when they are loaded.
    except Exception:
        return []


def first_line(error: BaseException) -> str:
    """Of an error's message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Weights only load failed"):
        # torch puts its reason behind advice to run what is in the file.
        lines = [line.rpartition("WeightsUnpickler error:")[2] for line in lines[1:]]
    return next(filter(None, map(str.strip, lines)), "no reason is given")


def _is_network(value: Any) -> bool:
    if isinstance(value, StandIn):
        return "_modules" in vars(value)
    return isinstance(value, nn.Module)


def _maps(value: Any) -> bool:
    return isinstance(value, Mapping)


def _stand_ins(path: Path) -> list[Any]:
    """A class for each name in a file; for old ones, that of a script's flags."""
    known = [(_stand_in(name), name) for name in names_in(path)]
    return known or [argparse.Namespace]


def _stand_in(name: str) -> type:
    base = _Dictionary if _DICTIONARY.search(name) else StandIn
    return type("StandIn", (base,), {"stands_for": name})
