"""What `--model` and `--weights` mean, in whatever form the network comes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dai_plugin.cli.checkpoints import SAFETENSORS, networks_in, open_checkpoint
from dai_plugin.cli.huggingface import from_hugging_face
from dai_plugin.cli.networks import Loaded, ready
from dai_plugin.cli.saved import from_function, from_saved
from dai_plugin.cli.states import load_state
from dai_plugin.cli.zoo import (
    TIMM,
    from_timm,
    from_torchvision,
    in_torchvision,
    unknown,
)
from dai_plugin.views.normalization import Normalization

DEFAULT = "DEFAULT"
_FILES = (".pt", ".pth", ".pt2", ".ckpt", ".tar", ".bin", ".pkl", SAFETENSORS)


def load_model(
    source: str,
    *,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    key: str | None = None,
    prefix: str | None = None,
    trust: bool = False,
) -> Loaded:
    """A network, ready to be measured; docs/models.md lists what is accepted.

    What is not as it was asked for is said in a warning of the logger.

    Args:
        source: torchvision's name; "timm/NAME"; a folder of Hugging Face, or a name
            there; "FILE.py:FUNCTION"; a checkpoint that names its network; or a file
            with a whole network, which runs code when it is loaded.
        weights: a file, in which they are found as `load_state` says; "DEFAULT" for
            those that torchvision or timm have; or a name in torchvision's list.
        options: arguments of what builds the network.
        key: of the entry of the file that is meant.
        prefix: that names in the entry have before those of the network.
        trust: whether code that comes with a network may run.

    Raises:
        ValueError: no such network, one that cannot be measured, or other weights than
            its own.
        OSError: files that cannot be fetched.
        ImportError: a package is missing.
    """
    options = dict(options or {})
    content: Any = None
    path = Path(weights) if weights else None
    if path and (path.is_file() or len(path.parts) > 1 or path.suffix in _FILES):
        content = open_checkpoint(path)
    elif path is None and (found := _network_of(source)):
        path = Path(source)
        source, content, told = found
        options = told | options
    if content is None:
        _expect_file(source, key, prefix)
        return ready(_built(source, weights, options, key, trust))
    beside = content if isinstance(content, Mapping) else {}
    known = beside.get("model_args")
    options = {**known, **options} if isinstance(known, Mapping) else options
    loaded = replace(
        _built(source, None, options, None, trust, bare=True), trained=True
    )
    start = load_state(loaded.model, content, str(path), key, prefix)
    # A network may have weights that are called "mean": these are no statistics.
    return ready(_prepared_as(loaded, beside) if start else loaded)


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["width=0.25", "num_classes=10"]` as keyword arguments.

    Raises:
        ValueError: one of them is no `name=value`.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"model arguments are name=value, got {pair!r}")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def _built(
    source: str,
    weights: str | None,
    options: Mapping[str, Any],
    key: str | None,
    trust: bool,
    bare: bool = False,
) -> Loaded:
    """The network that a source names, `bare` if a file's weights are to come."""
    if in_torchvision(source):
        return from_torchvision(source, weights, options)
    path, _, function = source.partition(":")
    python, timm = path.endswith(".py"), source.startswith(TIMM)
    hub, file = _on_hugging_face(source), Path(source).is_file()
    if not (python or timm or hub or file):
        raise ValueError(_absent(source))
    if weights not in (None, DEFAULT) or (weights and not (timm or hub)):
        raise ValueError(
            f"--weights {weights}: there is no such file, and {source} has no weights "
            "of that name"
        )
    if python:
        return from_function(Path(path), function, options)
    if timm:
        return from_timm(source.removeprefix(TIMM), weights == DEFAULT, options)
    if file:
        return from_saved(Path(source), key, trust)
    return from_hugging_face(source, not bare, options, trust)


def _expect_file(source: str, key: str | None, prefix: str | None) -> None:
    file = Path(source).is_file() and not source.endswith(".py")
    for flag, given in (("--key", None if file else key), ("--prefix", prefix)):
        if given is not None:
            raise ValueError(
                f"{flag} {given} says where in a file of weights those of the network "
                f"lie, and no such file was given: add --weights FILE"
            )


def _absent(source: str) -> str:
    if source.endswith(_FILES):
        return f"the file {source} of --model does not exist"
    return unknown(source)


def _on_hugging_face(source: str) -> bool:
    """Whether it is a folder, or two words as names of networks there are."""
    owner, slash, name = source.partition("/")
    plain = owner.strip(".") and name and "/" not in name and not name.endswith(_FILES)
    own = source.startswith(TIMM) or ".py" in source or ":" in source
    return not own and bool((source and Path(source).is_dir()) or (slash and plain))


def _network_of(source: str) -> tuple[str, Any, dict[str, Any]] | None:
    """The network that the arguments beside the weights of a checkpoint name.

    Returns:
        Its name, what lies in the file, and arguments of the network; None where the
        source is no such file.

    Raises:
        ValueError: only the user has the code of that network.
    """
    path = Path(source)
    if not path.is_file() or path.suffix == ".py":
        return None
    try:
        content = open_checkpoint(path)
    except ValueError:  # what it is instead is for others to say
        return None
    if networks_in(content) or not isinstance(content, Mapping):
        return None
    for arguments in (content.get("arguments"), content.get("args"), content):
        known = _plain(arguments)
        names = [known[k] for k in ("model", "arch") if isinstance(known.get(k), str)]
        if names:
            break
    else:
        return None
    name = names[0]
    if not in_torchvision(name):
        raise ValueError(
            f"{source} holds weights of {name!r}, which torchvision does not have: "
            f"give that network to --model (FILE.py:FUNCTION, or {TIMM}NAME), and "
            f"--weights {source}"
        )
    classes = known.get("classes", known.get("num_classes"))
    return name, content, {"num_classes": classes} if classes else {}


def _plain(arguments: Any) -> Mapping[str, Any]:
    """Of a mapping, or an object with attributes as scripts have for their flags."""
    if isinstance(arguments, Mapping):
        return arguments
    return vars(arguments) if hasattr(arguments, "__dict__") else {}


def _prepared_as(loaded: Loaded, beside: Mapping[str, Any]) -> Loaded:
    """With the sizes and normalisation that lie beside the weights, if they do."""
    known = loaded.normalization
    if "mean" in beside and "std" in beside:
        known = Normalization.given(beside["mean"], beside["std"], "checkpoint")
    sizes = {k: beside[k] for k in ("resize", "crop") if k in beside}
    return replace(loaded, normalization=known, **sizes)
