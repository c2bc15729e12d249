"""Networks by name: the paper's own, with a width factor, and torchvision's."""

import sys
from pathlib import Path
from typing import Any

import torch
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

# Networks that return the outputs of auxiliary heads too while they train, and the
# weight of a head's loss (arXiv:1409.4842, section 5; arXiv:1512.00567's authors').
AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}


def names() -> list[str]:
    """Names of all models: ours, then torchvision's classifiers."""
    return [*OWN, *torchvision.models.list_models(module=torchvision.models)]


def arguments(name: str, num_classes: int, width: float) -> dict[str, Any]:
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
    if name in AUXILIARY:
        # torchvision's own values, which it warns of where they are not given.
        return {"num_classes": num_classes, "aux_logits": True, "init_weights": True}
    return {"num_classes": num_classes}


def expect(name: str) -> None:
    """Refuses the name of no model.

    Raises:
        ValueError: so it is.
    """
    if name not in names():
        raise ValueError(f"no model {name!r}; there are {', '.join(names())}")


def build(name: str, **options: Any) -> nn.Module:
    """The untrained network of that name.

    Raises:
        ValueError: there is none.
    """
    expect(name)
    if name in OWN:
        return OWN[name](**options)
    return torchvision.models.get_model(name, weights=None, **options)


def try_size(model: nn.Module, name: str, side: int, flag: str) -> None:
    """Runs the network on the shapes of two images, without computing anything.

    Args:
        model: in the mode that counts.
        name: of the network.
        side: of the images, in pixels.
        flag: that sets it.

    Raises:
        ValueError: it does not run on images of that size.
    """
    states = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {key: state.detach().to("meta") for key, state in states.items()}
    images = torch.empty(2, 3, side, side, device="meta")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.func.functional_call(model, shapes, images)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"--model {name} does not run on images of {side} x {side} pixels "
            f"({str(error).partition(chr(10))[0]}): give another {flag}"
        ) from error
