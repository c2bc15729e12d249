"""The tap that takes a layer's sums of squares on the way, block by block.

`tap` returns an alias of the activations, through which the network goes on, beside the
sums. Its backward therefore gets the gradient of the network and adds its own in the
same pass: the activations are read once in the forward; they and the gradient are read
once and the sum is written once in the backward. A side branch would pass over them
half as often again, because autograd adds its gradient in passes of their own.
"""

import math
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from dai_plugin.losses.classes import ClassGroups
from dai_plugin.losses.groups import Scratch, ViewGroups

# Elements a block of columns holds: on a CPU it should stay in the cache, while on an
# accelerator every further block costs launches.
_BLOCK_CPU = 2**22
_BLOCK_ACCELERATOR = 2**24
# Columns come in multiples of this, so that the rows of a block begin at cache lines.
_ALIGNED = 64


Taps = tuple[Tensor, Tensor, Tensor | None]


def tap(activations: Tensor, groups: ViewGroups | ClassGroups) -> Taps:
    """The activations to go on with, their sums of squares, and their mean.

    Args:
        activations: `[N, ...]`, of any floating dtype and memory format.
        groups: of the rows.

    Returns:
        An alias of the activations (themselves where that cannot be), the parts `[P]`,
        sums of squares that `groups.combine` takes, and, if `groups.centred`, the mean
        of all rows `[D]`. They are float64 for float64 activations, else float32, and
        differentiable once, the parts by way of `combine`.

    Raises:
        TypeError: the activations are no real floating point numbers.
        RuntimeError: in the backward, if the activations were overwritten in place.
    """
    if not activations.is_floating_point():
        raise TypeError(
            f"activations must be real floating point, got {activations.dtype}; choose "
            "a layer whose output is (of complex values, the one behind "
            "torch.view_as_real or abs; integers carry no gradient)"
        )
    if torch.compiler.is_compiling():
        # Plain operations fuse into their neighbours, and an in-place operation after
        # them is found out instead of spoiling the gradient.
        with torch.autocast(activations.device.type, enabled=False):
            # Not flattened: the compiler chooses the memory format of its own.
            rows = activations.to(_statistics_dtype(activations))
            squares, mean = groups.parts(rows)
            centre = None if mean is None else (mean + rows[0].detach()).flatten()
            return activations, torch.stack(squares), centre
    alias, parts, centre = _Tap.apply(activations, groups)
    # Without a gradient there is nothing to add on the way back; and an alias of a view
    # would hide from autograd what happens to the memory that it views.
    aside = not alias.requires_grad or activations._is_view()
    return activations if aside else alias, parts, centre


class Version:
    """Tells whether a tensor was overwritten in place since; holds none of its memory.

    Also after the tensor has gone. Of tensors that keep no version (in inference mode,
    many subclasses) it never reports a change.

    Attributes:
        number: the version that was noted, -1 without one.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.number = -1
        self._memory: StorageWeakRef | None = None
        self._watch: Tensor | None = None
        # Subclasses may refuse any of this, each with an error of its own.
        with suppress(Exception):
            # A detached alias shares the version counter, and goes on to do so when
            # its data are replaced.
            watch = tensor.detach()
            watch.data = watch.new_empty(0)
            # The address of a storage is not used again while a weak reference lives.
            storage = tensor.untyped_storage()
            self._memory = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self.number, self._watch = watch._version, watch

    def changed(self) -> bool:
        """Whether an in-place operation has written to the tensor since."""
        return self._watch is not None and self._watch._version != self.number

    def same_memory(self, other: Tensor) -> bool:
        """Whether the other tensor lies in the memory of this one."""
        with suppress(Exception):
            storage = other.untyped_storage()
            return bool(self._memory and self._memory.cdata == storage._cdata)
        return False


def _recomputes() -> bool:
    """Whether what is saved now is computed again in the backward, by checkpointing.

    Its hooks are not marked in public, hence their module is looked at. All other hooks
    bring back what they were given, or a copy of it.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None:
        return False
    return getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"


