"""All figures that runs allow, by the stems of their files; how they are written."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import matplotlib

from dai_plugin.files import write
from dai_plugin.report.boxes import draw_scores, score_rows
from dai_plugin.report.canvas import Axes, styled
from dai_plugin.report.dots import (
    corruption_rows,
    draw_corruptions,
    draw_output,
    draw_rdm,
    output_rows,
    rdm_rows,
)
from dai_plugin.report.dynamics import draw_dynamics, dynamics_rows, with_metrics
from dai_plugin.report.lines import (
    attack_rows,
    attacks_along,
    draw_attacks,
    draw_severities,
    draw_strength,
    draw_strength_layers,
    severity_rows,
    strength_layer_rows,
    strength_rows,
)
from dai_plugin.report.maps import (
    between_rows,
    cka_rows,
    dissimilarity_rows,
    draw_between,
    draw_cka,
    draw_dissimilarity,
)
from dai_plugin.report.pooled import Row, groups_of, prediction_measure
from dai_plugin.report.runs import Run

Figure = Any  # matplotlib's

# What can be drawn of runs; each takes runs and axes, or makes a figure for them.
FIGURES: dict[str, Callable[..., Axes]] = {
    "invariance": draw_scores,
    "output": draw_output,
    "strength": draw_strength,
    "strength_layers": draw_strength_layers,
    "severities": draw_severities,
    "corruptions": draw_corruptions,
    "attacks": draw_attacks,
    "dissimilarity": draw_dissimilarity,
    "cka": draw_cka,
    "between": draw_between,
    "rdm": draw_rdm,
    "dynamics": draw_dynamics,
}
# Without the date, equal figures are equal files.
_METADATA: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@dataclass(frozen=True)
class Drawing:
    """A figure that runs allow, and the rows of numbers behind it."""

    draw: Callable[[Sequence[Run]], Axes]
    rows: Callable[[Sequence[Run]], list[Row]]


def drawings(runs: Sequence[Run]) -> dict[str, Drawing]:
    """By the stem of its file, each figure whose measures all runs have."""
    found: dict[str, Drawing] = {}

    def has(group: str, measure: str) -> bool:
        return all(run.has(group, measure) for run in runs)

    if has("layers", "score"):
        found["invariance"] = Drawing(draw_scores, score_rows)
    if output_rows(runs):
        found["output"] = Drawing(draw_output, output_rows)
    for kind in groups_of(runs, "strength"):
        given, stem = {"kind": kind}, f"strength-{_plain(kind)}"
        if prediction_measure(runs, [f"strength:{kind}"]):
            found[stem] = _with(draw_strength, strength_rows, given)
        if has(f"strength:{kind}", "score"):
            layers = _with(draw_strength_layers, strength_layer_rows, given)
            found[f"{stem}-layers"] = layers
    corruptions = [f"corruptions:{name}" for name in groups_of(runs, "corruptions")]
    if prediction_measure(runs, corruptions):
        found["severities"] = Drawing(draw_severities, severity_rows)
        found["corruptions"] = Drawing(draw_corruptions, corruption_rows)
    attacks = groups_of(runs, "attacks")
    known = runs[0].seeds[0].axes
    for axis in dict.fromkeys(known[f"attacks:{name}"].name for name in attacks):
        along = [f"attacks:{name}" for name in attacks_along(runs, axis)]
        if prediction_measure(runs, along):
            drawing = _with(draw_attacks, attack_rows, {"axis": axis})
            found[f"attacks-{_plain(axis)}"] = drawing
    if has("similarity", "dissimilarity"):
        found["dissimilarity"] = Drawing(draw_dissimilarity, dissimilarity_rows)
        for measure in ("cka", "rank_correlation"):
            if has("similarity", measure):
                given, stem = {"measure": measure}, measure.replace("_", "-")
                found[stem] = _with(draw_cka, cka_rows, given)
                if len(runs) > 1:
                    drawing = _with(draw_between, between_rows, given)
                    found[f"{stem}-between"] = drawing
    if has("similarity", "rdm"):
        found["rdm"] = Drawing(draw_rdm, rdm_rows)
    if with_metrics(runs):
        found["dynamics"] = Drawing(draw_dynamics, dynamics_rows)
    return found


def figures(runs: Sequence[Run]) -> dict[str, Figure]:
    """All figures that the runs allow, by the stem of their files."""
    return {stem: each.draw(runs).figure for stem, each in drawings(runs).items()}


def frame_of(stem: str, runs: Sequence[Run]) -> list[Row]:
    """The numbers behind a figure, in long form.

    Raises:
        KeyError: the runs allow no such figure.
    """
    found = drawings(runs)
    if stem not in found:
        raise KeyError(f"no figure {stem!r} of these runs, only {', '.join(found)}")
    return found[stem].rows(runs)


@styled
def write_figure(
    figure: Figure, folder: Path, stem: str, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Writes a figure, each file as a whole; none if it cannot be drawn in a format.

    Args:
        figure: to write; its name does not matter.
        folder: where; it is made.
        stem: of the files.
        formats: some of png, svg, pdf.

    Returns:
        The paths.

    Raises:
        ValueError: of an unknown format.
    """
    unknown = [each for each in formats if each not in _METADATA]
    if unknown:
        raise ValueError(
            f"figures are written as {', '.join(_METADATA)}, not {', '.join(unknown)}"
        )
    files: dict[Path, bytes] = {}
    with matplotlib.rc_context({"svg.hashsalt": stem}):
        for each in formats:
            content = BytesIO()
            figure.savefig(content, format=each, metadata=_METADATA[each])
            files[folder / f"{stem}.{each}"] = content.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        write(path, partial(_put, data))
    return list(files)


def _put(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _with(
    draw: Callable[..., Axes], rows: Callable[..., list[Row]], given: dict[str, str]
) -> Drawing:
    return Drawing(partial(draw, **given), partial(rows, **given))


def _plain(name: str) -> str:
    """A name that is part of a file's."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "-"
