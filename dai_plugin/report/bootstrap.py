"""Intervals of means, by drawing the images again; of few seeds, Welch's."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
_AT_ONCE = 100  # draws, whose counts are floats in memory

Floats = NDArray[np.float64]


def interval(
    values: NDArray[np.generic], level: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Means over the rows, and the percentile bootstrap's interval of each.

    Args:
        values: `[N]` or `[N, K]`, a row for each image (or seed); NaN is left out.
        level: share of the drawn means inside of the interval.
        seed: of the draws.

    Returns:
        Mean, lower and upper end, each of the shape of a row; NaN where nothing is.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    mean, drawn = _means(values, seed)
    return mean, *_ends(drawn, level)


def difference(
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """Mean of `one - other` and its interval, where both are of the same images.

    The images are drawn in pairs, so that what makes an image hard for both networks
    does not widen the interval. Arguments and results as those of `interval`.

    Raises:
        ValueError: the shapes differ.
    """
    first, second = (np.asarray(each, dtype=np.float64) for each in (one, other))
    if first.shape != second.shape:
        raise ValueError(
            f"differences are of the same images, but the values are "
            f"{list(first.shape)} and {list(second.shape)}; measure both on the same"
        )
    return interval(first - second, level, seed)


def difference_of_means(
    one: NDArray[np.generic], other: NDArray[np.generic], level: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """The same where rows have no partners and are few: the seeds of two networks.

    Welch's interval: draws from two or three seeds are far too alike. Both have two
    rows or more, and need not have as many.

    Source: Welch, The generalization of "Student's" problem when several different
    population variances are involved. Biometrika 34, 1947.
    """
    parts = [(each.mean(0), each.var(0, ddof=1) / len(each)) for each in (one, other)]
    (first, error), (second, its) = parts
    squares = error**2 / (len(one) - 1) + its**2 / (len(other) - 1)
    freedom = (error + its) ** 2 / np.where(squares > 0, squares, 1.0)
    least = min(len(one), len(other)) - 1
    reach = student(np.maximum(freedom, least), level) * np.sqrt(error + its)
    mean = np.asarray(first - second)
    return mean, mean - reach, mean + reach


def spread(values: NDArray[np.generic]) -> tuple[Floats, Floats, Floats]:
    """Means over the rows, less and plus their standard deviation: between seeds.

    NaN in a row makes the mean NaN: it is not that of so many seeds.
    """
    mean, deviation = np.asarray(values.mean(0)), values.std(0, ddof=1)
    return mean, mean - deviation, mean + deviation


def student(freedom: Floats, level: float) -> Floats:
    """Within which `level` of Student's distribution lies, for degrees of freedom.

    With t = sqrt(f) tan(a), the density of the angle a is cos(a)^(f - 1).
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    found = []
    for f in np.ravel(freedom):
        density = np.cos(angle) ** (f - 1)
        share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
        found.append(np.sqrt(f) * np.tan(np.interp(level * share[-1], share, angle)))
    return np.reshape(found, np.shape(freedom))


def _means(values: NDArray[np.generic], seed: int) -> tuple[Floats, Floats]:
    """Means of the columns, and of `DRAWS` draws of as many rows."""
    rows = np.asarray(values, dtype=np.float64)
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    there = ~np.isnan(flat)
    filled, known = np.where(there, flat, 0.0), there.astype(np.float64)
    drawn = np.full((DRAWS, flat.shape[1]), np.nan)
    times = _times(len(rows), seed)
    for start in range(0, DRAWS, _AT_ONCE):
        some = times[start : start + _AT_ONCE].astype(np.float64)
        counts = some @ known if not there.all() else np.full(1, len(rows))
        drawn[start : start + _AT_ONCE] = _ratio(some @ filled, counts)
    mean = _ratio(filled.sum(0), known.sum(0))
    return mean.reshape(rows.shape[1:]), drawn.reshape(DRAWS, *rows.shape[1:])


@lru_cache(maxsize=2)
def _times(count: int, seed: int) -> NDArray[np.uint8]:
    """How often each row is in each draw; the same for all tables of as many rows."""
    draw = np.random.default_rng(seed)
    times = np.zeros((DRAWS, count), np.uint8)
    for row in times if count else ():
        row[:] = np.bincount(draw.integers(0, count, count), minlength=count)
    return times


def _ends(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    empty = np.isnan(drawn).all(0)
    outside = (1 - level) / 2
    filled = np.where(empty, 0.0, drawn)
    ends = np.nanquantile(filled, (outside, 1 - outside), axis=0)
    return np.where(empty, np.nan, ends[0]), np.where(empty, np.nan, ends[1])


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
