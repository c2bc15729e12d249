"""Scores of classes: how near an image is to those of its class.

    1 - mean over j of its class of d(x_i, x_j) / mean over all j of d(x_i, x_j)

as in the invariance score, with images of the class instead of versions; pairs include
i = j. From means of the classes, without pairs: see `scores.py`.
"""

import torch
from torch import Tensor


class ClassScores:
    """Takes the scores of labelled images in two passes."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._shift: Tensor | None = None
        self._totals = torch.zeros(0)
        self._counts = torch.zeros(0)
        self._rows: list[Tensor] = []
        self._labels: list[Tensor] = []

    def first(self, values: Tensor, labels: Tensor | None) -> None:
        """Takes `[B, U]` activations into the means of their classes."""
        if labels is None:
            return
        if self._shift is None:  # taken from all: exact for near values
            self._shift = values[0].clone()
            self._totals = values.new_zeros((0, values.shape[1]), dtype=torch.float64)
            self._counts = values.new_zeros(0, dtype=torch.float64)
        for label in labels.tolist():
            self._slots.setdefault(label, len(self._slots))
        new = len(self._slots) - len(self._counts)
        self._totals = torch.cat(
            [self._totals, self._totals.new_zeros(new, values.shape[1])]
        )
        self._counts = torch.cat([self._counts, self._counts.new_zeros(new)])
        slots = self._places(labels, values)
        self._totals.index_add_(0, slots, (values - self._shift).double())
        self._counts.index_add_(0, slots, torch.ones_like(slots, dtype=torch.float64))

    def take(self, values: Tensor, away: Tensor, labels: Tensor | None) -> None:
        """Takes images `[B, U]` in the second pass.

        Args:
            values: their activations.
            away: their squared distances `[B]` from the mean of all.
            labels: their classes.
        """
        if labels is None or self._shift is None:
            return
        slots = self._places(labels, values)
        means = self._totals[slots] / self._counts[slots, None]
        inside = ((values - self._shift).double() - means).square().sum(1)
        self._rows.append(torch.stack([away, inside], 1))
        self._labels.append(slots)

    def values(self, least: Tensor) -> Tensor | None:
        """Scores `[N]`, NaN where a class has one image; None without labels.

        Args:
            least: as in `relative`, of scores.
        """
        if not self._rows:
            return None
        away, inside = torch.cat(self._rows).unbind(1)
        slots = torch.cat(self._labels)
        spread = torch.zeros_like(self._counts).index_add_(0, slots, inside)
        nearby = inside + (spread / self._counts)[slots]
        every = away + away.mean()
        known = (self._counts[slots] > 1) & (every > least)
        return torch.where(known, 1 - nearby / every, torch.nan)

    def _places(self, labels: Tensor, values: Tensor) -> Tensor:
        slots = [self._slots[label] for label in labels.tolist()]
        return torch.tensor(slots, device=values.device)
