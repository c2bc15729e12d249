"""Data augmentation invariance for PyTorch (arXiv:1906.04547).

import dai_plugin
model, criterion = dai_plugin.attach(model, criterion)
"""

from dai_plugin import schedules
from dai_plugin.attachment import Attachment, attach, attached
from dai_plugin.explicit import DataAugmentationInvariance
from dai_plugin.layers import select_layers
from dai_plugin.loss import class_invariance_loss, invariance_loss
from dai_plugin.schemes import Scheme
from dai_plugin.scores import invariance_scores
from dai_plugin.weights import layer_weights

__version__ = "0.1.0"
__all__ = [
    "Attachment",
    "DataAugmentationInvariance",
    "Scheme",
    "attach",
    "attached",
    "class_invariance_loss",
    "invariance_loss",
    "invariance_scores",
    "layer_weights",
    "schedules",
    "select_layers",
]
