"""Tables of the page: runs side by side, each beside its difference to the first."""

from collections.abc import Mapping, Sequence

from dai_plugin.report.parts import Cell, Row, Table, cell, change, number
from dai_plugin.report.pooled import PLACE, groups_of
from dai_plugin.report.quantities import Quantity, differences, estimates
from dai_plugin.report.runs import Run

DIFFERENCE = "difference"


def beside(
    caption: str,
    first: str,
    runs: Sequence[Run],
    asked: Mapping[str, Quantity],
    foot: Sequence[str] = (),
    layers: bool = False,
) -> Table:
    """A row for each number, a column a run; of all runs but one their differences.

    Args:
        caption: of the table.
        first: heading of the column of names.
        runs: the first of which the others are compared with.
        asked: by the name of the row.
        foot: rows that are the mean of the others.
        layers: names are layers.
    """
    head, columns = [first], list[list[Cell]]()
    for i, run in enumerate(runs):
        of = list(asked.values())
        head.append(heading(run))
        columns.append([cell(each) for each in estimates(run, of)])
        if i:
            head.append(DIFFERENCE)
            found = zip(of, differences(run, runs[0], of), strict=True)
            columns.append([change(each, what.verdict(each)) for what, each in found])
    rows = [
        Row(name, cells, name if layers else None)
        for name, cells in zip(asked, zip(*columns, strict=True), strict=True)
    ]
    body = [row for row in rows if row.name not in foot]
    return Table(caption, head, body, [row for row in rows if row.name in foot])


def along(
    caption: str, run: Run, kind: str, measure: str, titles: Mapping[str, str]
) -> Table:
    """A row for each series of a kind, a column for each value of their axis.

    Args:
        caption: of the table.
        run: one of the runs.
        kind: "corruptions", "attacks".
        measure: of the output.
        titles: of the series, by name; those that have one axis.
    """
    axis = run.seeds[0].axes[f"{kind}:{next(iter(titles))}"]
    groups = {name: f"{kind}:{name}" for name in titles}
    everything = tuple(groups.values())
    columns = [*range(len(axis.values)), None]
    asked = {
        (name, at): Quantity(some, measure, (PLACE,), at)
        for name, some in [*((n, (g,)) for n, g in groups.items()), ("", everything)]
        for at in columns
    }
    found = dict(zip(asked, estimates(run, list(asked.values())), strict=True))
    rows = [
        Row(title, [_plain(found[name, at].mean) for at in columns])
        for name, title in titles.items()
    ]
    foot = Row("mean", [_plain(found["", at].mean) for at in columns])
    unit = f" ({axis.unit})" if axis.unit else ""
    head = [f"{axis.name}{unit}", *(f"{v:g}" for v in axis.values), "mean"]
    return Table(caption, head, rows, [foot] if len(rows) > 1 else [])


def heading(run: Run) -> str:
    """Its name, and how many seeds it is the mean of."""
    seeds = len(run.seeds)
    return f"{run.name} (n = {seeds} seeds)" if seeds > 1 else run.name


def series(runs: Sequence[Run], kind: str) -> dict[str, str]:
    """The series of a kind that all runs have, by name: groups."""
    return {name: f"{kind}:{name}" for name in groups_of(runs, kind)}


def layers_of(runs: Sequence[Run], group: str, measure: str) -> list[str]:
    """Layers of any run, in the order of the first that has them."""
    places = [
        p for r in runs if r.has(group, measure) for p in r.places(group, measure)
    ]
    return list(dict.fromkeys(places))


def _plain(value: float) -> Cell:
    return Cell(number(value), key=value)
