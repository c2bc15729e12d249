"""The sections of the page, each only if it was measured: pure data."""

from collections.abc import Iterator, Sequence
from typing import Any

from dai_plugin.report.dots import SHARES
from dai_plugin.report.naming import names
from dai_plugin.report.parts import (
    Cell,
    Figure,
    Layers,
    Part,
    Row,
    Section,
    Table,
    choice,
    number,
)
from dai_plugin.report.pooled import PLACE, known
from dai_plugin.report.quantities import PER_IMAGE, Quantity
from dai_plugin.report.runs import Run
from dai_plugin.report.series_sections import attacks, corruptions, strength
from dai_plugin.report.summary import beside, heading, layers_of
from dai_plugin.report.thumbnails import galleries
from dai_plugin.report.words import section, title


def sections(runs: Sequence[Run], stems: Sequence[str]) -> list[Section]:
    """All that was measured of all runs.

    Args:
        runs: the first of which the others are compared with.
        stems: of the figures that these allow.
    """
    made = (
        _run(runs),
        _layers(runs, stems),
        _output(runs, stems),
        strength(runs, stems),
        corruptions(runs, stems),
        attacks(runs, stems),
        _pictures(runs),
        _similarity(runs, stems),
        section("dynamics", [Figure(s) for s in stems if s == "dynamics"]),
    )
    return [each for each in made if each.parts]


def missing(runs: Sequence[Run]) -> list[str]:
    """What was asked for and not done, a line for each folder."""
    return [
        f"{run.name}, {folder}: {', '.join(map(str, seed.about['missing']))}"
        for run in runs
        for seed, folder in zip(run.seeds, run.folders, strict=True)
        if seed.about.get("missing")
    ]


def left_out(runs: Sequence[Run]) -> list[str]:
    """Series and matrices that only some of the runs have: a line for each run.

    A kind by its name alone, if the run has no series of it.
    """
    held = [run.seeds[0].tables for run in runs]
    shared = [group for tables in held for group in tables if group not in PER_IMAGE]
    lines = []
    for run, tables in zip(runs, held, strict=True):
        kinds = {group.partition(":")[0] for group in tables}
        lacking = [
            group.replace(":", " ") if kind in kinds else kind
            for group in shared
            for kind in [group.partition(":")[0]]
            if group not in tables
        ]
        if lacking:
            lines.append(f"{', '.join(dict.fromkeys(lacking))}: not of {run.name}")
    return lines


def _run(runs: Sequence[Run]) -> Section:
    """A row for each thing that is known, a column a run; seeds' own ones in lines."""
    told = dict.fromkeys(k for r in runs for s in r.seeds for k in s.about)
    keys = [key for key in told if key not in ("name", "missing", "interrupted")]
    rows = [
        Row(
            title(key),
            [Cell(_facts([s.about.get(key) for s in r.seeds])) for r in runs],
        )
        for key in keys
    ]
    folders = [Cell("\n".join(map(str, run.folders))) for run in runs]
    rows.append(Row("folders" if len(runs) > 1 else "folder", folders))
    head = ["", *(heading(run) for run in runs)]
    return section("run", [Table("What was run", head, rows, sortable=False)])


def _facts(of_seeds: Sequence[Any]) -> str:
    """What the seeds have in common is said once."""
    return "\n".join(dict.fromkeys(_fact(value) for value in of_seeds))


def _fact(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        told = [f"{key} {_fact(each)}" for key, each in value.items()]
        return ", ".join(told) or "none"
    if isinstance(value, (list, tuple)):
        told = [_fact(each) for each in value]
        short = told if len(told) <= 6 else [*told[:5], f"... ({len(told)} in all)"]
        return ", ".join(short) or "none"
    return str(value)


def _layers(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    shown = _measures(runs, "layers")
    tables: dict[str, Sequence[Part]] = {}
    for measure in shown:
        layers = layers_of(runs, "layers", measure)
        asked = {n: Quantity(("layers",), measure, (n,)) for n in layers}
        caption = f"{title(measure).capitalize()}, by layer"
        tables[title(measure)] = [beside(caption, "layer", runs, asked, layers=True)]
    parts: list[Part] = []
    if shown:
        parts.append(Layers(layers_of(runs, "layers", shown[0])))
    parts += [Figure(stem) for stem in stems if stem == "invariance"]
    parts += choice("measure", tables)
    return section("layers", parts, shown)


def _output(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    found = _measures(runs, "output")  # in the order of the figure, then the others
    shown = [m for m in SHARES if m in found] + [m for m in found if m not in SHARES]
    asked = {title(m): Quantity(("output",), m, (PLACE,)) for m in shown}
    parts: list[Part] = [Figure(stem) for stem in stems if stem == "output"]
    if asked:
        parts.append(beside("Predictions", "measure", runs, asked))
    return section("output", parts, shown)


def _pictures(runs: Sequence[Run]) -> Section:
    """Of several seeds those of the first."""
    options: dict[str, Sequence[Part]] = {}
    for run in runs:
        found = galleries(run.seeds[0])
        if found:
            first = " (first seed)" if len(run.seeds) > 1 else ""
            options[run.name + first] = found
    return section("pictures", choice("network", options))


def _similarity(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    alike = ("cka", "cka-between", "rank-correlation", "rank-correlation-between")
    drawn = ("dissimilarity", *alike, "rdm")
    parts: list[Part] = [Figure(stem) for stem in stems if stem in drawn]
    if all(run.has("similarity", "rdm") for run in runs):
        layers = layers_of(runs, "similarity", "rdm")
        asked = {n: Quantity(("similarity",), "rdm", (n,)) for n in layers}
        caption = "Correlation with the given matrices, mean over subjects"
        parts.append(beside(caption, "layer", runs, asked, layers=True))
        parts += _ceiling(runs[0])
    return section("similarity", parts)


def _ceiling(run: Run) -> Iterator[Table]:
    """Between which two numbers the best possible correlation lies."""
    ends = run.seeds[0].tables["similarity"].get("noise_ceiling", {})
    rows = [
        Row(name, [Cell(number(float(known(end))), key=float(known(end)))])
        for name, end in ends.items()
    ]
    if rows:
        yield Table(
            "Noise ceiling: what a perfect model reaches", ["end", "correlation"], rows
        )


def _measures(runs: Sequence[Run], group: str) -> list[str]:
    """Numbers of a group that any run has."""
    found = [m for run in runs for m in names(run.seeds[0]) if run.has(group, m)]
    return list(dict.fromkeys(found))
