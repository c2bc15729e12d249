"""What a page is made of: sections with tables, figures, pictures and choices.

Plain data, without a word of HTML: the template says what each looks like.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dai_plugin.report.quantities import Estimate


@dataclass(frozen=True)
class Cell:
    """Of a table.

    Attributes:
        text: what stands there.
        note: beneath it, smaller.
        key: what the column is sorted by; NaN comes last.
        apart: a difference whose interval does not hold 0.
    """

    text: str
    note: str = ""
    key: float = math.nan
    apart: bool = False


@dataclass(frozen=True)
class Row:
    """Of a table; of a layer, if a choice of layers may hide it."""

    name: str
    cells: Sequence[Cell]
    layer: str | None = None


@dataclass(frozen=True)
class Table:
    """Its first column is the rows' names; `foot` is not sorted with the rest.

    Attributes:
        caption: above it.
        head: of the columns.
        rows: of as many cells, less the name.
        foot: rows beneath.
        sortable: whether a click on a heading sorts the rows.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()
    sortable: bool = True
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """By the stem of its files."""

    stem: str
    kind: str = "figure"


@dataclass(frozen=True)
class Picture:
    """An image beside its version, as data URIs, and what became of it."""

    name: str
    clean: str
    version: str
    before: str
    after: str
    words: str
    changed: bool


@dataclass(frozen=True)
class Gallery:
    """Pictures under a caption."""

    caption: str
    pictures: Sequence[Picture]
    kind: str = "gallery"


@dataclass(frozen=True)
class Choice:
    """Parts of which one name's are shown at a time."""

    label: str
    options: dict[str, "Sequence[Part]"]
    kind: str = "choice"


@dataclass(frozen=True)
class Layers:
    """A choice of one layer: rows of others are hidden, their lines faint."""

    names: Sequence[str]
    kind: str = "layers"


Part = Table | Figure | Gallery | Choice | Layers


@dataclass(frozen=True)
class Section:
    """Of the page.

    Attributes:
        anchor: its name in links.
        title: its heading.
        words: what it means and how it is read, for who sees it for the first time.
        parts: in their order.
        terms: words of the tables that need an explanation.
    """

    anchor: str
    title: str
    words: str
    parts: Sequence[Part]
    terms: dict[str, str] = field(default_factory=dict)


def number(value: float) -> str:
    """Three digits behind the point, of large numbers fewer; "-" of NaN."""
    if math.isnan(value):
        return "-"
    return _minus(f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}")


def cell(of: Estimate) -> Cell:
    """A mean over its interval, or with the spread of the seeds."""
    if not math.isnan(of.spread):
        return Cell(number(of.mean), f"± {number(of.spread)}", of.mean)
    return Cell(number(of.mean), _inside(of, ""), of.mean)


def change(of: Estimate) -> Cell:
    """A difference over its interval."""
    if math.isnan(of.mean):
        return Cell("-")
    sign = "+" if round(of.mean, 3) > 0 else ""
    text = sign + number(round(of.mean, 3) + 0.0)
    return Cell(text, _inside(of, "+"), of.mean, of.apart)


def _inside(of: Estimate, sign: str) -> str:
    if math.isnan(of.low):
        return ""
    low, high = (_minus(f"{end:{sign}.3f}") for end in (of.low, of.high))
    return f"{low} to {high}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
