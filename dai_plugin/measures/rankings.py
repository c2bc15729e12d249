"""Correlations of the order of numbers, ties among them: pure functions."""

import math

import torch
from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of the ranks of `[n]` numbers; NaN if all are equal."""
    a, b = (r - r.mean() for r in (ranks(a), ranks(b)))
    return float((a @ b) / (a.norm() * b.norm()))


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1, the mean of its places for each of several equal values."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    means: Tensor = last - (counts - 1) / 2
    return means[place]


def kendall_tau_a(a: Tensor, b: Tensor) -> float:
    """Pairs in the same order less those in opposite order, over all (Knight 1966)."""
    x, y = (torch.unique(v, return_inverse=True)[1] for v in (a, b))
    both = x * len(y) + y
    opposite = _descending(y[both.argsort()])
    total = math.comb(len(a), 2)
    unequal = total - _tied(x) - _tied(y) + _tied(both)
    return (unequal - 2 * opposite) / total


def _tied(values: Tensor) -> int:
    counts = torch.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _descending(values: Tensor) -> int:
    """How many pairs of a sequence of whole numbers from 0 stand in descending order.

    From the highest bit on: two numbers are told apart at the first bit at which they
    differ, among those that agree above it and still stand in their order.
    """
    count = 0
    for bit in reversed(range(int(values.max()).bit_length())):
        above = values >> (bit + 1)
        _, group = torch.unique_consecutive(above, return_inverse=True)
        one = (values >> bit) & 1
        ones = one.new_zeros(int(group[-1]) + 1).index_add_(0, group, one)
        before = one.cumsum(0) - (ones.cumsum(0) - ones)[group]
        count += int((before * (1 - one)).sum())
        values = values[(values >> bit).argsort(stable=True)]
    return count
