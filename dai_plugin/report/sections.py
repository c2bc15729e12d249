"""The sections of the page, each only if it was measured: pure data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dai_plugin.measures.results import Axis
from dai_plugin.report.dots import SHARES
from dai_plugin.report.parts import (
    Cell,
    Choice,
    Figure,
    Layers,
    Part,
    Row,
    Section,
    Table,
    number,
)
from dai_plugin.report.pooled import PLACE, groups_of, prediction_measure
from dai_plugin.report.quantities import Quantity, names
from dai_plugin.report.runs import Run
from dai_plugin.report.summary import along, beside, heading, layers_of
from dai_plugin.report.thumbnails import galleries
from dai_plugin.report.words import MEANINGS, SECTIONS, title

MEAN = "mean"


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
        _strength(runs, stems),
        _corruptions(runs, stems),
        _attacks(runs, stems),
        _pictures(runs),
        _similarity(runs, stems),
        _section("dynamics", [Figure(s) for s in stems if s == "dynamics"]),
    )
    return [section for section in made if section.parts]


def missing(runs: Sequence[Run]) -> list[str]:
    """What was asked for and not done, a line for each folder."""
    return [
        f"{run.name}, {folder}: {', '.join(map(str, seed.about['missing']))}"
        for run in runs
        for seed, folder in zip(run.seeds, run.folders, strict=True)
        if seed.about.get("missing")
    ]


def _section(
    anchor: str, parts: Sequence[Part], measures: Sequence[str] = ()
) -> Section:
    terms = {title(m): MEANINGS[m] for m in measures if m in MEANINGS}
    return Section(anchor, *SECTIONS[anchor], parts, terms)


def _run(runs: Sequence[Run]) -> Section:
    """A row for each thing that is known, a column a run; seeds' own ones in lines."""
    known = list(dict.fromkeys(k for r in runs for s in r.seeds for k in s.about))
    known = [key for key in known if key not in ("name", "missing")]
    rows = [
        Row(
            title(key),
            [Cell(_facts([s.about.get(key) for s in r.seeds])) for r in runs],
        )
        for key in known
    ]
    folders = [Cell("\n".join(map(str, run.folders))) for run in runs]
    rows.append(Row("folders" if len(runs) > 1 else "folder", folders))
    head = ["", *(heading(run) for run in runs)]
    return _section("run", [Table("What was run", head, rows, sortable=False)])


def _facts(of_seeds: Sequence[Any]) -> str:
    """What the seeds have in common is said once."""
    return "\n".join(dict.fromkeys(_fact(value) for value in of_seeds))


