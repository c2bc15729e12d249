"""Numbers behind the figures: means with intervals over images, or between seeds.

A figure's numbers are rows: dictionaries with "run" and what else tells them apart. Of
one network the interval is over images; of several seeds it is their mean, plus and
minus the standard deviation between them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dai_plugin.measures.passes import PIXELS
from dai_plugin.report.bootstrap import interval, spread
from dai_plugin.report.runs import Run

Row = dict[str, Any]

RIGHT, SAME = "accuracy_transformed", "consistency"
PLACE = "output"  # of the measures of the output


def named(layers: Sequence[str]) -> list[str]:
    """Layers as figures call them: the first one is the pixels."""
    return ["pixels" if layer == PIXELS else layer for layer in layers]


def groups_of(runs: Sequence[Run], kind: str) -> list[str]:
    """Names of the series of a kind that all runs have: "rotation" of "strength"."""
    held = [
        [g.partition(":")[2] for g in run.seeds[0].tables if g.startswith(f"{kind}:")]
        for run in runs
    ]
    return [name for name in held[0] if all(name in others for others in held)]


def prediction_measure(runs: Sequence[Run], groups: Sequence[str]) -> str | None:
    """Of the output: accuracy if all runs have it, else consistency, else nothing."""
    for measure in (RIGHT, SAME):
        if groups and all(run.has(g, measure) for run in runs for g in groups):
            return measure
    return None


def known(table: Tensor) -> Tensor:
    """A table in doubles; what is not finite is not known: NaN."""
    table = table.double()
    return table.masked_fill(~table.isfinite(), torch.nan)


def grid_rows(run: Run, groups: Sequence[str], measure: str, place: str) -> list[Row]:
    """A measure along the axis of series, as the mean over these: a row a value."""
    axis = run.seeds[0].axes[groups[0]]
    tables = [
        torch.stack([seed.tables[g][measure][place].double() for g in groups]).mean(0)
        for seed in run.seeds
    ]
    told = {"run": run.name, "measure": measure, "place": place}
    means, lows, highs = pooled(tables, grid=True)
    return [
        {**told, "axis": axis.name, "unit": axis.unit, "at": at}
        | {"mean": float(mean), "low": float(low), "high": float(high)}
        for at, mean, low, high in zip(axis.values, means, lows, highs, strict=True)
    ]


def output_row(run: Run, measure: str) -> Row:
    """A measure of the output: one row."""
    tables = [seed.tables["output"][measure][PLACE].double() for seed in run.seeds]
    mean, low, high = (float(each) for each in pooled(tables, grid=False))
    told = {"run": run.name, "measure": measure}
    return {**told, "mean": mean, "low": low, "high": high}


def pooled(tables: Sequence[Tensor], grid: bool) -> tuple[Any, Any, Any]:
    """Mean, lower and upper end of tables, one a seed.

    Args:
        tables: `[N, G]` or `[G]` with a grid; `[N, T]`, `[N]` or a number without one.
        grid: the last dimension is kept, and the results are `[G]`.

    Returns:
        Ends are NaN where there is nothing to draw from: one number of one seed.
    """
    tables = [known(table) for table in tables]
    of_images = tables[0].dim() > int(grid)
    if of_images and not grid:
        tables = [table.reshape(len(table), -1).nanmean(1) for table in tables]
    if len(tables) > 1:
        means = [table.nanmean(0) if of_images else table for table in tables]
        return spread(torch.stack(means).numpy())
    if of_images:
        return interval(tables[0].numpy())
    nothing = torch.full_like(tables[0], torch.nan).numpy()
    return tables[0].numpy(), nothing, nothing
