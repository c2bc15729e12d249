"""Poisson counts by inversion: a table for each grey level, a look into it a pixel."""

import math
from functools import lru_cache

import torch
from torch import Tensor

LEVELS = 256
_CELLS = 1024  # of a table, each as probable as the other
_HALF = 2.0**-25  # between two of the numbers that a uniform single can be


def poisson_counts(uniform: Tensor, levels: Tensor, most: float) -> Tensor:
    """Poisson counts with the means `most * levels / 255`, like `uniform`.

    Each is the smallest count whose distribution function lies above its random number,
    so that their distribution is as exact as single precision is.

    Args:
        uniform: random numbers in [0, 1), single precision.
        levels: whole numbers from 0 to 255, of the same shape.
        most: the mean at level 255.
    """
    function, tables = _tables(most, uniform.device)
    numbers, rows = uniform.flatten(), levels.flatten().int()
    places = numbers * _CELLS
    cells = places.int()
    entries = tables.index_select(0, rows * _CELLS + cells)
    counts = places.sub_(cells).add_(entries).floor_()
    crowded = counts.isnan().nonzero()[:, 0]
    exact = numbers[crowded].double() + _HALF
    counts[crowded] = _inverse(function, rows[crowded], exact).to(counts)
    return counts.view_as(uniform)


@lru_cache(maxsize=16)
def _tables(most: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """The distribution functions of all levels, `[256, K]`, and their tables, flat.

    An entry and where a number lies in its cell (0 to 1), added and rounded down, are
    the count; an entry is NaN where more than two counts share the cell.
    """
    level = torch.arange(LEVELS, device=device).double()[:, None]
    count = torch.arange(int(most + 8 * math.sqrt(most) + 16), device=device).double()
    means = most * level / (LEVELS - 1)
    logs = torch.special.xlogy(count, means) - means - torch.lgamma(count + 1)
    function = logs.exp().cumsum(1).clamp(max=1)
    edges = torch.arange(_CELLS + 1, device=device).double() / _CELLS
    counts = _inverse(function, level, edges)
    first, others = counts[:, :-1], counts.diff()
    end = function.gather(1, first.clamp(max=len(count) - 1))
    later = first + 1 - (end - edges[:-1]) * _CELLS
    tables = torch.where(others == 0, first.double(), later)
    return function, tables.where(others <= 1, math.nan).float().flatten()


def _inverse(function: Tensor, levels: Tensor, numbers: Tensor) -> Tensor:
    """The smallest counts whose functions, at levels, lie above numbers in [0, 1]."""
    levels = levels.double()
    # Each function after the other makes one increasing row.
    row = function + torch.arange(LEVELS, device=function.device)[:, None]
    found = torch.searchsorted(row.flatten(), levels + numbers, right=True)
    return found - levels.long() * function.shape[1]
