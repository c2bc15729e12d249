"""Curves: what becomes of a measure as images change more and more."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from dai_plugin.report.canvas import (
    Axes,
    axes_of,
    fit,
    legend,
    panels,
    panels_size,
    plain,
    short,
    styled,
)
from dai_plugin.report.colours import in_order, look
from dai_plugin.report.pooled import (
    PLACE,
    Row,
    grid_rows,
    groups_of,
    named,
    prediction_measure,
)
from dai_plugin.report.runs import Run

_SIZE = (6.0, 3.6)  # inches of axes
_PANEL, _COLUMNS = (2.6, 2.2), 3
_STYLES = ("-", "--", ":", "-.")  # of attacks
_BANDS = 3  # that can be told from each other
_NAMED = 12  # layers whose names stand at the colour bar
WORDS = {
    "accuracy_transformed": "accuracy on the changed images",
    "consistency": "share predicted as the unchanged image",
    "score": "invariance score",
}


def strength_rows(runs: Sequence[Run], kind: str) -> list[Row]:
    """Predictions against the value of a transformation, with intervals."""
    return _rows(runs, [f"strength:{kind}"])


@styled
def draw_strength(runs: Sequence[Run], kind: str, axes: Axes | None = None) -> Axes:
    """Accuracy (without labels: consistency) against a value, a line a run.

    Args:
        runs: that have the series.
        kind: of transformation: "rotation", ...
        axes: to draw into; None makes a figure.
    """
    return _draw(runs, strength_rows(runs, kind), axes)


def strength_layer_rows(runs: Sequence[Run], kind: str) -> list[Row]:
    """The score of each layer against the value of a transformation."""
    group = f"strength:{kind}"
    return [
        {**row, "depth": depth}
        for run in runs
        for depth, layer in enumerate(run.places(group, "score"))
        for row in grid_rows(run, [group], "score", layer)
    ]


@styled
def draw_strength_layers(
    runs: Sequence[Run], kind: str, axes: Axes | None = None
) -> Axes:
    """The score against a value: a panel a run, a line a layer, from dark to light."""
    rows, own = strength_layer_rows(runs, kind), axes is None
    names = [run.name for run in runs]
    if axes is None:
        axes = axes_of(*panels_size(names, _COLUMNS, _PANEL))
    scores = [row["mean"] for row in rows if not np.isnan(row["mean"])]
    low, high = min(scores, default=0), max(scores, default=1)
    room = 0.05 * (high - low) or 0.05
    panes = panels(axes, names, _COLUMNS, _PANEL)
    for i, (pane, name) in enumerate(zip(panes, names, strict=True)):
        mine = [row for row in rows if row["run"] == name]
        depths = mine[-1]["depth"] + 1
        for colour, depth in zip(in_order(depths), range(depths), strict=True):
            line = [row for row in mine if row["depth"] == depth]
            pane.plot(
                [row["at"] for row in line],
                [row["mean"] for row in line],
                color=colour,
                linewidth=1.2,
                gid=f"layer:{plain(line[0]['place'])}",
            )
        pane.set_ylim(low - room, high + room)
        if i % _COLUMNS == 0:
            pane.set_ylabel(WORDS["score"])
        if i + _COLUMNS >= len(panes):
            pane.set_xlabel(_label(rows[0]))
    _depths(axes, [run.places(f"strength:{kind}", "score") for run in runs])
    if own:
        fit(axes)
    return axes


def severity_rows(runs: Sequence[Run]) -> list[Row]:
    """Predictions by severity, as the mean over the corruptions."""
    return _rows(
        runs, [f"corruptions:{name}" for name in groups_of(runs, "corruptions")]
    )


@styled
def draw_severities(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Accuracy (without labels: consistency) by severity, mean over corruptions."""
    return _draw(runs, severity_rows(runs), axes)


def attack_rows(runs: Sequence[Run], axis: str = "eps") -> list[Row]:
    """Predictions against the strength of each attack that goes along an axis."""
    return [
        {**row, "attack": name}
        for name in attacks_along(runs, axis)
        for row in _rows(runs, [f"attacks:{name}"])
    ]


