"""`dai-plugin measure`: the measures of one network on images, in a folder."""

import argparse
from pathlib import Path
from typing import Any

from dai_plugin.cli.groups import groups
from dai_plugin.cli.measuring import ended, measured
from dai_plugin.cli.output import (
    ROWS,
    SUMMARY,
    output_folder,
    results,
    write_csv,
    write_json,
)
from dai_plugin.cli.tables import table, terminal_width
from dai_plugin.measures.results import Measures

_COLUMNS = (
    *("group", "measure", "place", "depth", "at"),
    *("mean", "lower", "median", "upper", "count"),
)


def run(options: argparse.Namespace) -> int:
    """Measures, writes, prints; returns the exit status."""
    output = output_folder(options.output, options.data)
    found = measured(options, groups(options))
    with results(output) as folder:
        found.save(folder)
        _write_rows(found, folder / ROWS)
        write_json(folder / SUMMARY, {found.about["name"]: means(found)})
    for part in tables(found, terminal_width()):
        print(part, end="\n\n")
    print(f"written: {output}")
    return ended(found)


def means(found: Measures) -> dict[str, Any]:
    """The measures by group, measure and place; a list of them along an axis."""
    told: dict[str, Any] = {}
    for row in found.rows():
        places = told.setdefault(row["group"], {}).setdefault(row["measure"], {})
        if row.get("at") is None:
            places[row["place"]] = row["mean"]
        else:
            places.setdefault(row["place"], []).append(row["mean"])
    return told


def tables(found: Measures, width: int | None) -> list[str]:
    """Tables for the terminal: layers, output, series, and what else has numbers."""
    told = means(found)
    layers = told.pop("layers", {})
    series = {name: told.pop(name) for name in found.axes}
    parts = []
    if layers:
        places = dict.fromkeys(place for each in layers.values() for place in each)
        lines = [(p, *(each.get(p) for each in layers.values())) for p in places]
        parts.append(table(["layer", *layers], lines, width))
    numbers = [
        (f"{name}, {place}" if len(each) > 1 else name, value)
        for measures in told.values()
        for name, each in measures.items()
        for place, value in each.items()
    ]
    if numbers:
        parts.append(table(["measure", "value"], numbers, width))
    if series:
        points = [_series(found, name, each) for name, each in series.items()]
        parts.append(table(["series", "measure", "mean", "worst", "at"], points, width))
    return parts


def _series(found: Measures, name: str, measures: Any) -> tuple[Any, ...]:
    """The measure that says most of a series: its mean, its least, and where."""
    telling = ("accuracy_transformed", "consistency", "score")
    measure = next(each for each in telling if each in measures)
    values = list(measures[measure].values())[-1]
    axis = found.axes[name]
    place = min(range(len(values)), key=values.__getitem__)
    unit = f"{axis.name} {axis.values[place]:g} {axis.unit}".strip()
    return name, measure, sum(values) / len(values), values[place], unit


def _write_rows(found: Measures, path: Path) -> None:
    write_csv(
        path, _COLUMNS, [[row[name] for name in _COLUMNS] for row in found.rows()]
    )
