"""Networks by name: the paper's own, with a width factor, and torchvision's."""

import sys
from pathlib import Path

import torchvision
from torch import nn

# `dai-plugin score --model reference/models.py:allcnn` opens this file by its path
# alone, without the folder that its neighbours are imported from.
sys.path.append(str(Path(__file__).parent))

from allcnn import allcnn, allcnn_tiny
from densenet import densenet_bc
from wideresnet import wrn28_10

OWN = {
    "allcnn": allcnn,
    "allcnn_tiny": allcnn_tiny,
    "wrn28_10": wrn28_10,
    "densenet_bc": densenet_bc,
}


def names() -> list[str]:
    """Names of all models: ours, then torchvision's classifiers."""
    return [*OWN, *torchvision.models.list_models(module=torchvision.models)]


def arguments(name: str, num_classes: int, width: float) -> dict[str, float]:
    """Keyword arguments that `build` passes on: what a checkpoint has to remember.

    Raises:
        ValueError: a width is given for a model that has none, or it is not positive.
    """
    if name in OWN:
        if not 0 < width < float("inf"):
            raise ValueError(f"--width {width}: give a number above 0 (1: the paper's)")
        return {"num_classes": num_classes, "width": width}
    if width != 1:
        raise ValueError(
            f"--width {width}: {name} has no width factor; {', '.join(OWN)} have"
        )
    return {"num_classes": num_classes}


def build(name: str, **options: float) -> nn.Module:
    """The untrained network of that name.

    Raises:
        ValueError: there is none.
    """
    if name in OWN:
        return OWN[name](**options)
    if name not in names():
        raise ValueError(f"no model {name!r}; there are {', '.join(names())}")
    return torchvision.models.get_model(name, weights=None, **options)
