"""The page: one file that needs no network, beside it each figure and its numbers."""

import csv
import json
import math
import re
from collections.abc import Sequence
from io import BytesIO, StringIO
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dai_plugin.files import together
from dai_plugin.report.canvas import plain, styled
from dai_plugin.report.figures import Figure, drawings, write_figure
from dai_plugin.report.pooled import Row
from dai_plugin.report.runs import Run
from dai_plugin.report.sections import left_out, missing, sections

PAGE = "report.html"
_TEMPLATE = "page.html.j2"
_GENERATOR = "dai-plugin report"
_MARKED = ("layer", "run", "band", "boxes", "whiskers")  # what groups of an SVG are of


def write_page(
    runs: Sequence[Run], output: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Writes `report.html`, and each figure with the numbers behind it.

    All files take their places at the end, the page last. Those of an earlier page
    in the folder go, other files stay.

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
    folder = Path(output)
    with together(folder, PAGE, earlier(folder)) as beside:
        shown, links = dict[str, Markup](), dict[str, list[str]]()
        for stem, drawing in drawings(runs).items():
            figure, rows = drawing.draw(runs).figure, drawing.rows(runs)
            files = write_figure(figure, beside, stem, formats)
            links[stem] = [path.name for path in files]
            for name, text in (("csv", _csv(rows)), ("json", _json(rows))):
                links[stem].append(f"{stem}.{name}")
                (beside / links[stem][-1]).write_text(text, encoding="utf-8")
            shown[stem] = inline(figure, stem)
        page = html(runs, shown, links)
        (beside / PAGE).write_text(page, encoding="utf-8")
    return [folder / name for name in [PAGE, *chain.from_iterable(links.values())]]


def earlier(folder: Path) -> list[str]:
    """Names of the files beside the page that a folder holds: what the page links.

    None of a page that somebody else wrote, and none outside the folder.
    """
    if not (folder / PAGE).is_file():
        return []
    page = (folder / PAGE).read_text(encoding="utf-8", errors="replace")
    if f'content="{_GENERATOR}"' not in page:
        return []
    names = map(unquote, re.findall(r'<a href="([\w.%-]+)">', page))
    return [n for n in names if Path(n).name == n and (folder / n).is_file()]


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
    environment.filters["plain"] = plain  # as figures write names
    template = environment.get_template(_TEMPLATE)
    page = template.render(
        generator=_GENERATOR,
        runs=runs,
        missing=missing(runs),
        left_out=left_out(runs),
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
    # In tags alone: a name that looks like an attribute stays as it is.
    return Markup(re.sub(r"<[^>]*>", lambda tag: _own(tag[0], stem), text))


def _own(tag: str, stem: str) -> str:
    """Ids of this figure's own in a tag; what groups are of is told to the script."""

    def named(found: re.Match[str]) -> str:
        quote, name = found.groups()
        kind, colon, of = name.partition(":")
        if colon and kind in _MARKED:
            return f" data-{kind}={quote}{of}{quote}"
        return f" id={quote}{stem}--{name}{quote}"

    tag = re.sub(r" id=([\"'])(.*?)\1", named, tag)  # with ' where a name holds "
    tag = re.sub(r"url\(#([^)]*)\)", rf"url(#{stem}--\1)", tag)
    return re.sub(r'href="#([^"]*)"', rf'href="#{stem}--\1"', tag)


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
