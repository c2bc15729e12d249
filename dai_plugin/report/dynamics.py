"""Each layer's invariance loss over a training, from the log of its script."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dai_plugin.report.canvas import Axes, styled
from dai_plugin.report.grids import Grid, draw_grids
from dai_plugin.report.pooled import Row
from dai_plugin.report.runs import Run

METRICS = "metrics.csv"  # of the training script
LAYER = "layer:"  # its columns of a layer's invariance loss

Metrics = dict[str, float]


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
    return draw_grids(
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


def read_metrics(folder: Path) -> list[Metrics]:
    """A row for each epoch of a training, NaN where nothing stands; none without it.

    Raises:
        ValueError: the file holds something that is no number.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {name: float(text or "nan") for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged ({error}); train again, or take the file out of the "
            "folder to report without it"
        ) from error


def _losses(run: Run) -> tuple[list[str], list[float], Grid]:
    """Layers, epochs, and the losses `[layers, epochs]` that all seeds have."""
    tables = [_table(folder) for folder in run.folders]
    layers = [c for c in tables[0][0] if c.startswith(LAYER)]
    count, nothing = min(map(len, tables)), float("nan")
    of = [[[r.get(n, nothing) for r in t[:count]] for n in layers] for t in tables]
    epochs = [row["epoch"] for row in tables[0][:count]]
    return [n.removeprefix(LAYER) for n in layers], epochs, np.mean(of, axis=0)


def _table(folder: Path) -> list[Metrics]:
    rows = read_metrics(folder)
    return rows if rows and any(name.startswith(LAYER) for name in rows[0]) else []
