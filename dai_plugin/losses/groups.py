"""Rows that are views of one image: their sums of squares, and the gradient of those.

Rows are taken less one of them before anything is squared, which is exact for near
values: a large mean with a small deviation costs no digits.
"""

from collections.abc import Iterable
from functools import reduce
from itertools import repeat

import torch
from torch import Tensor

# Elements that keep the threads of a CPU busy in a single operation.
_ENOUGH = 2**18

# A dot product adds one value after another, be it in several lanes: its error grows
# with its length. Up to these lengths it stays near 1e-7; an accelerator, which adds in
# thousands of lanes, keeps to that for longer. Beyond, pieces are summed first.
_DOT_CPU, _DOT_ACCELERATOR = 2**14, 2**20
_PIECE = 2**10


class Scratch:
    """Memory that the blocks of a layer use one after another.

    A block that writes where the one before it wrote finds that memory in the cache;
    fresh memory lies further away, and the system may hand it out page by page.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Memory of that shape, with any content."""
        kept = self._kept.get(name)
        if kept is None or kept.numel() < like.numel():
            kept = self._kept[name] = like.new_empty(like.shape)
        if kept.shape == like.shape:
            return kept
        return kept.view(-1)[: like.numel()].view(like.shape)


class ViewGroups:
    """Groups of rows that are views of one image, in view-major order.

    The first view of all images comes first, then the further views of the first of
    them. Images without further views belong to no group, and their rows count nowhere.

    Args:
        num_views: M.
        rows: N.
        correction: 0 or 1.
        centred: whether the mean of the rows is wanted too, for other processes.
        alone: how many images have one view only.

    Attributes:
        rows: N, those in no group included.
        images: n, the groups.
        members: M n, the rows in groups.
        degrees: M n, or M n - 1 with the correction; divides the squares about the
            mean.
        pairs: M n, or M n - n with the correction; divides the squares within groups.
    """

    def __init__(
        self,
        num_views: int,
        rows: int,
        correction: int,
        centred: bool = False,
        alone: int = 0,
    ) -> None:
        self.num_views, self.rows, self.correction = num_views, rows, correction
        self.centred, self.alone = centred, alone
        self.images = (rows - alone) // num_views
        self.members = rows - alone
        self.degrees = max(self.members - correction, 1)
        pairs = self.members - self.images if correction else self.members
        self.pairs = max(pairs, 1)

    def grouped(self, rows: Tensor) -> Tensor:
        """The rows in groups `[M n, ...]` of all `[N, ...]`: all, if none is alone."""
        if not self.alone:
            return rows
        end = self.images + self.alone
        return torch.cat([rows[: self.images], rows[end:]])

    def views(self, rows: Tensor) -> Tensor:
        """The rows in groups as `[M, n, ...]`: a view, if none is alone."""
        return self.grouped(rows).view(self.num_views, self.images, *rows.shape[1:])

    def parts(
        self, rows: Tensor, scratch: Scratch | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Three sums of squares, and if wanted the mean `[d]` of rows less the first.

        The squares are those of views about the first view of their image, of the sum
        of these over the views, and of the sums over the views about their mean. The
        first view stands near the mean of its group, so that next to no digits are lost
        when `combine` carries its squares over to the mean.

        Args:
            rows: `[N, d]`; `[N, ...]` without scratch memory.
            scratch: of the layer's blocks. Without it, plain operations that autograd
                and the compiler follow: images are summed before features are, so that
                sums over the images share a loop.
        """
        if scratch is None:
            groups = self.views(rows)
            first = groups[0].detach()
            # With the first view among them, for autograd: it adds nothing.
            apart = groups - first
            drift = apart.sum(0)
            sums = torch.add(drift, first - first[:1], alpha=self.num_views)
            total = sums.sum(0)
            # Deviations from a mean sum to zero, hence nothing flows back through it.
            between = torch.sub(sums, total.detach(), alpha=1 / self.images)
            wide = _wide(rows)
            views = (apart.square().sum(0), drift.square(), between.square())
            parts = [each.sum(0, dtype=wide).sum().to(rows.dtype) for each in views]
        else:
            first = rows[: self.images].detach()
            drift, parts = self._apart(first, self._further(rows), scratch)
            away = torch.sub(first, first[:1], out=scratch("away", first))
            sums = torch.add(drift, away, alpha=self.num_views, out=away)
            total = sums.sum(0)
            parts.append(sum_of_squares(sums.sub_(total, alpha=1 / self.images)))
        return parts, total / self.members if self.centred else None

    def combine(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Squares within groups and about the mean `[...]`, from parts `[..., 3]`."""
        apart, drift, between = parts.unbind(-1)
        within = torch.sub(apart, drift, alpha=1 / self.num_views)
        return within, torch.add(within, between, alpha=1 / self.num_views)

    def gradient(
        self,
        rows: Tensor,
        of_parts: Tensor,
        of_mean: Tensor | None,
        incoming: Tensor | None,
        out: Tensor,
        scratch: Scratch,
    ) -> None:
        """Writes the gradient for rows, with that of the network added.

        Args:
            rows: `[N, d]`.
            of_parts: the gradient `[3]` of the parts, as it comes through `combine`: it
                is taken for granted that it does not depend on what was subtracted.
            of_mean: the gradient `[d]` of the mean, if it has one.
            incoming: the gradient `[N, d]` of the network, if it has one.
            out: `[N, d]`, where it is made: no other memory of that size is needed.
            scratch: of the layer's blocks.
        """
        first, places = rows[: self.images], self._further(out)
        apart = self._some(places)
        pair = self.num_views == 2  # then there is one difference, and nothing to add
        drift = places[0] if pair else scratch("drift", first)
        for number, views in enumerate(self._some(self._further(rows))):
            torch.sub(views, first, out=apart[number])
            if not pair:
                _add_up(apart[number], drift, number)
        common = self._common(first, drift, of_parts, of_mean, scratch)
        if incoming is None:
            out[: self.images].copy_(common)
            added: Iterable[Tensor | None] = repeat(None, len(apart))
        else:
            torch.add(common, incoming[: self.images], out=out[: self.images])
            added = self._some(self._further(incoming))
        for place, other in zip(apart, added, strict=True):
            torch.addcmul(common, place, of_parts[0], value=2, out=place)
            if other is not None:
                place += other
        if self.alone:
            rest = slice(self.images, self.images + self.alone)
            out[rest] = 0 if incoming is None else incoming[rest]

    def _common(
        self,
        first: Tensor,
        drift: Tensor,
        of_parts: Tensor,
        of_mean: Tensor | None,
        scratch: Scratch,
    ) -> Tensor:
        """What the gradients `[n, d]` of all views of an image have in common.

        That of the first view, which is apart from itself by nothing, has nothing else.
        """
        _, of_drift, of_between = of_parts.unbind()
        away = torch.sub(first, first[:1], out=scratch("away", first))
        total = torch.add(drift.sum(0), away.sum(0), alpha=self.num_views)
        offset = total.mul_(of_between * (-2 / self.images))
        if of_mean is not None:
            offset.add_(of_mean, alpha=1 / self.members)
        twice = 2 * self.num_views
        common = torch.addcmul(offset, away, of_between, value=twice, out=away)
        return common.addcmul_(drift, of_drift + of_between, value=2)

    def _apart(
        self, first: Tensor, further: Tensor, scratch: Scratch
    ) -> tuple[Tensor, list[Tensor]]:
        """Sums `[n, d]` over the views less the first of their image; two squares."""
        drift, squares = scratch("drift", first), []
        for number, views in enumerate(self._some(further)):
            starts = number == 0 and views.dim() == drift.dim()
            apart = drift if starts else scratch("apart", views)
            torch.sub(views, first, out=apart)
            squares.append(sum_of_squares(apart))
            if not starts:
                _add_up(apart, drift, number)
        of_drift = squares[0] if self.num_views == 2 else sum_of_squares(drift)
        return drift, [reduce(torch.add, squares), of_drift]

    def _further(self, rows: Tensor) -> Tensor:
        """`[M - 1, n, ...]` of `[N, ...]`: the views but the first."""
        further = rows[self.images + self.alone :]
        return further.view(self.num_views - 1, self.images, *rows.shape[1:])

    def _some(self, views: Tensor) -> tuple[Tensor, ...]:
        """`[m, n, d]` as what is taken at once: everything, or single views `[n, d]`.

        Single views on a CPU if that is work enough: operations are split by images
        then, so that each thread goes on with what it made itself.
        """
        enough = views.device.type == "cpu" and views[:1].numel() >= _ENOUGH
        return views.unbind() if enough or len(views) == 1 else (views,)


def _add_up(values: Tensor, out: Tensor, number: int) -> None:
    """Sums views, or adds a single one to what `number` views before it came to."""
    if values.dim() > out.dim():
        torch.sum(values, 0, out=out)
    elif number:
        out += values
    else:
        out.copy_(values)


def _wide(values: Tensor) -> torch.dtype:
    """In which a compiled graph adds values up.

    On a CPU its loops add one after another: in float32, thousands of them come to
    errors of 1e-5. An accelerator adds in a tree, and may be slow or unable to double.
    """
    return torch.float64 if values.device.type == "cpu" else values.dtype


def sum_of_squares(values: Tensor) -> Tensor:
    """Of all values, within 2e-7 of the exact sum in float32, whatever their number.

    On the CPU and on accelerators without a temporary of their size.
    """
    if torch.compiler.is_compiling():
        return values.square().sum(dtype=_wide(values)).to(values.dtype)
    values = values.reshape(-1)
    most = _DOT_CPU if values.device.type == "cpu" else _DOT_ACCELERATOR
    if values.numel() <= most:
        return torch.dot(values, values)
    whole = values.numel() // _PIECE * _PIECE
    norms = torch.linalg.vector_norm(values[:whole].view(-1, _PIECE), dim=1)
    total, rest = sum_of_squares(norms), values[whole:]
    return total + torch.dot(rest, rest) if len(rest) else total
