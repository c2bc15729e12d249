"""Weights that a run starts from: torchvision's by name, or those of a file."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import torchvision
from torch import Tensor, nn

from dai_plugin.cli.checkpoints import open_checkpoint
from dai_plugin.cli.starts import bare
from dai_plugin.cli.states import DOCUMENTED

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Pretrained:
    """Trained weights, and what has to come with them.

    Attributes:
        state: tensors by name.
        source: where they are from, in words.
        options: arguments of the network's builder beside the number of classes.
        statistics: mean and std of the images that it was trained on, where known.
    """

    state: dict[str, Tensor]
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    statistics: Statistics | None = None


def read(args: argparse.Namespace) -> Pretrained | None:
    """What `--weights` names; None without it.

    A file holds a `state_dict`, alone or as "model", "state_dict" or
    "model_state_dict": model.pth or checkpoint.pth of this script, torchvision's
    checkpoints, and what other training loops write.

    Raises:
        ValueError: neither a file nor weights of `--model`, or no weights in it.
        OSError: torchvision's weights cannot be downloaded.
    """
    if not args.weights:
        return None
    if not Path(args.weights).is_file():
        return _named(args.weights, args.model)
    content = open_checkpoint(Path(args.weights))
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{args.weights} holds a {type(content).__name__}, no state_dict"
        )
    key = next((k for k in DOCUMENTED if isinstance(content.get(k), Mapping)), None)
    state, beside = (content[key], content) if key else (content, {})
    state = {bare(name).removeprefix("module."): v for name, v in state.items()}
    statistics = None
    if "mean" in beside and "std" in beside:
        statistics = tuple(beside["mean"]), tuple(beside["std"])
    return Pretrained(state, args.weights, beside.get("model_args", {}), statistics)


def take(model: nn.Module, found: Pretrained, num_classes: int) -> str:
    """Gives the network the weights that were found; a head for other classes is new.

    The head is what differs in its first dimension alone, where the network has its
    classes and the weights have some other number, the same one everywhere.

    Args:
        model: fresh, for `num_classes` classes.
        found: weights of the same network, for any number of classes.
        num_classes: of this run.

    Returns:
        What was taken and what is new, in words.

    Raises:
        ValueError: they belong to another network; every difference is listed.
    """
    own, state = model.state_dict(), found.state
    differ = [k for k in own if k in state and own[k].shape != state[k].shape]
    head = [k for k in differ if _of_head(own[k], state[k], num_classes)]
    before = {len(state[k]) for k in head}
    if len(before) > 1:
        head = []
    wrong = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {list(state[k].shape)} for {list(own[k].shape)}"
            for k in differ
            if k not in head
        ],
    }
    if any(wrong.values()):
        listed = "; ".join(f"{k}: {', '.join(v)}" for k, v in wrong.items() if v)
        raise ValueError(
            f"--weights {found.source} are those of another network than this "
            f"{type(model).__name__} ({listed}); give the --model (and --width) that "
            "they were trained with"
        )
    model.load_state_dict({k: own[k] if k in head else state[k] for k in own})
    told = f"weights: {len(own) - len(head)} of {len(own)} tensors from {found.source}"
    if not head:
        return told
    return (
        f"{told}; new, for {num_classes} classes instead of {before.pop()}: "
        f"{', '.join(head)}"
    )


def _of_head(own: Tensor, other: Tensor, num_classes: int) -> bool:
    return (
        own.dim() > 0
        and own.dim() == other.dim()
        and own.shape[1:] == other.shape[1:]
        and len(own) == num_classes
    )


def _named(name: str, model: str) -> Pretrained:
    """Weights of torchvision, with the normalisation that they know."""
    models.expect(model)
    kinds = _kinds(model)
    prefix, _, short = name.rpartition(".")
    wanted = next((k for k in kinds if k.name == short), None)
    if short == "DEFAULT" and kinds:
        wanted = type(kinds[0]).DEFAULT
    if wanted is None or prefix not in ("", type(kinds[0]).__name__):
        names = ", ".join(["DEFAULT", *(k.name for k in kinds)])
        there = f"torchvision has {names}" if kinds else "torchvision has none"
        raise ValueError(
            f"--weights {name} is neither a file nor the name of weights of --model "
            f"{model}: {there}; or give a file"
        )
    options = {"aux_logits": True} if model in models.AUXILIARY else {}
    try:
        network = torchvision.models.get_model(model, weights=wanted, **options)
    # A download that is cut short is a RuntimeError: its hash is another.
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"--weights {name} cannot be downloaded from {wanted.url} ({error}): fetch "
            "the file where there is a network, and give its path"
        ) from error
    # What torchvision's builders set along with the weights: networks that convert the
    # images themselves, and those for larger ones.
    set_too = ("transform_input", "image_size")
    options = {k: getattr(network, k) for k in set_too if hasattr(network, k)}
    preset = wanted.transforms()
    statistics = tuple(preset.mean), tuple(preset.std)
    source = f"torchvision's {wanted}"
    return Pretrained(network.state_dict(), source, options, statistics)


def _kinds(model: str) -> list[Any]:
    if model in models.OWN:
        return []
    return list(torchvision.models.get_model_weights(model))
