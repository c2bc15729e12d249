"""Rows that share a label: their sums of squares, and the gradient of those."""

import torch
from torch import Tensor

from dai_plugin.losses.groups import Scratch, sum_of_squares


class ClassGroups:
    """Groups of rows that share a label; the labels are never read on the host.

    The squares within groups are weighted by rows, hence there is nothing to divide
    them by.

    Attributes:
        degrees: as in `ViewGroups`.
        pairs: 1.
        centred: False.
    """

    pairs, centred = 1, False

    def __init__(self, labels: Tensor, correction: int) -> None:
        self.degrees = max(labels.shape[0] - correction, 1)
        order = labels.argsort(stable=True)
        ordered = labels[order]
        starts = torch.ones_like(order)
        starts[1:] = ordered[1:] != ordered[:-1]
        self._group = torch.empty_like(order).scatter_(0, order, starts.cumsum(0) - 1)
        zeros = torch.zeros(labels.shape, device=labels.device, dtype=torch.float64)
        counts = zeros.index_add(0, self._group, torch.ones_like(zeros))
        self._counts = counts.clamp(min=1)[:, None]
        pairs = (counts - correction)[self._group]
        groups = (counts > correction).sum().clamp(min=1)
        self._weight = torch.where(pairs > 0, 1 / (pairs * groups), 0.0)[:, None]

    def _deviations(self, rows: Tensor) -> Tensor:
        sums = torch.zeros_like(rows).index_add_(0, self._group, rows)
        return rows - (sums / self._counts.to(rows.dtype))[self._group]

    def parts(
        self, rows: Tensor, scratch: Scratch | None = None
    ) -> tuple[list[Tensor], None]:
        """Weighted squares within groups and squares about the mean; no mean."""
        rows = (rows - rows[:1].detach()).flatten(1)
        within = self._deviations(rows).square() * self._weight.to(rows.dtype)
        return [within.sum(), sum_of_squares(rows - rows.mean(0))], None

    def combine(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Squares within groups and about the mean `[...]`: the parts `[..., 2]`."""
        within, about_mean = parts.unbind(-1)
        return within, about_mean

    def gradient(
        self,
        rows: Tensor,
        of_parts: Tensor,
        of_mean: Tensor | None,
        incoming: Tensor | None,
        out: Tensor,
        scratch: Scratch,
    ) -> None:
        """As in `ViewGroups`."""
        assert of_mean is None
        within, about_mean = (2 * of_parts).unbind()
        rows = rows - rows[:1]
        weight = within * self._weight.to(rows.dtype)
        about = (rows - rows.mean(0)).mul_(about_mean)
        torch.addcmul(about, self._deviations(rows), weight, out=out)
        if incoming is not None:
            out += incoming
