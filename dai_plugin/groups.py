"""Which rows belong together, their sums of squares, and the gradient of those.

Rows are taken less one of them before anything is squared, which is exact for near
values: a large mean with a small deviation costs no digits.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


class Views:
    """Groups of rows that are views of one image, in view-major order.

    Attributes:
        degrees: N, or N - 1 with the correction; divides the squares about the mean.
        pairs: N, or N - B with the correction; divides the squares within groups.
        centred: whether the mean of all rows is wanted too, for other processes.
    """

    def __init__(
        self, num_views: int, rows: int, correction: int, centred: bool = False
    ) -> None:
        self.num_views, self.rows, self.correction = num_views, rows, correction
        self.centred = centred
        self.degrees = max(rows - correction, 1)
        self.pairs = max(rows - rows // num_views if correction else rows, 1)

    def sums(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Sums of squares `[3]`, and if wanted the mean `[d]` of rows less the first.

        The squares are those of rows about the first view of their image, of the sum of
        these over its views, and of the sums over the views about their mean.
        """
        apart, drift, sums = self._apart(rows)
        mean = sums.mean(0)
        squares = [_squares(values) for values in (apart, drift, sums.sub_(mean))]
        return torch.stack(squares), mean / self.num_views if self.centred else None

    def combine(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Squares within groups, and squares about the mean of all rows."""
        apart, drift, between = sums.unbind(-1)
        within = apart - drift / self.num_views
        return within, within + between / self.num_views

    def gradient(
        self, rows: Tensor, of_sums: Tensor, of_mean: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows and the gradient for them, given that of the sums and of the mean."""
        of_apart, of_drift, of_between = (2 * of_sums).unbind()
        apart, drift, sums = self._apart(rows)
        # What all views of an image have in common.
        common = sums.sub_(sums.mean(0)).mul_(of_between).addcmul_(drift, of_drift)
        if of_mean is not None:
            common += of_mean / self.rows
        images = len(common)
        yield slice(0, images), common
        others = torch.addcmul(common, apart, of_apart, out=apart)
        yield slice(images, None), others.flatten(0, 1)

    def _apart(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views less the first of their image, their sums `[B, d]`, sums over views.

        The first view stands near the mean of its group, so that squares about it lose
        next to no digits when they are carried over to the mean. The sums over views
        are those of rows less the first row of all, and no part of the graph but by
        the second result.
        """
        groups = torch.unflatten(rows, 0, (self.num_views, -1))
        first = groups[0].detach()
        # Under a compiler the first is among them, for autograd: it adds nothing.
        apart = (groups if torch.compiler.is_compiling() else groups[1:]) - first
        drift = apart.sum(0)
        return apart, drift, torch.add(drift, first - first[:1], alpha=self.num_views)


class Classes:
    """Groups of rows that share a label; the labels are never read on the host.

    The squares within groups are weighted by rows, hence there is nothing to divide
    them by.

    Attributes:
        degrees: as in `Views`.
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

    def sums(self, rows: Tensor) -> tuple[Tensor, None]:
        """Weighted squares within groups and squares about the mean `[2]`; no mean."""
        rows = (rows - rows[:1].detach()).flatten(1)
        within = self._deviations(rows).square() * self._weight.to(rows.dtype)
        mean = rows.mean(0)
        return torch.stack([within.sum(), _squares(rows - mean)]), None

    def combine(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Squares within groups, and squares about the mean of all rows."""
        within, squares = sums.unbind(-1)
        return within, squares

    def gradient(
        self, rows: Tensor, of_sums: Tensor, of_mean: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Rows and the gradient for them, given that of the sums."""
        assert of_mean is None
        within, squares = of_sums
        rows = rows - rows[:1]
        weight = 2 * within * self._weight.to(rows.dtype)
        about_mean = (rows - rows.mean(0)) * (2 * squares)
        yield slice(None), self._deviations(rows).mul_(weight).add_(about_mean)


def _squares(values: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return values.square().sum()
    values = values.reshape(-1)
    return torch.dot(values, values)  # without a temporary
