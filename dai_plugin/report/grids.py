"""Grids of numbers in colours: panels on one scale, and their bar."""

from collections.abc import Sequence

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
    wrapped,
)
from dai_plugin.report.colours import MAP
from dai_plugin.report.pooled import named

_SIDE, _LARGEST = 2.4, 4.2  # inches of a panel
_BETWEEN = 3.0  # at least, beside names on two of its sides
_ROW = 0.15  # inches that the name of a layer takes
_IN_LABEL = 34  # characters a line

Grid = NDArray[np.float64]


def draw_grids(
    titles: Sequence[str],
    grids: Sequence[Grid],
    words: str,
    axes: Axes | None,
    *,
    layers: Sequence[Sequence[str]] = (),
    across: tuple[str, Sequence[str]] | None = None,
    epochs: Sequence[Sequence[float]] = (),
    columns: int = 3,
) -> Axes:
    """Panels of one scale, which holds 0 and, if nothing is larger, ends at 1.

    Args:
        titles: of the panels.
        grids: a panel each, `[rows, columns]`.
        words: at the bar: what the numbers are.
        axes: to draw into; None makes a figure.
        layers: names of the rows of each panel.
        across: what the columns of all panels are together, and their names.
        epochs: numbers of the columns of each panel.
        columns: of panels, at most.
    """
    own = axes is None
    most = max(map(len, [*layers, across[1] if across else ()]), default=0)
    tall = min(_LARGEST, max(_BETWEEN if across else _SIDE, _ROW * most))
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
        pane.set_xticks([])
        pane.set_yticks([])
        if epochs:
            _epochs(pane, epochs[i])
        if across and i + columns >= len(grids):  # none is beneath it
            pane.set_xticks(*_names(across[1], size[0]), rotation=90)
            pane.tick_params(axis="x", length=0)
            pane.set_xlabel(wrapped(across[0], _IN_LABEL))
        if layers and i % columns == 0:
            pane.set_yticks(*_names(layers[i], tall))
            pane.tick_params(axis="y", length=0)
    width, height = axes.get_window_extent().size / axes.figure.dpi
    place = (1 + 0.2 / width, 1 - _SIDE / height, 0.12 / width, _SIDE / height)
    bar = axes.figure.colorbar(ScalarMappable(scale, MAP), cax=axes.inset_axes(place))
    bar.set_label(words)
    bar.outline.set_visible(False)
    if own:
        fit(axes)
    return axes


def _names(layers: Sequence[str], inches: float) -> tuple[Sequence[int], list[str]]:
    """Places and names of the layers beside a side of a panel, as many as have room."""
    shown = range(0, len(layers), int(-(-len(layers) * _ROW // inches)))
    return shown, short(named([layers[i] for i in shown]))


def _epochs(pane: Axes, epochs: Sequence[float]) -> None:
    """Numbers under the columns, as many as have room."""
    last = len(epochs) - 1
    shown = np.unique(np.linspace(0, last, min(5, last + 1)).round().astype(int))
    pane.set_xticks(shown, [f"{epochs[i]:g}" for i in shown])
    pane.set_xlabel("epoch")