def _fact(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        told = [_fact(each) for each in value]
        short = told if len(told) <= 6 else [*told[:5], f"... ({len(told)} in all)"]
        return ", ".join(short)
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
    parts += _choice("measure", tables)
    return _section("layers", parts, shown)


def _output(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    found = _measures(runs, "output")  # in the order of the figure, then the others
    shown = [m for m in SHARES if m in found] + [m for m in found if m not in SHARES]
    asked = {title(m): Quantity(("output",), m, (PLACE,)) for m in shown}
    parts: list[Part] = [Figure(stem) for stem in stems if stem == "output"]
    if asked:
        parts.append(beside("Predictions", "measure", runs, asked))
    return _section("output", parts, shown)


def _strength(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    options: dict[str, Sequence[Part]] = {}
    for kind in groups_of(runs, "strength"):
        group = f"strength:{kind}"
        stem = f"strength-{kind}"
        parts: list[Part] = [Figure(s) for s in (stem, f"{stem}-layers") if s in stems]
        measure = prediction_measure(runs, [group])
        if measure:
            axis = runs[0].seeds[0].axes[group]
            asked = {
                f"{value:g}": Quantity((group,), measure, (PLACE,), at)
                for at, value in enumerate(axis.values)
            }
            asked[MEAN] = Quantity((group,), measure, (PLACE,))
            unit = f" ({axis.unit})" if axis.unit else ""
            caption = f"{title(measure).capitalize()} by {kind}"
            head = f"{kind}{unit}"
            parts.append(beside(caption, head, runs, asked, foot=[MEAN]))
        if parts:
            options[kind] = parts
    return _section("strength", _choice("transformation", options))


def _corruptions(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    parts: list[Part] = [Figure(s) for s in ("severities", "corruptions") if s in stems]
    titles = {name: title(name) for name in groups_of(runs, "corruptions")}
    groups = [f"corruptions:{name}" for name in titles]
    measure = prediction_measure(runs, groups)
    if not measure:
        return _section("corruptions", parts)
    asked = {
        title(name): Quantity((f"corruptions:{name}",), measure, (PLACE,))
        for name in titles
    }
    asked[MEAN] = Quantity(tuple(groups), measure, (PLACE,))
    caption = f"{title(measure).capitalize()}, mean over severities"
    parts.append(beside(caption, "corruption", runs, asked, foot=[MEAN]))
    options = _by_run(runs, "corruptions", measure, titles)
    section = _section("corruptions", [*parts, *_choice("network", options)], [measure])
    formula = (
        "The mean of all corruptions and severities, each with the same weight; the "
        "mean corruption error is 1 less the mean accuracy, and unlike mCE it is not "
        "divided by the errors of another network."
    )
    return Section(
        section.anchor,
        section.title,
        f"{section.words} {formula}",
        section.parts,
        section.terms,
    )


def _attacks(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    """A table for each axis that attacks have."""
    parts: list[Part] = [Figure(stem) for stem in stems if stem.startswith("attacks-")]
    kinds: dict[Axis, dict[str, str]] = {}
    for name in groups_of(runs, "attacks"):
        axis = runs[0].seeds[0].axes[f"attacks:{name}"]
        kinds.setdefault(axis, {})[name] = title(name)
    options: dict[str, list[Part]] = {}
    for titles in kinds.values():
        measure = prediction_measure(runs, [f"attacks:{name}" for name in titles])
        for network, tables in _by_run(runs, "attacks", measure, titles).items():
            options.setdefault(network, []).extend(tables)
    return _section("attacks", [*parts, *_choice("network", options)])


def _by_run(
    runs: Sequence[Run], kind: str, measure: str | None, titles: dict[str, str]
) -> dict[str, Sequence[Part]]:
    if measure is None:
        return {}
    caption = title(measure).capitalize()
    return {
        heading(run): [along(f"{caption}: {heading(run)}", run, kind, measure, titles)]
        for run in runs
    }


def _pictures(runs: Sequence[Run]) -> Section:
    """Of several seeds those of the first."""
    options: dict[str, Sequence[Part]] = {}
    for run in runs:
        found = galleries(run.seeds[0])
        if found:
            first = " (first seed)" if len(run.seeds) > 1 else ""
            options[run.name + first] = found
    return _section("pictures", _choice("network", options))


def _similarity(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    drawn = ("dissimilarity", "cka", "rank-correlation", "rdm")
    parts: list[Part] = [Figure(stem) for stem in stems if stem in drawn]
    if all(run.has("similarity", "rdm") for run in runs):
        layers = layers_of(runs, "similarity", "rdm")
        asked = {n: Quantity(("similarity",), "rdm", (n,)) for n in layers}
        caption = "Correlation with the given matrices, mean over subjects"
        parts.append(beside(caption, "layer", runs, asked, layers=True))
        parts += _ceiling(runs[0])
    return _section("similarity", parts)


def _ceiling(run: Run) -> Iterator[Table]:
    """Between which two numbers the best possible correlation lies."""
    ends = run.seeds[0].tables["similarity"].get("noise_ceiling", {})
    rows = [
        Row(name, [Cell(number(float(end)), key=float(end))])
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


def _choice(label: str, options: Mapping[str, Sequence[Part]]) -> list[Part]:
    """One of several, without a choice if there is but one."""
    if len(options) == 1:
        return list(*options.values())
    return [Choice(label, dict(options))] if options else []
