"""Intervals of means, by drawing the images again."""

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
_NUMBERS = 10_000_000  # of counts held at once

Floats = NDArray[np.float64]


def interval(
    values: NDArray[np.generic], level: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Means over the rows, and the percentile bootstrap's interval of each.

    Args:
        values: `[N]` or `[N, T]`, a row for each image (or seed); NaN is left out.
        level: share of the drawn means inside of the interval.
        seed: of the draws.

    Returns:
        Mean, lower and upper end, each of the shape of a row; NaN where nothing is.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rows = np.asarray(values, dtype=np.float64)
    there = ~np.isnan(rows)
    filled, known = np.where(there, rows, 0.0), there.astype(np.float64)
    count = len(rows)
    draw = np.random.default_rng(seed)
    shares = np.full(count, 1 / max(1, count))
    means = []
    step = max(1, _NUMBERS // max(1, count))
    for start in range(0, DRAWS, step):
        some = min(step, DRAWS - start)
        times = draw.multinomial(count, shares, size=some).astype(np.float64)
        means.append(_ratio(times @ filled, times @ known))
    ends = (1 - level) / 2
    drawn = np.concatenate(means)
    empty = ~there.any(0)
    drawn = np.where(np.isnan(drawn) & empty, 0.0, drawn)
    low, high = np.nanquantile(drawn, (ends, 1 - ends), axis=0)
    mean = _ratio(filled.sum(0), known.sum(0))
    return mean, np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
