"""Figures that fit what they show: axes of a fixed size, and room for all text.

Figures belong to no backend and no pyplot: they are made, measured and written without
a trace in matplotlib's global state. Text is literal; names may hold anything.
"""

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Axes = Any  # matplotlib's
P = ParamSpec("P")
T = TypeVar("T")

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "axes.labelcolor": "0.2",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "grid.color": "0.9",
    "legend.fontsize": 9,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "text.hinting": "none",  # letters are as wide at any resolution
    "text.parse_math": False,  # a name with dollars is no formula
    "xtick.color": "0.3",
    "xtick.labelsize": 8,
    "ytick.color": "0.3",
    "ytick.labelsize": 8,
}
_EDGE = 0.08  # inches around a figure
_LINE = 0.16  # inches from a line of text to the next
_TICKS = 0.4  # inches that numbers beneath a panel take
_IN_NAME, _IN_TITLE, _IN_TICK = 64, 28, 34  # characters a line


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's settings; afterwards they hold."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # Characters that the font lacks are boxes in a PNG and themselves in an SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run in the look of all figures."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with style():
            return function(*args, **kwargs)

    return run


def axes_of(width: float, height: float) -> Axes:
    """Axes of that size in inches, alone in a figure of their own."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)  # which measures text
    return figure.add_axes((0, 0, 1, 1))


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of axes."""
    box = axes.get_window_extent()
    return box.width / axes.figure.dpi, box.height / axes.figure.dpi


def fit(axes: Axes) -> None:
    """Gives the figure the size that its axes and all text around them need."""
    figure = axes.figure
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    x, y, w, h = axes.get_position(original=True).bounds
    all_w, all_h = box.width + 2 * _EDGE, box.height + 2 * _EDGE
    left, bottom = x * width - box.x0 + _EDGE, y * height - box.y0 + _EDGE
    figure.set_size_inches(all_w, all_h)
    place = (left / all_w, bottom / all_h, w * width / all_w, h * height / all_h)
    axes.set_position(place)


def legend(axes: Axes, handles: Sequence[Any], names: Sequence[str], own: bool) -> None:
    """Names above the axes, in as many columns as are not wider than they.

    Args:
        axes: with everything else drawn already.
        handles: what was drawn, one a name.
        names: of the runs.
        own: the figure is ours and grows; else the names go into the axes.
    """
    told = [wrapped(name, _IN_NAME) for name in names]
    if not own:
        axes.legend(handles, told, loc="best", fontsize="small")
        return
    box = axes.get_tightbbox()
    corner = axes.transAxes.inverted().transform((box.x0, box.y1))
    for columns in range(len(told), 0, -1):
        drawn = axes.legend(
            handles,
            told,
            ncols=columns,
            loc="lower left",
            bbox_to_anchor=corner,
            frameon=False,
            borderpad=0,
            borderaxespad=0.6,
            columnspacing=1.5,
        )
        if drawn.get_window_extent().width <= box.width:
            return


def panels(
    axes: Axes, titles: Sequence[str], columns: int, size: tuple[float, float]
) -> list[Axes]:
    """Axes inside of axes, row by row, under their titles.

    Args:
        axes: that hold them; of a figure of `panels_size`.
        titles: one a panel.
        columns: at most, beside each other.
        size: of a panel, as it was given to `panels_size`.
    """
    axes.set_axis_off()
    titles = [wrapped(title, _IN_TITLE) for title in titles]
    columns = min(columns, len(titles))
    width, height = panels_size(titles, columns, size)
    step = _step(titles, size)
    made = []
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        x, y = column * step[0], height - size[1] - row * step[1]
        place = (x / width, y / height, size[0] / width, size[1] / height)
        made.append(axes.inset_axes(place))
        made[-1].set_title(title, loc="left")
    return made


def panels_size(
    titles: Sequence[str], columns: int, size: tuple[float, float]
) -> tuple[float, float]:
    """Inches that panels of a size need, with room for titles and ticks between."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    step = _step(titles, size)
    return (columns - 1) * step[0] + size[0], (rows - 1) * step[1] + size[1]


def rows_down(axes: Axes, names: Sequence[str]) -> None:
    """Rows 0, 1, ... from top to bottom, and their names."""
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), short(names))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def plain(name: str) -> str:
    """A name as one line that any file may hold: what does not print is a space."""
    printable = (c if c.isprintable() else " " for c in str(name))
    return " ".join("".join(printable).split()) or "-"


def wrapped(name: str, width: int) -> str:
    """A name in lines of at most so many characters."""
    return "\n".join(textwrap.wrap(plain(name), width))


def short(names: Sequence[str], most: int = _IN_TICK) -> list[str]:
    """Names of at most so many characters, their middle left out, still different."""
    told = [plain(name) for name in names]
    ends = {n: n if len(n) <= most else _middle_out(n, most) for n in told}
    if len(set(ends.values())) == len(ends):
        return [ends[name] for name in told]
    numbers = {name: f"{i}: " for i, name in enumerate(ends, start=1)}
    return [
        numbers[n] + _middle_out(n, most - len(numbers[n])) if n != ends[n] else n
        for n in told
    ]


def _middle_out(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    head = most // 3
    return f"{name[:head]}…{name[len(name) - (most - head - 1) :]}"


def _step(titles: Sequence[str], size: tuple[float, float]) -> tuple[float, float]:
    """From one panel to the next."""
    lines = max(wrapped(title, _IN_TITLE).count("\n") + 1 for title in titles)
    return size[0] + _TICKS, size[1] + _TICKS + lines * _LINE
