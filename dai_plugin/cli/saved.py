"""Networks in files: what a function builds, and what was saved whole."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dai_plugin.cli.checkpoints import (
    EXPORT,
    SAFETENSORS,
    SCRIPT,
    StandIn,
    class_of,
    first_line,
    kind_of,
    names_in,
    networks_in,
    open_checkpoint,
)
from dai_plugin.cli.networks import Loaded, configured
from dai_plugin.cli.sources import from_file
from dai_plugin.cli.states import DOCUMENTED


def from_function(path: Path, function: str, options: Mapping[str, Any]) -> Loaded:
    """The network that a function in a Python file returns.

    Raises:
        ValueError: there is no such function, or it returns something else.
    """
    wanted = "a function that returns the network"
    build = from_file(path, function, wanted)
    if not callable(build):
        raise ValueError(f"{path}:{function} is no function; give {wanted}")
    _expect_arguments(build, options, f"{path}:{function}")
    model = build(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{path}:{function} returns a {type(model).__name__}; give {wanted}"
        )
    return configured(model, function)


def _expect_arguments(build: Any, options: Mapping[str, Any], source: str) -> None:
    try:
        taken = inspect.signature(build)
    except ValueError:  # of what is written in another language
        return
    try:
        taken.bind(**options)
    except TypeError as error:
        raise ValueError(
            f"{source}{taken} cannot be called with the arguments "
            f"{', '.join(options) or 'none'} ({error}): --model-args NAME=VALUE gives "
            "others"
        ) from error


def from_saved(path: Path, key: str | None, trust: bool) -> Loaded:
    """A network that was saved whole, by `torch.save` or TorchScript.

    Args:
        path: of the file.
        key: of the network in it, where it holds several.
        trust: whether what the file says may run.

    Raises:
        ValueError: it holds no network, or one that is not trusted.
    """
    archive = kind_of(path) if path.suffix != SAFETENSORS else ""
    if archive == EXPORT:
        raise ValueError(
            f"{path} is a program of {EXPORT}: it has neither layers to look at nor "
            "batches of any size; give the network that it was made from"
        )
    if archive == SCRIPT:
        expect_trust(path, trust, "TorchScript, a program")
    if any(".quantized." in name for name in names_in(path)):
        raise ValueError(
            f"{path} holds a quantised network: measures need activations of floating "
            "point; give it as it was before quantisation"
        )
    content = _opened_by_running(path, archive) if trust else open_checkpoint(path)
    found = networks_in(content)
    if not found:
        raise ValueError(
            f"{path} holds weights and no network: give it to --weights, and the "
            "network to --model (a name, or FILE.py:FUNCTION)"
        )
    network = _chosen(found, key, path)
    if isinstance(network, StandIn):
        expect_trust(path, trust, f"a whole network ({network.stands_for})")
    return configured(network, path.stem)


def expect_trust(path: Path, trust: bool, what: str) -> None:
    """Raises unless what runs code is trusted.

    Raises:
        ValueError: so it is; says why it matters.
    """
    if not trust:
        raise ValueError(
            f"{path} holds {what}: to load it is to run whatever code it names, with "
            "all your rights; add --trust if you know who made it, or give its "
            "state_dict to --weights and the network to --model FILE.py:FUNCTION"
        )


def _opened_by_running(path: Path, archive: str) -> Any:
    if path.suffix == SAFETENSORS:  # of which nothing runs
        return open_checkpoint(path)
    try:
        if archive == SCRIPT:
            return torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return torch.load(path, map_location="cpu", weights_only=False)
    # Its classes may be missing, and their code may fail in any way.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "a whole network needs the code of its classes beside it: run in the "
            "folder that it was saved from, or give --model FILE.py:FUNCTION and its "
            "state_dict to --weights"
        ) from error


def _chosen(found: Mapping[str, Any], key: str | None, path: Path) -> Any:
    names = [key] if key is not None else [n for n in ("", *DOCUMENTED) if n in found]
    if len(found) == 1 and key is None:
        names = list(found)
    if not names or names[0] not in found:
        listed = ", ".join(f"{name!r} ({class_of(v)})" for name, v in found.items())
        raise ValueError(f"{path} holds networks {listed}: say which with --key")
    return found[names[0]]
