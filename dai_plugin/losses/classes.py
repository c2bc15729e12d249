"""Rows that share a label: their sums of squares, and the gradient of those.

Rows whose label is the ignored one are as if they were not there. Which ones these are
is known on the device alone, hence they are not taken out but set to a row that counts,
less which all is taken: to zeros.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dai_plugin.losses.groups import Scratch, sum_of_squares


def hard_labels(target: Tensor) -> bool:
    """Whether these are labels of classes `[N]`; bools say which rows count."""
    whole = not (target.is_floating_point() or target.is_complex())
    return target.dim() == 1 and whole and target.dtype != torch.bool


def first_labels(targets: Sequence[Tensor]) -> Tensor | None:
    """The first of them that are hard labels, else the first."""
    return next(iter([t for t in targets if hard_labels(t)] or targets), None)


class ClassGroups:
    """Groups of rows that share a label; the labels are never read on the host.

    The squares within groups are weighted by rows, hence there is nothing to divide
    them by.

    Args:
        labels: `[N]`, of an integer dtype.
        correction: 0 or 1.
        ignore_index: label of the rows that are left out.

    Attributes:
        degrees: as in `ViewGroups`, on the device.
        pairs: 1.
        centred: False.
    """

    pairs, centred = 1, False

    def __init__(
        self, labels: Tensor, correction: int, ignore_index: int = -100
    ) -> None:
        labels = labels.to(torch.int64)  # to smaller types, -100 might be a label
        order = labels.argsort(stable=True)
        ordered = labels[order]
        starts = torch.ones_like(order)
        starts[1:] = ordered[1:] != ordered[:-1]
        self._group = torch.empty_like(order).scatter_(0, order, starts.cumsum(0) - 1)
        kept = labels != ignore_index
        self._ignored = ~kept[:, None]
        self._first = self._ignored[:, 0].to(torch.uint8).argsort(stable=True)[:1]
        zeros = torch.zeros(labels.shape, device=labels.device, dtype=torch.float64)
        counts = zeros.index_add(0, self._group, kept.to(zeros.dtype))
        self._counts = counts.clamp(min=1)[:, None]
        rows = counts.sum()
        self._rows = rows.clamp(min=1)
        self.degrees = (rows - correction).clamp(min=1)
        pairs = (counts - correction)[self._group]
        groups = (counts > correction).sum().clamp(min=1)
        weight = torch.where(kept & (pairs > 0), 1 / (pairs * groups), 0.0)
        self._weight = weight[:, None]

    def _apart(self, rows: Tensor) -> Tensor:
        """`[N, d]` less the first row that counts; zeros where a row does not."""
        apart = rows - rows.detach().index_select(0, self._first)
        return apart.masked_fill_(self._ignored, 0)

    def _from_mean(self, apart: Tensor) -> Tensor:
        """`[N, d]` about the mean of the rows that count."""
        mean = apart.sum(0) / self._rows.to(apart.dtype)
        return (apart - mean).masked_fill_(self._ignored, 0)

    def _deviations(self, apart: Tensor) -> Tensor:
        """`[N, d]` about the means of the groups."""
        sums = torch.zeros_like(apart).index_add_(0, self._group, apart)
        return apart - (sums / self._counts.to(apart.dtype))[self._group]

    def parts(
        self, rows: Tensor, scratch: Scratch | None = None
    ) -> tuple[list[Tensor], None]:
        """Weighted squares within groups and squares about the mean; no mean."""
        apart = self._apart(rows.flatten(1))
        weight = self._weight.to(rows.dtype).sqrt()
        within = sum_of_squares(self._deviations(apart) * weight)
        return [within, sum_of_squares(self._from_mean(apart))], None

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
        apart = self._apart(rows)
        weight = within * self._weight.to(rows.dtype)
        about = self._from_mean(apart).mul_(about_mean)
        torch.addcmul(about, self._deviations(apart), weight, out=out)
        if incoming is not None:
            out += incoming
