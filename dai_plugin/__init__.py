"""Data augmentation invariance for PyTorch (arXiv:1906.04547).

import dai_plugin
model, criterion = dai_plugin.attach(model, criterion)
"""

from dai_plugin import schedules
from dai_plugin.layers import select_layers
from dai_plugin.losses.ratio import class_invariance_loss, invariance_loss
from dai_plugin.losses.terms import Term
from dai_plugin.losses.weights import layer_weights
from dai_plugin.measures.attacked import Attacks
from dai_plugin.measures.compared import Similarity
from dai_plugin.measures.corrupted import Corruptions
from dai_plugin.measures.measure import measure
from dai_plugin.measures.results import Measures
from dai_plugin.measures.scores import invariance_scores
from dai_plugin.measures.strengths import Strength
from dai_plugin.measures.watch import Watch
from dai_plugin.settings import Settings
from dai_plugin.training.attachment import Attachment, attach, attached
from dai_plugin.training.check import Check, check
from dai_plugin.training.explicit import DataAugmentationInvariance
from dai_plugin.views.named import AugMix, SimCLR
from dai_plugin.views.policies import AutoAugment, RandAugment, TrivialAugment
from dai_plugin.views.schemes import Scheme

__version__ = "0.1.0"
__all__ = [
    "Attachment",
    "Attacks",
    "AugMix",
    "AutoAugment",
    "Check",
    "Corruptions",
    "DataAugmentationInvariance",
    "Measures",
    "RandAugment",
    "Scheme",
    "Settings",
    "SimCLR",
    "Similarity",
    "Strength",
    "Term",
    "TrivialAugment",
    "Watch",
    "attach",
    "attached",
    "check",
    "class_invariance_loss",
    "invariance_loss",
    "invariance_scores",
    "layer_weights",
    "measure",
    "schedules",
    "select_layers",
]
