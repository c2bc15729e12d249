"""The figure of a study: differences from the first arm, with their intervals."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from files import write
from study_table import Row, compare, firsts, quantities

from dai_plugin.report.canvas import axes_of, fit, panels, panels_size, short, styled
from dai_plugin.report.colours import look

_WIDTH, _LINE = 1.7, 0.2  # inches of a panel, and of an arm in it
_COLUMNS = 5


@styled
def draw(rows: Sequence[Row], path: Path) -> None:
    """A panel for each quantity, a line of panels for each regime; writes a PNG.

    Small marks are pairs of one seed, large ones their mean. Shares are differences in
    points of a hundred.

    Args:
        rows: of the table.
        path: of the file.
    """
    base, names = firsts(rows), quantities(rows)
    if not names:
        return
    columns = min(len(names), _COLUMNS)
    padding = [""] * (-len(names) % columns)
    regimes = list(reversed(base))
    shown = [(regime, name) for regime in regimes for name in (*names, *padding)]
    titles = [_title(regime, name) for regime, name in shown]
    most = max(sum(row.cell.regime == regime for row in rows) for regime in regimes)
    size = _WIDTH, _LINE * max(most - 1, 2)
    axes = axes_of(*panels_size(titles, columns, size))
    made = panels(axes, titles, columns, size)
    for i, (panel, (regime, name)) in enumerate(zip(made, shown, strict=True)):
        if not name:
            panel.set_title("", loc="left")
            panel.set_axis_off()
            continue
        ours = [row for row in rows if row.cell.regime == regime]
        _panel(panel, ours, base[regime], name)
        arms = short([row.cell.arm for row in ours if row is not base[regime]])
        panel.set_yticks(range(len(arms)), [] if i % columns else arms)
        panel.set_ylim(len(arms) - 0.5, -0.5)
    fit(axes)
    image = io.BytesIO()
    axes.figure.savefig(image, format="png", metadata={"Software": None})
    write(path, lambda out: out.write(image.getvalue()))


def _title(regime: str, name: str) -> str:
    told = name.replace("_", " ")
    if name and not name.startswith("score"):
        told += ", points"
    return f"{told} ({regime})" if regime and name else told


def _panel(axes: Any, rows: Sequence[Row], first: Row, name: str) -> None:
    scale = 1 if name.startswith("score") else 100
    axes.axvline(0, color="0.4", linewidth=1)
    theirs = first.values(name)
    others = [row for row in rows if row is not first]
    for place, row in enumerate(others):
        colour, mark = look(place)
        pairs = [v - theirs[s] for s, v in row.values(name).items() if s in theirs]
        dots = {"linestyle": "none", "color": colour, "markersize": 2.5, "alpha": 0.5}
        axes.plot([scale * d for d in pairs], [place] * len(pairs), "o", **dots)
        of = compare(row, first, name)
        if not math.isnan(of.low):
            axes.hlines(place, scale * of.low, scale * of.high, color=colour)
        axes.plot(scale * of.difference, place, mark, color=colour, markersize=4)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
