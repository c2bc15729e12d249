"""The invariance losses of the global batch, whose rows lie on several processes.

Rank r holds n_r rows in groups, all views of an image among them, with the squares
within its groups W_r, the squares S_r about its own mean m_r. With N = sum n_r and m =
sum n_r m_r / N (Chan, Golub, LeVeque 1979),

    within = sum W_r,    squares = sum (S_r + n_r |m_r - m|^2)

are those of one process with all rows, up to the float32 rounding of the means. Two
all-reduces take them to all ranks: the counts, W_r and n_r m_r of all layers, then one
number a layer. The backward needs none: d squares / d m_r = 2 n_r (m_r - m), since the
n_r (m_r - m) sum to zero, so that m counts as a constant, and a rank's activations
reach the loss through its own terms alone. DistributedDataParallel and FSDP average
gradients over the R ranks, hence each back-propagates R times its own share.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.ratio import divide

T = TypeVar("T")


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    ready = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if ready else 1


def rank() -> int:
    """Of this process; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def from_first(compute: Callable[[], T], device: torch.device) -> T:
    """What the first rank computes, for all ranks; its ValueError is raised on all."""
    result: list[Any] = [None]
    if rank() == 0:
        try:
            result = [compute()]
        except ValueError as error:
            result = [error]
    if world_size() > 1:
        dist.broadcast_object_list(result, src=0, device=device)
    if isinstance(result[0], ValueError):
        raise result[0]
    found: T = result[0]
    return found


def refuse_join() -> None:
    """Refuses statistics over ranks of which some have run out of data.

    Raises:
        RuntimeError: the forward runs inside `DistributedDataParallel.join()`.
    """
    wrapper = torch.nn.parallel.DistributedDataParallel._active_ddp_module
    config = getattr(wrapper, "_join_config", None)
    if config is not None and config.enable:
        raise RuntimeError(
            "sync=True needs all ranks in each step, but inside ddp.join() those that "
            "have run out of data take no part, and the others would wait for ever; "
            "set sync=False, or give all ranks as many batches"
        )


def global_losses(parts: Tensor, centres: list[Tensor], groups: ViewGroups) -> Tensor:
    """Losses `[L]` of the global batch, the same on every rank.

    Args:
        parts: `[L, P]` of this rank, as `tap` gives them.
        centres: mean `[D]` of this rank's rows, layer by layer.
        groups: of this rank.
    """
    layers = len(centres)
    within, squares = groups.combine(parts)
    centre = torch.cat([each.to(parts.device, parts.dtype) for each in centres])
    # Filled on the device: a copy from the host would wait for it.
    counts = [parts.new_full((1,), count) for count in (groups.members, groups.pairs)]
    first = torch.cat([*counts, within.detach(), groups.members * centre.detach()])
    dist.all_reduce(first)
    rows, pairs = first[:2]
    away = centre - first[2 + layers :] / rows
    spread = [part.square().sum() for part in away.split([len(c) for c in centres])]
    squares = squares + groups.members * torch.stack(spread)
    second = squares.detach().clone()
    dist.all_reduce(second)
    return divide(
        _shared(first[2 : 2 + layers], within) / pairs,
        _shared(second, squares),
        rows - groups.correction,
    )


def global_means(losses: Tensor, images: int) -> Tensor:
    """Means `[L]` over the images of the global batch, of means over this rank's.

    Args:
        losses: `[L]`, each a mean over the images of this rank.
        images: of this rank.
    """
    own = images * losses
    sums = torch.cat([own.detach(), own.new_full((1,), images)])
    dist.all_reduce(sums)
    return _shared(sums[:-1] / sums[-1], own / sums[-1])


def _shared(everywhere: Tensor, own: Tensor) -> Tensor:
    """The sum over all ranks, with R times the gradient of this rank's term."""
    return everywhere + dist.get_world_size() * (own - own.detach())


def check_same_layers(layers: dict[str, int]) -> None:
    """Checks that all ranks measure the same layers.

    Called in the first step, and where the layers or their sizes change, which they
    then have to do on all ranks in the same step.

    Args:
        layers: name and number of features of each.

    Raises:
        RuntimeError: they do not: the all-reduces would mix them up or never end.
    """
    others: list[dict[str, int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(others, layers)
    for number, other in enumerate(others):
        if other != others[0]:
            raise RuntimeError(
                "sync=True needs the same layers, with images of the same size, on all "
                f"ranks: rank 0 measured {others[0]}, rank {number} {other}"
            )
