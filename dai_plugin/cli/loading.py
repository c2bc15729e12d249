"""Networks and images for the command line: by name, from files, from folders."""

import argparse
import difflib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from dai_plugin.cli.sources import from_file
from dai_plugin.views.normalization import PRESETS, Normalization, from_model

_SUFFIXES = frozenset(torchvision.datasets.folder.IMG_EXTENSIONS)
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Loaded:
    """A network, and how its images are to be prepared."""

    model: nn.Module
    normalization: Normalization
    resize: int = 256
    crop: int = 224
    trained: bool = True


def load_model(
    source: str, weights: str | None = None, options: Mapping[str, Any] | None = None
) -> Loaded:
    """A network by torchvision's name, from `FILE.py:FUNCTION`, or from a saved module.

    Args:
        source: "resnet50"; "models.py:allcnn" (a function that returns the network); or
            a file written with `torch.save(model)`, which runs code when it is loaded:
            open only your own.
        weights: a file with a `state_dict`, alone or under the key "model" (then
            "mean", "std", "resize", "crop" and "model_args" beside it count), or
            "DEFAULT" for those of torchvision.
        options: keyword arguments of the function that builds the network.

    Raises:
        ValueError: no such model, a file that holds none, or weights of another one.
    """
    given = weights is not None and weights != "DEFAULT"
    checkpoint = read_checkpoint(str(weights)) if given else {}
    options = {**checkpoint.get("model_args", {}), **(options or {})}
    path, _, function = source.partition(":")
    if path.endswith(".py"):
        loaded = _normalised(_from_function(Path(path), function, options))
    elif Path(source).is_file():
        loaded = _normalised(_from_pickle(Path(source)))
    else:
        loaded = _from_torchvision(source, weights == "DEFAULT", options)
    if not checkpoint:
        return loaded
    load_weights(loaded.model, checkpoint["model"], str(weights))
    known = loaded.normalization
    if "mean" in checkpoint:
        known = Normalization.given(checkpoint["mean"], checkpoint["std"], "checkpoint")
    resize, crop = (checkpoint.get(k, getattr(loaded, k)) for k in ("resize", "crop"))
    return Loaded(loaded.model, known, resize, crop)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a `state_dict`.

    Raises:
        ValueError: it belongs to another network.
    """
    own = model.state_dict()
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    if wrong or missing or unexpected:
        raise ValueError(
            f"{source} holds the weights of another network than this "
            f"{type(model).__name__}: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(wrong)} of another "
            f"shape {wrong[:3]}; give the arguments that the network was built with"
        )
    model.load_state_dict(state)


def read_checkpoint(path: str) -> dict[str, Any]:
    """A file with weights, opened without running code from it.

    Returns:
        What lies in the file, its `state_dict` under the key "model", with the names
        that the network has without wrappers.

    Raises:
        ValueError: there is no such file, or no `state_dict` in it.
    """
    if not Path(path).is_file():
        raise ValueError(f"the weights file {path} does not exist")
    try:
        # torchvision's reference script stores its arguments as a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # What damaged bytes lead to is not for torch to foresee: errors of any kind.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} holds no weights ({reason})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, no state_dict")
    keys = ("model", "state_dict", "model_state_dict")
    key = next((k for k in keys if isinstance(content.get(k), Mapping)), None)
    state, others = (content[key], content) if key else (content, {})
    return {**others, "model": {_bare(name): value for name, value in state.items()}}


class ImageFolders(Dataset[Tensor]):
    """All images below some folders, in the order of their paths, as uint8 tensors.

    Args:
        folders: searched at any depth.
        resize: the shorter side is resized to it.
        crop: size of the square cut from the centre.
        channels: 1 for grey images, 3 for colour.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no image.
    """

    def __init__(
        self, folders: Sequence[str | Path], resize: int, crop: int, channels: int
    ) -> None:
        self.paths: list[Path] = []
        for folder in map(Path, folders):
            if not folder.is_dir():
                raise FileNotFoundError(f"the data folder {folder} does not exist")
            found = [p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES]
            if not found:
                raise FileNotFoundError(f"no images below the data folder {folder}")
            self.paths += sorted(found)
        self.resize, self.crop = resize, crop
        self.mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        try:
            with Image.open(self.paths[index]) as file:
                image = tv.pil_to_tensor(file.convert(self.mode))
        except OSError as error:
            raise OSError(f"cannot read {self.paths[index]}: {error}") from error
        image = tv.resize(image, [self.resize], antialias=True)
        cropped: Tensor = tv.center_crop(image, [self.crop])
        return cropped


def input_channels(model: nn.Module) -> int:
    """Channels of the images that the network's first convolution takes; else 3."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            return module.in_channels
    return 3


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["width=0.25", "num_classes=10"]` as keyword arguments.

    Raises:
        ValueError: one of them is no `name=value`.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"model arguments are name=value, got {pair!r}")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def _bare(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


def _from_function(path: Path, function: str, options: Mapping[str, Any]) -> nn.Module:
    wanted = "a function that returns the network"
    build = from_file(path, function, wanted)
    if not callable(build):
        raise ValueError(f"{path}:{function} is no function; give {wanted}")
    return _expect_module(build(**options), f"{path}:{function}")


def _from_pickle(path: Path) -> nn.Module:
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is no file of torch.save ({error})") from error
    return _expect_module(model, str(path))


def _expect_module(model: Any, source: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{source} gives a {type(model).__name__}, no network; a state_dict goes "
            "to --weights, its network to --model (NAME or FILE.py:FUNCTION)"
        )
    return model


def _normalised(model: nn.Module) -> Loaded:
    none = Normalization(source="none known: images stay in [0, 1]")
    return Loaded(model, from_model(model) or none)


def _from_torchvision(
    name: str, pretrained: bool, options: Mapping[str, Any]
) -> Loaded:
    names = torchvision.models.list_models()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
        raise ValueError(
            f"no model {name!r}: neither a file nor a name of torchvision; nearest: "
            f"{', '.join(nearest)}"
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    model = torchvision.models.get_model(
        name, weights=weights if pretrained else None, **options
    )
    return Loaded(
        model,
        Normalization.given(
            getattr(preset, "mean", PRESETS[3]["ImageNet"][0]),
            getattr(preset, "std", PRESETS[3]["ImageNet"][1]),
            f"torchvision's for {name}",
        ),
        _side(getattr(preset, "resize_size", 256)),
        _side(getattr(preset, "crop_size", 224)),
        trained=pretrained,
    )


def _side(size: int | Sequence[int] | None) -> int:
    return size if isinstance(size, int) else size[0] if size else 224