@styled
def draw_attacks(
    runs: Sequence[Run], axis: str = "eps", axes: Axes | None = None
) -> Axes:
    """Accuracy against the strength of attacks: a colour a run, a dash an attack."""
    return _draw(runs, attack_rows(runs, axis), axes)


def attacks_along(runs: Sequence[Run], axis: str) -> list[str]:
    """Attacks whose strength is counted so: eps, or the number of tries."""
    measures = runs[0].seeds[0]
    return [
        name
        for name in groups_of(runs, "attacks")
        if measures.axes[f"attacks:{name}"].name == axis
    ]


def _rows(runs: Sequence[Run], groups: Sequence[str]) -> list[Row]:
    measure = prediction_measure(runs, groups)
    assert measure is not None
    return [row for run in runs for row in grid_rows(run, groups, measure, PLACE)]


def _draw(runs: Sequence[Run], rows: Sequence[Row], axes: Axes | None) -> Axes:
    own = axes is None
    axes = axes_of(*_SIZE) if axes is None else axes
    attacks = list(dict.fromkeys(row.get("attack") for row in rows))
    handles = []
    for i, run in enumerate(runs):
        for attack, dash in zip(attacks, _dashes(len(attacks)), strict=True):
            mine = [
                r for r in rows if r["run"] == run.name and r.get("attack") == attack
            ]
            drawn = _line(axes, mine, i, len(runs) * len(attacks), dash)
            if attack == attacks[0]:
                handles.append(drawn)
    if all(float(row["at"]).is_integer() for row in rows):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=_label(rows[0]), ylabel=WORDS[rows[0]["measure"]])
    names = [run.name for run in runs]
    if attacks != [None]:
        for attack, dash in zip(attacks, _dashes(len(attacks)), strict=True):
            handles += axes.plot([], [], color="0.3", linestyle=dash)
            names.append(str(attack))
    legend(axes, handles, names, own)
    if own:
        fit(axes)
    return axes


def _dashes(count: int) -> list[str]:
    return [_STYLES[i % len(_STYLES)] for i in range(count)]


def _line(axes: Axes, rows: Sequence[Row], i: int, count: int, dash: str) -> Any:
    colour, mark = look(i)
    # Of many bands over each other none is seen; pale ones leave the lines visible.
    alpha = 0.15 if count <= _BANDS else 0.05
    at = [row["at"] for row in rows]
    name = plain(rows[0]["run"])
    lows, highs = [r["low"] for r in rows], [r["high"] for r in rows]
    band = axes.fill_between(at, lows, highs, color=colour, alpha=alpha, linewidth=0)
    band.set_gid(f"band:{name}")
    means = [row["mean"] for row in rows]
    (line,) = axes.plot(at, means, dash, color=colour, marker=mark, gid=f"run:{name}")
    line.set(markersize=5, markeredgecolor="white", markeredgewidth=0.5, linewidth=1.6)
    return line


def _label(row: Row) -> str:
    return f"{row['axis']} ({row['unit']})" if row["unit"] else str(row["axis"])


def _depths(axes: Axes, layers: Sequence[Sequence[str]]) -> None:
    """A bar that tells which colour is which layer, from the first down to the last."""
    count = max(map(len, layers))
    shared = all(list(each) == list(layers[0]) for each in layers)
    width, height = axes.get_window_extent().size / axes.figure.dpi
    tall = min(height, _PANEL[1])
    place = (1 + 0.2 / width, 1 - tall / height, 0.12 / width, tall / height)
    colours = ListedColormap(in_order(count))
    scale = matplotlib.cm.ScalarMappable(Normalize(-0.5, count - 0.5), colours)
    bar = axes.figure.colorbar(scale, cax=axes.inset_axes(place))
    ticks = np.unique(np.linspace(0, count - 1, min(count, _NAMED)).round().astype(int))
    if not shared:
        ticks = np.array([0, count - 1])
    told = short(named([layers[0][i] for i in ticks])) if shared else ["first", "last"]
    bar.set_ticks(list(ticks), labels=told)
    bar.ax.invert_yaxis()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
