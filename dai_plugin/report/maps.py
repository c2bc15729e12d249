"""Heat maps: distances between images, likeness of layers, losses over a training."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from dai_plugin.report.canvas import (
    Axes,
    axes_of,
    fit,
    panels,
    panels_size,
    short,
    styled,
)
from dai_plugin.report.colours import MAP
from dai_plugin.report.pooled import Row, known, named
from dai_plugin.report.runs import Run

METRICS = "metrics.csv"  # of the training script
LAYER = "layer:"  # its columns of a layer's invariance loss
LAYERS = "layers"  # the place of matrices of layer by layer
_SIDE, _LARGEST = 2.4, 4.2  # inches of a panel
_MOST = 96  # images a side: of more, neighbours are averaged
_PIXELS = 50_000  # of all panels of distances, which no file makes smaller
_ROW = 0.15  # inches that the name of a layer takes

Grid = NDArray[np.float64]


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
    return _draw(titles, grids, "dissimilarity", axes, columns=_columns(found))


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
    words = {"cka": "linear CKA", "rank_correlation": "rank correlation"}[measure]
    names = [_layers(run) for run in runs]
    return _draw([run.name for run in runs], grids, words, axes, layers=names)


def dynamics_rows(runs: Sequence[Run]) -> list[Row]:
    """Each layer's invariance loss by epoch, the mean of the seeds."""
    return [
        {"run": run.name, "layer": layer, "depth": depth, "epoch": epoch}
        | {"loss": float(grid[depth, i])}
        for run in with_metrics(runs)
        for layers, epochs, grid in [_losses(run)]
        for depth, layer in enumerate(layers)
        for i, epoch in enumerate(epochs)
    ]


@styled
def draw_dynamics(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Each layer's invariance loss over the epochs of a training, a panel a run.

    Drawn of runs whose folders hold a metrics.csv of the training script.
    """
    trained = with_metrics(runs)
    found = [_losses(run) for run in trained]
    return _draw(
        [run.name for run in trained],
        [grid for _, _, grid in found],
        "invariance loss of the layer",
        axes,
        layers=[layers for layers, _, _ in found],
        epochs=[epochs for _, epochs, _ in found],
    )


def with_metrics(runs: Sequence[Run]) -> list[Run]:
    """The runs whose folders hold layers' losses of a training."""
    return [run for run in runs if run.folders and all(map(_table, run.folders))]


def _draw(
    titles: Sequence[str],
    grids: Sequence[Grid],
    words: str,
    axes: Axes | None,
    *,
    layers: Sequence[Sequence[str]] = (),
    epochs: Sequence[Sequence[float]] = (),
    columns: int = 3,
) -> Axes:
    own = axes is None
    tall = min(_LARGEST, max(_SIDE, _ROW * max(map(len, layers), default=0)))
    size = (_SIDE if epochs else tall, tall)
    if any(list(each) != list(layers[0]) for each in layers):
        columns = 1  # each beside the names of its own layers
    elif size[0] > _SIDE:
        columns = 2
    if axes is None:
        axes = axes_of(*panels_size(titles, columns, size))
    values = np.concatenate([grid.ravel() for grid in grids])
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=0.0), finite.max(initial=0.0)
    scale = Normalize(low, high if high > 1 else 1.0)
    panes = panels(axes, titles, columns, size)
    for i, (pane, grid) in enumerate(zip(panes, grids, strict=True)):
        pane.imshow(grid, MAP, scale, aspect="auto", interpolation="none")
        pane.grid(visible=False)
        pane.set_yticks([])
        if not epochs:
            pane.set_xticks([])
        else:
            _epochs(pane, epochs[i])
        if layers and i % columns == 0:
            every = -(-len(layers[i]) * _ROW // tall)
            shown = range(0, len(layers[i]), int(every))
            pane.set_yticks(shown, short(named([layers[i][k] for k in shown])))
            pane.tick_params(axis="y", length=0)
    width, height = axes.get_window_extent().size / axes.figure.dpi
    place = (1 + 0.2 / width, 1 - _SIDE / height, 0.12 / width, _SIDE / height)
    bar = axes.figure.colorbar(ScalarMappable(scale, MAP), cax=axes.inset_axes(place))
    bar.set_label(words)
    bar.outline.set_visible(False)
    if own:
        fit(axes)
    return axes


def _epochs(pane: Axes, epochs: Sequence[float]) -> None:
    """Numbers under the columns, as many as have room."""
    last = len(epochs) - 1
    shown = np.unique(np.linspace(0, last, min(5, last + 1)).round().astype(int))
    pane.set_xticks(shown, [f"{epochs[i]:g}" for i in shown])
    pane.set_xlabel("epoch")


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


def _layers(run: Run) -> list[str]:
    return run.places("similarity", "dissimilarity")


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


def _losses(run: Run) -> tuple[list[str], list[float], Grid]:
    """Layers, epochs, and the losses `[layers, epochs]` that all seeds have."""
    tables = [_table(folder) for folder in run.folders]
    layers = [c for c in tables[0][0] if c.startswith(LAYER)]
    count = min(map(len, tables))
    of = [[[_number(r.get(n)) for r in t[:count]] for n in layers] for t in tables]
    epochs = [_number(row["epoch"]) for row in tables[0][:count]]
    return [n.removeprefix(LAYER) for n in layers], epochs, np.mean(of, axis=0)


def _table(folder: Path) -> list[dict[str, str]]:
    path = folder / METRICS
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows if rows and any(name.startswith(LAYER) for name in rows[0]) else []


def _number(text: str | None) -> float:
    return float(text) if text else float("nan")
