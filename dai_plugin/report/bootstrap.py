"""Intervals of means, by drawing the images again."""

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000

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
    one: NDArray[np.generic],
    other: NDArray[np.generic],
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """The same where rows have no partners: the seeds of two networks.

    Rows of both are drawn, each on their own; they need not be as many.
    """
    first, drawn = _means(one, seed)
    second, others = _means(other, seed + 1)
    return first - second, *_ends(drawn - others, level)


def _means(values: NDArray[np.generic], seed: int) -> tuple[Floats, Floats]:
    """Means of the columns, and of `DRAWS` draws of as many rows."""
    rows = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(rows)
    filled, known = np.where(there, rows, 0.0), there.astype(np.float64)
    draw, count = np.random.default_rng(seed), len(rows)
    drawn = np.full((DRAWS, *rows.shape[1:]), np.nan)
    for i in range(DRAWS if count else 0):
        times = np.bincount(draw.integers(0, count, count), minlength=count)
        weights = times.astype(np.float64)
        drawn[i] = _ratio(weights @ filled, weights @ known)
    return _ratio(filled.sum(0), known.sum(0)), drawn


def _ends(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    empty = np.isnan(drawn).all(0)
    outside = (1 - level) / 2
    filled = np.where(empty, 0.0, drawn)
    ends = np.nanquantile(filled, (outside, 1 - outside), axis=0)
    return np.where(empty, np.nan, ends[0]), np.where(empty, np.nan, ends[1])


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
