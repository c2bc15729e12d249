"""Data augmentation invariance for PyTorch (arXiv:1906.04547)."""

from dai_plugin.layers import select_layers
from dai_plugin.loss import class_invariance_loss, invariance_loss, layer_weights
from dai_plugin.schemes import Scheme

__version__ = "0.1.0"
__all__ = [
    "Scheme",
    "class_invariance_loss",
    "invariance_loss",
    "layer_weights",
    "select_layers",
]
