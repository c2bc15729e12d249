"""The page: one file that needs no network, beside it each figure and its numbers."""

import csv
import json
import math
import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dai_plugin.report.canvas import styled
from dai_plugin.report.figures import Figure, drawings, write_figure
from dai_plugin.report.pooled import Row
from dai_plugin.report.runs import Run
from dai_plugin.report.sections import missing, sections
from dai_plugin.report.whole import write_whole

PAGE = "report.html"
_TEMPLATE = "page.html.j2"
_MARKED = ("layer", "run", "band", "boxes", "whiskers")  # what groups of an SVG are of


def write_page(
    runs: Sequence[Run], output: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Writes `report.html`, and each figure with the numbers behind it.

    Each file is written as a whole or not at all, the page last.

    Args:
        runs: of `read_runs`; the first is what the others are compared with.
        output: folder; it is made.
        formats: of the figures' files: some of png, svg, pdf.

    Returns:
        The paths, that of the page first.

    Raises:
        ValueError: there are no runs, or an unknown format.
    """
    if not runs:
        raise ValueError("no runs to report on; give one or more of read_runs")
    folder, written, shown = Path(output), list[Path](), dict[str, Markup]()
    links: dict[str, list[str]] = {}
    for stem, drawing in drawings(runs).items():
        figure, rows = drawing.draw(runs).figure, drawing.rows(runs)
        files = write_figure(figure, folder, stem, formats)
        numbers = {
            folder / f"{stem}.csv": _csv(rows).encode(),
            folder / f"{stem}.json": _json(rows).encode(),
        }
        files += write_whole(numbers)
        written += files
        shown[stem] = inline(figure, stem)
        links[stem] = [path.name for path in files]
    page = html(runs, shown, links)
    return [*write_whole({folder / PAGE: page.encode()}), *written]


def html(
    runs: Sequence[Run], figures: dict[str, Markup], links: dict[str, list[str]]
) -> str:
    """The page, given its figures and the names of the files beside it, by stem."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    page = template.render(
        runs=runs,
        missing=missing(runs),
        sections=sections(runs, list(figures)),
        figures=figures,
        links=links,
    )
    return f"{page.strip()}\n"


@styled
def inline(figure: Figure, stem: str) -> Markup:
    """An SVG as a part of a page: without a head, with ids that no other figure has."""
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    marked = "|".join(_MARKED)
    text = re.sub(rf' id="({marked}):([^"]*)"', r' data-\1="\2"', text)
    text = re.sub(r' id="([^"]*)"', rf' id="{stem}--\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{stem}--\1)", text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{stem}--\1"', text)
    return Markup(text)


def _csv(rows: Sequence[Row]) -> str:
    text = StringIO()
    heads = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(text, heads, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _json(rows: Sequence[Row]) -> str:
    """JSON knows no NaN: null."""
    return json.dumps([{k: _known(v) for k, v in row.items()} for row in rows]) + "\n"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