class _Tap(torch.autograd.Function):
    """Sums on the way forward, the network's gradient and theirs on the way back.

    Saves nothing but the activations, which the network keeps anyway; group means are
    computed again in the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, activations: Tensor, groups: ViewGroups | ClassGroups
    ) -> Taps:
        order = _feature_order(activations)
        ctx.save_for_backward(activations)
        # Kept, because what is saved may come back in another memory format.
        ctx.groups, ctx.order = groups, order
        ctx.version, ctx.recomputes = Version(activations), _recomputes()
        ctx.set_materialize_grads(False)
        with _without_autocast(activations.device.type):
            parts, centre = _statistics(activations, groups, order)
        # Shares memory and version counter, so that an in-place operation on either is
        # seen, but is no view to autograd, which would forbid that operation.
        return activations.detach(), parts, centre

    @staticmethod
    def backward(
        ctx: Any,
        incoming: Tensor | None,
        of_parts: Tensor | None,
        of_centre: Tensor | None,
    ) -> tuple[Tensor | None, None]:
        if of_parts is None:
            return incoming, None
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the invariance loss is differentiable once: its gradient has none "
                "(create_graph=True, as gradient penalties use)"
            )
        (activations,) = ctx.saved_tensors
        _check_untouched(activations, ctx.version, ctx.recomputes)
        gradient = _gradient(
            activations, ctx.groups, ctx.order, incoming, of_parts, of_centre
        )
        return gradient, None


def _check_untouched(saved: Tensor, version: Version, recomputed: bool) -> None:
    """Checks that what was saved is what was measured.

    Autograd does so itself only where no hooks of saved tensors are in force. A tensor
    that checkpointing recomputed was measured at the same version as the first; unless
    it was overwritten, whatever happens to the first afterwards does no harm. Copies,
    such as `save_on_cpu` makes, were taken before.

    Raises:
        RuntimeError: it is not.
    """
    if not version.changed():
        return
    again = recomputed and saved._version != version.number
    if again or version.same_memory(saved):
        raise RuntimeError(
            f"an activation of shape {list(saved.shape)} was overwritten in place "
            "after it was measured (by a ReLU(inplace=True) that follows, say), which "
            "spoils its gradient; choose the module that overwrites it instead, or the "
            "block around both"
        )


def _statistics(
    activations: Tensor, groups: ViewGroups | ClassGroups, order: list[int]
) -> tuple[Tensor, Tensor | None]:
    """The parts `[P]`, and the mean of all rows if it is wanted."""
    blocks, means, scratch = [], [], Scratch()
    for block in _blocks(as_rows(activations, order)):
        rows = block.to(_statistics_dtype(activations))
        squares, mean = groups.parts(rows, scratch)
        blocks.append(torch.stack(squares))
        if mean is not None:
            means.append(mean + rows[0])
    parts = torch.stack(blocks).sum(0) if len(blocks) > 1 else blocks[0]
    if not means:
        return parts, None
    # Not in storage order, which other processes may not share.
    return parts, _from_rows(torch.cat(means)[None], activations, order).flatten()


def _gradient(
    activations: Tensor,
    groups: ViewGroups | ClassGroups,
    order: list[int],
    incoming: Tensor | None,
    of_parts: Tensor,
    of_centre: Tensor | None,
) -> Tensor:
    """The network's gradient plus that of the parts and of the mean."""
    rows, dtype = as_rows(activations, order), _statistics_dtype(activations)
    out = activations.new_empty(rows.shape)
    blocks, scratch = _blocks(rows), Scratch()
    if incoming is not None:
        incoming = as_rows(incoming, order)
    if of_centre is not None:
        of_centre = as_rows(of_centre.view(1, *activations.shape[1:]), order)[0]
    start = 0
    for block in blocks:
        columns = slice(start, start := start + block.shape[1])
        # In float32 up to here, so that a loss scale keeps what half would lose.
        wide = block.to(dtype)
        place = out[:, columns]
        made = place if place.dtype == dtype else scratch("made", wide)
        groups.gradient(
            wide,
            of_parts,
            None if of_centre is None else of_centre[columns],
            None if incoming is None else incoming[:, columns],
            made,
            scratch,
        )
        if made is not place:
            place.copy_(made)
    return _from_rows(out, activations, order)


def _without_autocast(device: str) -> AbstractContextManager[None]:
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    """`[N, D]` as `[N, d]`, as even as can be."""
    block = _BLOCK_CPU if rows.device.type == "cpu" else _BLOCK_ACCELERATOR
    count = -(-rows.numel() // block)
    if count <= 1:
        return (rows,)
    width = -(-rows.shape[1] // (count * _ALIGNED)) * _ALIGNED
    return torch.split(rows, width, 1)


def _statistics_dtype(activations: Tensor) -> torch.dtype:
    return torch.float64 if activations.dtype == torch.float64 else torch.float32


def _feature_order(activations: Tensor) -> list[int]:
    """Feature dimensions from the slowest to the fastest in memory."""
    strides = activations.stride()
    return sorted(range(1, len(strides)), key=strides.__getitem__, reverse=True)


def as_rows(activations: Tensor, order: list[int]) -> Tensor:
    """`[N, D]` with the feature dimensions in that order.

    A view, if the order is that of the memory: for channels_last, too.
    """
    features = math.prod(activations.shape[1:])
    if order != sorted(order):
        activations = activations.permute(0, *order)
    return activations.reshape(activations.shape[0], features)


def _from_rows(flat: Tensor, activations: Tensor, order: list[int]) -> Tensor:
    """The inverse of `as_rows`, for any number of rows."""
    shape = activations.shape
    ordered = flat.view(len(flat), *(shape[dim] for dim in order))
    if order == sorted(order):
        return ordered
    dims = [0, *order]
    return ordered.permute([dims.index(dim) for dim in range(len(dims))])
