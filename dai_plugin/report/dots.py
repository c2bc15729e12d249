"""Dots with intervals: one measure beneath another, a mark a run."""

import math
from collections.abc import Sequence

from dai_plugin.report.canvas import (
    Axes,
    axes_of,
    fit,
    legend,
    plain,
    rows_down,
    styled,
)
from dai_plugin.report.colours import look
from dai_plugin.report.lines import WORDS
from dai_plugin.report.pooled import (
    PLACE,
    Row,
    groups_of,
    named,
    output_row,
    pooled,
    prediction_measure,
)
from dai_plugin.report.runs import Run

_WIDTH = 5.0  # inches of the axes
_SHARE = 0.7  # of a row, what its marks take
# Shares between 0 and 1, in the order in which they are read.
SHARES = {
    "accuracy": "accuracy",
    "accuracy_transformed": "accuracy, transformed",
    "accuracy_of_mean": "accuracy of the versions' mean",
    "accuracy_worst": "accuracy, worst version",
    "consistency": "consistency",
    "consistency_all": "consistency of all versions",
    "effective_invariance": "effective invariance",
    "retrieval": "retrieval of the own image",
    "calibration_error": "calibration error",
    "calibration_error_transformed": "calibration error, transformed",
}


def output_rows(runs: Sequence[Run]) -> list[Row]:
    """Means of what the output does, with intervals."""
    held = [m for m in SHARES if any(run.has("output", m) for run in runs)]
    return [
        output_row(run, measure)
        for measure in held
        for run in runs
        if run.has("output", measure)
    ]


@styled
def draw_output(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Accuracies, consistency and their like: a row a measure, a mark a run."""
    rows = output_rows(runs)
    told = {m: SHARES[m] for m in SHARES if any(r["measure"] == m for r in rows)}
    names = [run.name for run in runs]
    seeds = any(len(run.seeds) > 1 for run in runs)
    words = "mean and 95 % interval" + (", of seeds ± deviation" if seeds else "")
    return _draw(rows, "measure", told, names, words, axes)


def corruption_rows(runs: Sequence[Run]) -> list[Row]:
    """Predictions under each corruption, as the mean over its severities."""
    names = groups_of(runs, "corruptions")
    measure = prediction_measure(runs, [f"corruptions:{name}" for name in names])
    assert measure is not None
    return [_corruption(run, name, measure) for name in names for run in runs]


@styled
def draw_corruptions(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Accuracy (without labels: consistency) under each corruption, a mark a run."""
    rows = corruption_rows(runs)
    told = {row["corruption"]: row["corruption"].replace("_", " ") for row in rows}
    names = [run.name for run in runs]
    words = f"{WORDS[rows[0]['measure']]}, mean over severities"
    return _draw(rows, "corruption", told, names, words, axes)


def rdm_rows(runs: Sequence[Run]) -> list[Row]:
    """Correlation of each layer's distances with the subjects' that were given."""
    return [
        {"run": run.name, "layer": layer, "depth": depth}
        | {"mean": float(mean), "low": float(low), "high": float(high)}
        for run in runs
        for depth, layer in enumerate(run.places("similarity", "rdm"))
        for tables in [[s.tables["similarity"]["rdm"][layer] for s in run.seeds]]
        for mean, low, high in [pooled(tables, grid=False)]
    ]


@styled
def draw_rdm(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """How like each layer is to a given matrix, the subjects' mean; a mark a run.

    Of two subjects or more, the noise ceiling is a grey band: what a perfect network
    would reach.
    """
    rows = rdm_rows(runs)
    told = {row["layer"]: named([row["layer"]])[0] for row in rows}
    ceiling = runs[0].seeds[0].tables["similarity"].get("noise_ceiling", {})
    band = [float(each) for each in ceiling.values()]
    words = "rank correlation with the given matrix"
    names = [run.name for run in runs]
    return _draw(rows, "layer", told, names, words, axes, band)


def _corruption(run: Run, name: str, measure: str) -> Row:
    group = f"corruptions:{name}"
    tables = [seed.tables[group][measure][PLACE].double() for seed in run.seeds]
    mean, low, high = (float(each) for each in pooled(tables, grid=False))
    told = {"run": run.name, "measure": measure, "corruption": name}
    return {**told, "mean": mean, "low": low, "high": high}


def _draw(
    rows: Sequence[Row],
    key: str,
    told: dict[str, str],
    names: Sequence[str],
    words: str,
    axes: Axes | None,
    band: Sequence[float] = (),
) -> Axes:
    own = axes is None
    if axes is None:
        axes = axes_of(_WIDTH, len(told) * (0.09 * len(names) + 0.14))
    if band and all(map(math.isfinite, band)):
        axes.axvspan(*band, color="0.85", linewidth=0)
    place = {name: i for i, name in enumerate(told)}
    share = _SHARE / len(names)
    handles = []
    for i, name in enumerate(names):
        colour, mark = look(i)
        mine = [row for row in rows if row["run"] == name]
        y = [place[r[key]] + (i - (len(names) - 1) / 2) * share for r in mine]
        axes.hlines(
            y,
            [row["low"] for row in mine],
            [row["high"] for row in mine],
            color=colour,
            linewidth=1.6,
        )
        means = [row["mean"] for row in mine]
        line = {"linestyle": "none", "color": colour, "marker": mark}
        handles += axes.plot(means, y, **line, gid=f"run:{plain(name)}", markersize=5)
        handles[-1].set(markeredgecolor="white", markeredgewidth=0.5)
    for edge in range(1, len(told)):
        axes.axhline(edge - 0.5, color="0.9", linewidth=0.8)
    rows_down(axes, list(told.values()))
    axes.set_xlabel(words)
    legend(axes, handles, names, own)
    if own:
        fit(axes)
    return axes
