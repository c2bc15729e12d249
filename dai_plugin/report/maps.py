"""Heat maps: distances between images, likeness of layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dai_plugin.measures.compared import between
from dai_plugin.report.canvas import Axes, styled
from dai_plugin.report.grids import Grid, draw_grids
from dai_plugin.report.pooled import Row, known, named
from dai_plugin.report.runs import Run

LAYERS = "layers"  # the place of matrices of layer by layer
_WORDS = {"cka": "linear CKA", "rank_correlation": "rank correlation"}
_MOST = 96  # images a side: of more, neighbours are averaged
_PIXELS = 50_000  # of all panels of distances, which no file makes smaller


def dissimilarity_rows(runs: Sequence[Run]) -> list[Row]:
    """Distances of each two images, as they are drawn: first, middle and last layer."""
    return [
        {"run": title[0], "layer": title[1], "image": i, "other": j}
        | {"dissimilarity": float(grid[i, j])}
        for title, grid in _dissimilarities(runs)
        for i in range(len(grid))
        for j in range(i + 1, len(grid))
    ]


@styled
def draw_dissimilarity(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Distances between images at the first, the middle and the last layer.

    Of seeds the mean. Of many images, the means of neighbours are drawn.
    """
    found = _dissimilarities(runs)
    titles = [f"{named([layer])[0]} - {run}" for (run, layer), _ in found]
    grids = [grid for _, grid in found]
    return draw_grids(titles, grids, "dissimilarity", axes, columns=_columns(found))


def cka_rows(runs: Sequence[Run], measure: str = "cka") -> list[Row]:
    """Likeness of each two layers of a run."""
    return [
        {"run": run.name, "layer": one, "other": two, measure: float(grid[i, j])}
        for run in runs
        for grid in [_mean(run, measure, LAYERS)]
        for i, one in enumerate(_layers(run))
        for j, two in enumerate(_layers(run))
    ]


@styled
def draw_cka(
    runs: Sequence[Run], measure: str = "cka", axes: Axes | None = None
) -> Axes:
    """How alike the layers of a network are, a panel a run.

    Args:
        runs: that have the measure.
        measure: "cka", or "rank_correlation" of the layers' distances.
        axes: to draw into; None makes a figure.
    """
    grids = [_mean(run, measure, LAYERS) for run in runs]
    names = [_layers(run) for run in runs]
    titles = [run.name for run in runs]
    return draw_grids(titles, grids, _WORDS[measure], axes, layers=names)


def between_rows(runs: Sequence[Run], measure: str = "cka") -> list[Row]:
    """Likeness of each layer of the first run to each one of every other run."""
    first, *others = runs
    return [
        {"run": other.name, "layer": one, "other_run": first.name, "other": two}
        | {measure: float(grid[i, j])}
        for other in others
        for grid in [_between(other, first, measure)]
        for i, one in enumerate(_layers(other))
        for j, two in enumerate(_layers(first))
    ]


@styled
def draw_between(
    runs: Sequence[Run], measure: str = "cka", axes: Axes | None = None
) -> Axes:
    """How alike the layers of two networks are: a panel for each run but the first.

    Across are the layers of the first run, down those of the other one. Of several
    seeds the first is taken.

    Args:
        runs: two or more, of one metric, as `read_runs` gives them.
        measure: "cka", or "rank_correlation" of the layers' distances.
        axes: to draw into; None makes a figure.
    """
    first, *others = runs
    return draw_grids(
        [_titled(run) for run in others],
        [_between(run, first, measure) for run in others],
        _WORDS[measure],
        axes,
        layers=[_layers(run) for run in others],
        across=(_titled(first), _layers(first)),
    )


def _columns(found: Sequence[tuple[tuple[str, str], Grid]]) -> int:
    first = found[0][0][0]
    return sum(run == first for (run, _), _ in found)


def _dissimilarities(runs: Sequence[Run]) -> list[tuple[tuple[str, str], Grid]]:
    """Run, layer and matrix of each panel, small enough for all panels together."""
    most = min(_MOST, int((_PIXELS / (3 * len(runs))) ** 0.5))
    return [
        ((run.name, names[i]), _shrunk(_mean(run, "dissimilarity", names[i]), most))
        for run in runs
        for names in [_layers(run)]
        for i in sorted({0, len(names) // 2, len(names) - 1})
    ]


def _titled(run: Run) -> str:
    """What stands beside the layers of its first seed."""
    return f"layers of {run.name}{' (first seed)' if len(run.seeds) > 1 else ''}"


def _layers(run: Run) -> list[str]:
    return run.places("similarity", "dissimilarity")


def _between(one: Run, other: Run, measure: str) -> Grid:
    """Of the first seeds, `[layers of one, layers of the other]`."""
    left, right = (run.seeds[0].tables["similarity"] for run in (one, other))
    found: Grid = known(between(left, right, measure)).numpy()
    return found


def _mean(run: Run, measure: str, place: str) -> Grid:
    tables = [known(s.tables["similarity"][measure][place]) for s in run.seeds]
    total: Any = sum(tables)
    mean: Grid = (total / len(tables)).numpy()
    return mean


def _shrunk(grid: Grid, most: int) -> Grid:
    """Means of blocks, so that no side has more numbers than can be seen."""
    if len(grid) <= most:
        return grid
    cuts = np.linspace(0, len(grid), most + 1).astype(int)[:-1]
    counts = np.diff([*cuts, len(grid)])
    sums = np.add.reduceat(np.add.reduceat(grid, cuts, 0), cuts, 1)
    shrunk: Grid = sums / np.outer(counts, counts)
    return shrunk
