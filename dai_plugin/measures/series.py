"""Versions along an axis: of one transformation, corruption or attack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from dai_plugin.measures.passes import Source
from dai_plugin.measures.results import Axis


@dataclass(frozen=True)
class Series:
    """Versions of each image, one for each point of an axis.

    Attributes:
        name: of the group of measures, "strength:rotation".
        axis: along which they lie.
        source: makes as many versions as the axis has points, in its order.
        cost: of making one, in forwards of the network.
        settings: in words, beside the axis: what series that are compared share.
    """

    name: str
    axis: Axis
    source: Source
    cost: float = 0.0
    settings: str = ""


@runtime_checkable
class Family(Protocol):
    """Series that are asked for together, such as all corruptions."""

    def series(self, model: nn.Module, seed: int) -> Sequence[Series]:
        """The series of a network."""
