"""What a page is made of: sections with tables, figures, pictures and choices.

Plain data, without a word of HTML: the template says what each looks like.
"""

import math
from collections.abc import Mapping, Sequence
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
        verdict: "better" or "worse" of such a difference.
    """

    text: str
    note: str = ""
    key: float = math.nan
    apart: bool = False
    verdict: str = ""


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


def choice(label: str, options: Mapping[str, Sequence[Part]]) -> list[Part]:
    """One of several, without a choice if there is but one."""
    if len(options) == 1:
        return list(*options.values())
    return [Choice(label, dict(options))] if options else []


def number(value: float) -> str:
    """Three digits behind the point, of large numbers fewer; "-" of NaN."""
    if math.isnan(value):
        return "-"
    return _signed(value, "")


def cell(of: Estimate) -> Cell:
    """A mean over its interval, or with the spread of the seeds."""
    if not math.isnan(of.spread):
        return Cell(number(of.mean), f"± {number(of.spread)}", of.mean)
    return Cell(number(of.mean), _inside(of, ""), of.mean)


def change(of: Estimate, verdict: str) -> Cell:
    """A difference over its interval."""
    if math.isnan(of.mean):
        return Cell("-")
    return Cell(_signed(of.mean, "+"), _inside(of, "+"), of.mean, of.apart, verdict)


def _inside(of: Estimate, sign: str) -> str:
    if math.isnan(of.low):
        return ""
    return f"{_signed(of.low, sign)} to {_signed(of.high, sign)}"


def _signed(value: float, sign: str) -> str:
    """With a true minus, a plus if asked for; what is 0 in these digits has none."""
    rounded = round(value, 3 if abs(value) < 10 else 1) + 0.0
    digits = ".3f" if abs(value) < 10 else ".1f"
    text = f"{rounded:{sign if rounded else ''}{digits}}"
    return text.replace("-", "\N{MINUS SIGN}")
