"""Sections of what changes along an axis: strength, severity, radius."""

from collections.abc import Sequence

from dai_plugin.measures.results import Axis
from dai_plugin.report.parts import Figure, Part, Section, choice
from dai_plugin.report.pooled import PLACE, groups_of, prediction_measure
from dai_plugin.report.quantities import Quantity
from dai_plugin.report.runs import Run
from dai_plugin.report.summary import along, beside, heading
from dai_plugin.report.words import section, title

MEAN = "mean"


def strength(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    """Curves of one transformation at a time, and the predictions at each value."""
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
    return section("strength", choice("transformation", options))


def corruptions(runs: Sequence[Run], stems: Sequence[str]) -> Section:
    """Each corruption of each run, their mean, and each severity of one run."""
    parts: list[Part] = [Figure(s) for s in ("severities", "corruptions") if s in stems]
    titles = {name: title(name) for name in groups_of(runs, "corruptions")}
    groups = [f"corruptions:{name}" for name in titles]
    measure = prediction_measure(runs, groups)
    if not measure:
        return section("corruptions", parts)
    asked = {
        title(name): Quantity((f"corruptions:{name}",), measure, (PLACE,))
        for name in titles
    }
    asked[MEAN] = Quantity(tuple(groups), measure, (PLACE,))
    caption = f"{title(measure).capitalize()}, mean over severities"
    parts.append(beside(caption, "corruption", runs, asked, foot=[MEAN]))
    options = _by_run(runs, "corruptions", measure, titles)
    made = section("corruptions", [*parts, *choice("network", options)], [measure])
    formula = (
        "The mean of all corruptions and severities, each with the same weight; the "
        "mean corruption error is 1 less the mean accuracy, and unlike mCE it is not "
        "divided by the errors of another network."
    )
    return Section(
        made.anchor,
        made.title,
        f"{made.words} {formula}",
        made.parts,
        made.terms,
    )


def attacks(runs: Sequence[Run], stems: Sequence[str]) -> Section:
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
    return section("attacks", [*parts, *choice("network", options)])


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
