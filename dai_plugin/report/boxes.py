"""The score at each layer as box plots, the pixels first, runs side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from dai_plugin.report.canvas import (
    Axes,
    axes_of,
    fit,
    inches,
    legend,
    plain,
    rows_down,
    short,
    styled,
)
from dai_plugin.report.colours import look
from dai_plugin.report.pooled import Row
from dai_plugin.report.runs import Run

_TALL, _WIDTH = 3.6, 6.5  # inches of the axes
_CHARACTER = 0.085  # inches, of the names of layers
_LARGEST = 5.5  # points of a mark
_MARKED = {
    "markerfacecolor": "white",
    "markeredgecolor": "0.1",
    "markeredgewidth": 0.5,
}
_FULL = 0.8  # of a layer's share of the axes, what its boxes take


def score_rows(runs: Sequence[Run]) -> list[Row]:
    """Quantiles of the score by run and layer: of all seeds (0) and of each (1, ...).

    "low" and "high" are the last scores within 1.5 boxes of the box.
    """
    return [
        {"run": run.name, "seed": seed, "layer": layer, "depth": depth}
        | _quantiles(values)
        for run in runs
        for depth, layer in enumerate(run.places("layers", "score"))
        for seed, values in enumerate(_values(run, layer))
    ]


@styled
def draw_scores(runs: Sequence[Run], axes: Axes | None = None) -> Axes:
    """Boxes of the score at each layer: quartiles, a mark for the median of each seed.

    Layers go from left to right if their names fit beside each other, else down the
    page. Where runs have different layers, those of one depth stand together.
    """
    rows = score_rows(runs)
    names, own = layer_names(rows), axes is None
    across, axes = _place(names, len(runs), axes)
    share = _FULL / len(runs)
    handles = []
    for i, run in enumerate(runs):
        mine = [row for row in rows if row["run"] == run.name]
        middle = (i - (len(runs) - 1) / 2) * share
        drawn = _boxes(axes, mine, middle, 0.42 * share, look(i), across)
        drawn.set_markersize(_mark_size(axes, len(names), share, across))
        handles.append(_sample(axes, look(i)))
    words = "invariance score\n(1: unchanged, 0: as far as another image)"
    if across:
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xticks(range(len(names)), short(names))
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(words)
        beside_pixels, at_zero = axes.axvline, axes.axhline
    else:
        rows_down(axes, names)
        axes.set_xlabel(words)
        beside_pixels, at_zero = axes.axhline, axes.axvline
    beside_pixels(0.5, color="0.6", linewidth=1, linestyle="--")
    at_zero(0, color="0.6", linewidth=1)
    legend(axes, handles, [run.name for run in runs], own)
    if own:
        fit(axes)
    return axes


def layer_names(rows: Sequence[Row]) -> list[str]:
    """By depth: the layer's name if all runs agree on it, else the depth."""
    at: dict[int, set[str]] = {}
    for row in rows:
        at.setdefault(row["depth"], set()).add(row["layer"])
    told = {d: f"depth {d}" if len(n) > 1 else min(n) for d, n in at.items()}
    return ["pixels" if depth == 0 else told[depth] for depth in sorted(told)]


def _place(names: Sequence[str], runs: int, axes: Axes | None) -> tuple[bool, Axes]:
    """Whether layers go across, and axes of the size that they need."""
    widest = max(map(len, short(names))) * _CHARACTER
    wanted = max(0.12 * runs + 0.15, widest) * len(names)
    if axes is not None:
        return wanted <= inches(axes)[0], axes
    if wanted <= 1.6 * _WIDTH:
        return True, axes_of(max(_WIDTH, wanted), _TALL)
    return False, axes_of(_WIDTH, max(_TALL, len(names) * (0.055 * runs + 0.12)))


def _boxes(
    axes: Axes,
    rows: Sequence[Row],
    middle: float,
    half: float,
    look: tuple[str, str],
    across: bool,
) -> Any:
    """One run's boxes, as one path, so that files stay small; returns the marks."""
    colour, mark = look
    whole = [r for r in rows if r["seed"] == 0 and r["count"]]
    boxes, whiskers = [], []
    for row in whole:
        at, low, high = row["depth"] + middle, row["lower"], row["upper"]
        left, right = at - half, at + half
        boxes.append(
            [(left, low), (right, low), (right, high), (left, high), (left, low)]
        )
        whiskers += [[(at, row["low"]), (at, low)], [(at, high), (at, row["high"])]]
        whiskers.append([(left, row["median"]), (right, row["median"])])
    name = plain(rows[0]["run"])
    for lines, kind in ((boxes, {"facecolor": colour}), (whiskers, {"fill": False})):
        path = _path(lines, across)
        if path is not None:
            patch = PathPatch(path, edgecolor="0.2", linewidth=0.7, **kind)
            axes.add_patch(patch)
            patch.set_gid(f"{'boxes' if lines is boxes else 'whiskers'}:{name}")
    marked = [r for r in rows if r["seed"] and r["count"]]
    points = np.array([(r["depth"] + middle, r["median"]) for r in marked])
    points = points.reshape(-1, 2)[:, :: 1 if across else -1]
    (marks,) = axes.plot(*points.T, mark, gid=f"run:{name}", **_MARKED)
    return marks


def _sample(axes: Axes, look: tuple[str, str]) -> Any:
    """A box with its mark, for the legend."""
    (sample,) = axes.plot([], [], color=look[0], marker=look[1], **_MARKED)
    sample.set(linewidth=7, markersize=_LARGEST)
    return sample


def _mark_size(axes: Axes, layers: int, share: float, across: bool) -> float:
    """In points: nothing is seen of smaller marks, larger ones hide the boxes."""
    room = inches(axes)[0 if across else 1] * 72 / layers
    return float(np.clip(0.55 * room * share, 1.5, _LARGEST))


def _path(lines: Sequence[Sequence[tuple[float, float]]], across: bool) -> Path | None:
    if not lines:
        return None
    points = np.concatenate([np.array(line) for line in lines])
    codes = [
        c for n in map(len, lines) for c in (Path.MOVETO, *[Path.LINETO] * (n - 1))
    ]
    return Path(points if across else points[:, ::-1], codes)


def _values(run: Run, layer: str) -> list[Any]:
    """Scores of all seeds together, then those of each."""
    each = [seed.tables["layers"]["score"][layer] for seed in run.seeds]
    flat = [table.double().flatten().numpy() for table in each]
    return [np.concatenate(flat), *flat]


def _quantiles(values: Any) -> Row:
    known = values[np.isfinite(values)]
    if not len(known):
        nothing = dict.fromkeys(("low", "lower", "median", "upper", "high"), np.nan)
        return {**nothing, "count": 0}
    lower, median, upper = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    reach = 1.5 * (upper - lower)
    inside = known[(known >= lower - reach) & (known <= upper + reach)]
    ends = {"low": float(inside.min()), "high": float(inside.max())}
    return {
        **{"low": ends["low"], "lower": lower, "median": median, "upper": upper},
        **{"high": ends["high"], "count": len(known)},
    }
