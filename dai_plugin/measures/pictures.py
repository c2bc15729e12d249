"""Which images break under their versions, and which hold: what they look like."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dai_plugin.measures.data import Batch
from dai_plugin.measures.output_measures import effective_invariance, probabilities
from dai_plugin.measures.passes import PIXELS, Tables
from dai_plugin.measures.results import Pictures
from dai_plugin.measures.versions import Version
from dai_plugin.measures.worst import Rows, Worst, thumbnail_size
from dai_plugin.wrappers import OUTPUT

KEPT = 24  # images of each kind


class Pictured:
    """Keeps the images that break most, and those that hold best; an `Observer`.

    An image breaks by the share of its versions that are predicted otherwise, then by
    its mean effective invariance. Its worst version is the one of the highest
    confidence in another class, else the one of the lowest effective invariance.
    """

    def __init__(self) -> None:
        self.layers: Sequence[str] = [PIXELS, OUTPUT]
        self._size: tuple[int, int] | None = None
        self._kept: dict[str, Rows] = {}
        self._shown, self._clean = torch.zeros(2, 0).unbind()
        self._worst: Worst | None = None

    def along(self) -> Self:
        """As in `Observer`."""
        other = copy.copy(self)
        other._kept = {}
        return other

    def first(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Nothing."""

    def clean(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes the images and what the network makes of them."""
        if name == PIXELS:
            self._size = self._size or thumbnail_size(activation)
            self._worst = Worst(activation, self._size)
        elif name == OUTPUT:
            self._clean = probabilities(activation)

    def version(
        self, name: str, activation: Tensor, clean: Tensor, version: Version
    ) -> None:
        """Takes a version where it is the worst so far."""
        if name == PIXELS:
            self._shown = activation
        elif name == OUTPUT:
            found = probabilities(activation)
            near = effective_invariance(self._clean, found)
            wrong, classes = found.max(1)
            away = classes != self._clean.argmax(1)
            assert self._worst is not None
            near, wrong = near.nan_to_num(0.0), wrong.nan_to_num(0.0)
            self._worst.take(version, self._shown, near, away, wrong)

    def ended(self, batch: Batch) -> None:
        """Keeps those of the batch that belong to the first."""
        assert self._worst is not None
        rows = self._worst.rows(batch.start)
        for name, sign in (("breaks", 1), ("holds", -1)):
            kept = self._kept.get(name)
            self._kept[name] = _first(kept + rows if kept else rows, sign)

    def tables(self) -> Tables:
        """None."""
        return {}

    def pictures(self) -> dict[str, Pictures]:
        """The first `KEPT` images, in their order, that "breaks" and that "holds"."""
        return {
            name: Pictures(rows.image, rows.version, rows.pixels, rows.words)
            for name, rows in self._kept.items()
        }


def _first(rows: Rows, sign: int) -> Rows:
    """The first `KEPT` by falling (1) or rising (-1) share; ties by invariance."""
    broken, near = sign * rows.broken, sign * rows.near
    keys = zip((-broken).tolist(), near.tolist(), rows.image.tolist(), strict=True)
    order = sorted(zip(keys, range(len(rows.image)), strict=True))
    return rows[[i for _, i in order[:KEPT]]]
