"""Images become rows: schemes, normalisation, expansion."""

from dai_plugin.views.expand import expand, mix_seed, repeat_targets
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Scheme

__all__ = ["Normalization", "Scheme", "expand", "mix_seed", "repeat_targets"]
