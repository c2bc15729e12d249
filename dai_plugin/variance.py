"""The tap that takes a layer's sums of squares on the way, block by block.

`tap` returns an alias of the activations, through which the network goes on, beside the
sums. Its backward therefore gets the gradient of the network and adds its own in the
same pass: the activations are read once in the forward; they and the gradient are read
once and the sum is written once in the backward. A side branch would pass over them
half as often again, because autograd adds its gradient in passes of their own.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dai_plugin.groups import Classes, Views

# Elements a block of columns holds: it should stay in a CPU's cache, while on an
# accelerator every further block costs launches.
_BLOCK_CPU = 2**20
_BLOCK_ACCELERATOR = 2**24
# Columns come in multiples of this, so that the rows of a block begin at cache lines.
_ALIGNED = 256


Taps = tuple[Tensor, Tensor, Tensor | None]


def tap(activations: Tensor, groups: Views | Classes) -> Taps:
    """The activations to go on with, their sums of squares, and their mean.

    Args:
        activations: `[N, ...]`, of any floating dtype and memory format.
        groups: of the rows.

    Returns:
        An alias of the activations (themselves where that cannot be), the sums that
        `groups.combine` makes the two of the loss from, and, if `groups.centred`, the
        mean of all rows `[D]`. Sums and mean are float64 for float64 activations, else
        float32, and differentiable once.
    """
    order = _feature_order(activations)
    if torch.compiler.is_compiling():
        # Plain operations fuse into their neighbours, and an in-place operation after
        # them is found out instead of spoiling the gradient.
        with torch.autocast(activations.device.type, enabled=False):
            # Not flattened: the compiler chooses the memory format of its own.
            rows = activations.to(_statistics_dtype(activations))
            sums, mean = groups.sums(rows)
            centre = None if mean is None else (mean + rows[0].detach()).flatten()
            return activations, sums, centre
    alias, sums, centre = _Tap.apply(activations, groups, order)
    # Without a gradient there is nothing to add on the way back; and an alias of a view
    # would hide from autograd what happens to the memory that it views.
    aside = not alias.requires_grad or activations._is_view()
    return activations if aside else alias, sums, centre


class _Tap(torch.autograd.Function):
    """Sums on the way forward, the network's gradient and theirs on the way back.

    Saves nothing but the activations, which the network keeps anyway; group means are
    computed again in the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, activations: Tensor, groups: Views | Classes, order: list[int]
    ) -> Taps:
        sums, means = [], []
        with torch.autocast(activations.device.type, enabled=False):
            for _, rows in _blocks(activations, order):
                part, mean = groups.sums(rows)
                sums.append(part)
                if mean is not None:
                    means.append(mean + rows[0])
            ctx.save_for_backward(activations)
            # Kept, because what is saved may come back in another memory format.
            ctx.groups, ctx.order = groups, order
            ctx.set_materialize_grads(False)
            total = torch.stack(sums).sum(0) if len(sums) > 1 else sums[0]
            centre = None
            if means:  # not in storage order, which other processes may not share
                mean = torch.cat(means)[None]
                centre = _from_rows(mean, activations, order).flatten()
        # Shares memory and version counter, so that an in-place operation on either is
        # seen, but is no view to autograd, which would forbid that operation.
        return activations.detach(), total, centre

    @staticmethod
    def backward(
        ctx: Any,
        incoming: Tensor | None,
        of_sums: Tensor | None,
        of_centre: Tensor | None,
    ) -> tuple[Tensor | None, None, None]:
        if of_sums is None:
            return incoming, None, None
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the invariance loss is differentiable once: its gradient has none "
                "(create_graph=True, as gradient penalties use)"
            )
        (activations,) = ctx.saved_tensors
        order, shape = ctx.order, activations.shape
        flat = activations.new_empty(shape[0], math.prod(shape[1:]))
        if incoming is not None:
            incoming = as_rows(incoming, order)
        if of_centre is not None:
            of_centre = as_rows(of_centre.view(1, *shape[1:]), order)[0]
        for columns, rows in _blocks(activations, order):
            # In float32 up to here, so that a loss scale keeps what half would lose.
            of_mean = None if of_centre is None else of_centre[columns]
            for part, own in ctx.groups.gradient(rows, of_sums, of_mean):
                if incoming is None:
                    flat[part, columns] = own
                else:
                    torch.add(incoming[part, columns], own, out=flat[part, columns])
        return _from_rows(flat, activations, order), None, None


def _blocks(activations: Tensor, order: list[int]) -> Iterator[tuple[slice, Tensor]]:
    """Columns and their rows `[N, d]`, in float32 or float64."""
    flat, dtype = as_rows(activations, order), _statistics_dtype(activations)
    block = _BLOCK_CPU if flat.device.type == "cpu" else _BLOCK_ACCELERATOR
    width = max(block // flat.shape[0] // _ALIGNED, 1) * _ALIGNED
    for start in range(0, max(flat.shape[1], 1), width):
        columns = slice(start, start + width)
        yield columns, flat[:, columns].to(dtype)


def _statistics_dtype(activations: Tensor) -> torch.dtype:
    return torch.float64 if activations.dtype == torch.float64 else torch.float32


def _feature_order(activations: Tensor) -> list[int]:
    """Feature dimensions from the slowest to the fastest in memory."""
    features = range(1, activations.dim())
    return sorted(features, key=activations.stride, reverse=True)


def as_rows(activations: Tensor, order: list[int]) -> Tensor:
    """`[N, D]` with the feature dimensions in that order.

    A view, if the order is that of the memory: for channels_last, too.
    """
    features = math.prod(activations.shape[1:])
    return activations.permute(0, *order).reshape(activations.shape[0], features)


def _from_rows(flat: Tensor, activations: Tensor, order: list[int]) -> Tensor:
    """The inverse of `as_rows`, for any number of rows."""
    dims = [0, *order]
    ordered = flat.view(len(flat), *(activations.shape[dim] for dim in order))
    return ordered.permute([dims.index(dim) for dim in range(len(dims))])
