"""Networks by their names in torchvision and timm."""

import difflib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torchvision

from dai_plugin.cli.checkpoints import first_line
from dai_plugin.cli.networks import Loaded
from dai_plugin.views.normalization import PRESETS, Normalization

TIMM = "timm/"
_MODELS = "torchvision.models."
# Modules of torchvision whose networks take or return something else.
_REFUSED = {
    "detection": "finds boxes in lists of images",
    "optical_flow": "takes pairs of images",
    "quantization": "is quantised",
    "video": "takes videos",
}


def in_torchvision(name: str) -> bool:
    """Whether torchvision has a network of that name, in capitals or not."""
    return name.lower() in torchvision.models.list_models()


def from_torchvision(
    name: str, weights: str | None, options: Mapping[str, Any]
) -> Loaded:
    """A network of torchvision, with the sizes and normalisation of its weights.

    Args:
        name: as torchvision lists it, in capitals or not.
        weights: None for none; "DEFAULT" or a name in torchvision's list for it, as
            "IMAGENET1K_V1" or "ResNet50_Weights.IMAGENET1K_V2".
        options: arguments of its builder.

    Raises:
        ValueError: the network takes no batches of images, or has no such weights.
        OSError: the weights cannot be downloaded.
    """
    name = name.lower()
    builder = torchvision.models.get_model_builder(name)
    kind = builder.__module__.removeprefix(_MODELS).split(".")[0]
    if kind in _REFUSED:
        raise ValueError(
            f"torchvision's {name} {_REFUSED[kind]} ({_MODELS}{kind}): networks for "
            "images [B, C, H, W] are measured, of floating point"
        )
    if kind == "segmentation":  # which else downloads those of its backbone
        options = {"weights_backbone": None, **options}
    kinds = list(torchvision.models.get_model_weights(name))
    chosen = _weights(name, weights, kinds) if weights else None
    try:
        model = builder(weights=chosen, **options)
    # A download that is cut short is a RuntimeError: its hash is another.
    except (OSError, RuntimeError) as error:
        if chosen is None:
            raise
        raise OSError(
            f"{chosen} cannot be downloaded from {chosen.url} ({error}): give the "
            f"file, --weights {chosen.url.rpartition('/')[2]}, fetched elsewhere"
        ) from error
    preset = (chosen or type(kinds[0]).DEFAULT).transforms()
    mean, std = PRESETS[3]["ImageNet"]
    return Loaded(
        model,
        Normalization.given(
            getattr(preset, "mean", mean),
            getattr(preset, "std", std),
            f"torchvision's for {name}",
        ),
        _side(getattr(preset, "resize_size", 256)),
        _side(getattr(preset, "crop_size", getattr(preset, "resize_size", 224))),
        trained=chosen is not None,
        name=name,
        classes=chosen.meta.get("categories") if chosen else None,
    )


def from_timm(name: str, pretrained: bool, options: Mapping[str, Any]) -> Loaded:
    """A network of timm, with the sizes and normalisation of its configuration.

    Args:
        name: as timm has it, with or without a tag ("resnet50.a1_in1k").
        pretrained: whether its weights are taken.
        options: arguments of `timm.create_model`.

    Raises:
        ValueError: timm has no such network, or no weights of it.
        ImportError: timm is not installed.
        OSError: the weights cannot be downloaded.
    """
    timm = extra("timm", "timm")
    if not timm.is_model(name):
        nearest = _near(name, timm.list_models())
        raise ValueError(f"timm has no network {name!r}; nearest: {', '.join(nearest)}")
    known = timm.get_pretrained_cfg(name)
    if pretrained and not (known and known.has_weights):
        raise ValueError(f"timm has no weights of {name}: leave --weights DEFAULT out")
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise OSError(
            f"timm's weights of {name} cannot be downloaded ({first_line(error)}): "
            "fetch them where there is a network, and give the file: --weights FILE"
        ) from error
    config = timm.data.resolve_data_config(dict(options), model=model)
    crop = _side(config["input_size"][-2:])
    return Loaded(
        model,
        Normalization.given(config["mean"], config["std"], f"timm's for {name}"),
        max(crop, int(crop / config["crop_pct"])),
        crop,
        trained=pretrained,
        name=TIMM + name,
    )


def extra(module: str, name: str) -> Any:
    """An optional package.

    Raises:
        ImportError: it is not installed; says how it is.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this network needs the package {module} ({error}): "
            f"pip install 'dai-plugin[{name}]'"
        ) from error


def unknown(source: str) -> str:
    """What to say of a name that is neither a file nor torchvision's."""
    names = torchvision.models.list_models()
    said = (
        f"no model {source!r}: neither a file nor a name of torchvision; nearest: "
        f"{', '.join(_near(source.lower(), names))}"
    )
    if not importlib.util.find_spec("timm"):
        return said
    timm = importlib.import_module("timm")
    if timm.is_model(source):
        return f"{said}; timm has it: --model {TIMM}{source}"
    close = difflib.get_close_matches(source, timm.list_models(), n=3)
    return f"{said}{'; of timm: ' if close else ''}" + ", ".join(
        TIMM + name for name in close
    )


def _weights(name: str, asked: str, kinds: Sequence[Any]) -> Any:
    """Of torchvision's weights, those that are meant."""
    family = type(kinds[0]) if kinds else None
    enum, _, short = asked.rpartition(".")
    if family and enum in ("", family.__name__):
        if short == "DEFAULT":
            return family.DEFAULT
        for kind in kinds:
            if kind.name == short:
                return kind
    there = ", ".join(["DEFAULT", *(kind.name for kind in kinds)]) if kinds else "none"
    raise ValueError(
        f"--weights {asked}: there is no such file, and torchvision has no such "
        f"weights of {name}: {there}"
    )


def _side(size: int | Sequence[int] | None) -> int:
    return size if isinstance(size, int) else size[0] if size else 224


def _near(name: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, names, n=5, cutoff=0.0)
