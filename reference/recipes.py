"""The experiments of arXiv:1906.04547 as defaults of the training script's flags.

The paper trains on M views of each image and keeps the number N of rows in a step: the
batch size here is N / M images. Stochastic gradient descent with Nesterov momentum 0.9,
no weight decay and no dropout; a tenth of the loss is invariance, and the last layer
weighs 10 times the first.
"""

import copy
from typing import Any

_COMMON: dict[str, Any] = {
    "opt": "sgd-nesterov",
    "momentum": 0.9,
    "weight_decay": 0.0,
    "label_smoothing": 0.0,
    "lr_scheduler": "multisteplr",
    "lr_warmup_epochs": 0,
    "num_views": 8,
    "alpha": 0.1,
    "beta": 0.0,
    # All-CNN: each ReLU. Wide ResNet: each residual block. DenseNet: the first
    # convolution and each dense block.
    "layers": ["auto"],
    "layer_weights": "exponential",
    "last_to_first": 10.0,
    "scheme": "heavier",
    "first_view": "augmented",
}
_CIFAR10 = {**_COMMON, "dataset": "cifar10"}
_TINY_IMAGENET = {**_COMMON, "dataset": "tinyimagenet", "translation": 0.0}

_ALLCNN: dict[str, Any] = {
    **_CIFAR10,
    "model": "allcnn",
    "epochs": 350,
    "batch_size": 16,  # N = 128
    "lr": 0.01,
    "lr_milestones": [300, 325],
    "lr_gamma": 0.1,
}

RECIPES: dict[str, dict[str, Any]] = {
    "allcnn-cifar10": _ALLCNN,
    # Invariance alone: the task loss has weight 0, and no label is used. What the
    # features are good for is asked afterwards, by probe.py.
    "allcnn-cifar10-invariance": {**_ALLCNN, "alpha": 1.0, "watch": 256},
    "wrn-cifar10": {
        **_CIFAR10,
        "model": "wrn28_10",
        "epochs": 200,
        "batch_size": 16,  # N = 128
        "lr": 0.1,
        "lr_milestones": [60, 120, 160],
        "lr_gamma": 0.2,
    },
    "densenet-cifar10": {
        **_CIFAR10,
        "model": "densenet_bc",
        "epochs": 300,
        "batch_size": 8,  # N = 64
        "lr": 0.1,
        "lr_milestones": [150, 225],
        "lr_gamma": 0.1,
    },
    "allcnn-tinyimagenet": {
        **_TINY_IMAGENET,
        "model": "allcnn_tiny",
        "epochs": 150,
        "batch_size": 16,  # N = 128
        "lr": 0.01,
        "lr_milestones": [100, 125],
        "lr_gamma": 0.1,
    },
    "wrn-tinyimagenet": {
        **_TINY_IMAGENET,
        "model": "wrn28_10",
        "epochs": 50,
        "batch_size": 8,  # N = 32
        "num_views": 4,
        "lr": 0.01,
        "lr_milestones": [30, 40],
        "lr_gamma": 0.2,
    },
}


def recipe(name: str) -> dict[str, Any]:
    """A copy of the flags of that recipe, for `parser.set_defaults`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return copy.deepcopy(RECIPES[name])
