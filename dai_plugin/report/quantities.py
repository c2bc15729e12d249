"""Means of runs, their intervals and differences, of measures of groups and places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dai_plugin.measures.results import Measures
from dai_plugin.report.bootstrap import (
    difference,
    difference_of_means,
    interval,
    spread,
)
from dai_plugin.report.pooled import known
from dai_plugin.report.runs import Run

# Of these less is better; of all others, more.
LOWER = (
    "calibration_error",
    "calibration_error_transformed",
    "normalized_variance",
    "first_component",
)
# Of these neither is better.
NEITHER = ("confidence", "confidences")
PER_IMAGE = ("layers", "output")  # groups whose tables have a row for each image

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """The mean of a measure, over groups and places of equal weight.

    Attributes:
        groups: that have the measure.
        measure: its name.
        places: layers, or "output".
        at: the place on the axis; None for the mean over it.
    """

    groups: tuple[str, ...]
    measure: str
    places: tuple[str, ...]
    at: int | None = None

    @property
    def lower_is_better(self) -> bool:
        """Whether a rise is a loss."""
        return self.measure in LOWER

    def verdict(self, change: "Estimate") -> str:
        """What a difference comes to: "better", "worse", "" where it is not known."""
        if not change.apart or self.measure in NEITHER:
            return ""
        return "worse" if (change.mean > 0) == self.lower_is_better else "better"


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is.

    Attributes:
        mean: NaN if it was not measured.
        low: lower end of the interval over images, of seeds the mean less the spread;
            NaN if there is none.
        high: upper end.
        spread: standard deviation between seeds, NaN of one.
    """

    mean: float
    low: float
    high: float
    spread: float = float("nan")

    @property
    def apart(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0


def values(measures: Measures, of: Quantity) -> Floats:
    """The number for each image `[N]`, or `[]` where it is not known for each.

    NaN in a table's columns is left out; a layer or group of NaN alone makes it NaN.
    So does one that was not measured.
    """
    tables = [
        _column(measures, group, of.measure, place, of.at)
        for group in of.groups
        for place in of.places
    ]
    if any(table.dim() == 0 for table in tables):
        tables = [table.nanmean() for table in tables]
    result: Floats = torch.stack(tables).mean(0).numpy()
    return result


def estimates(run: Run, asked: Sequence[Quantity]) -> list[Estimate]:
    """Means of a run: intervals over images, of seeds the spread between them."""
    seeds = [_columns(seed, asked) for seed in run.seeds]
    of_each = np.stack([of_images for _, of_images in seeds]).all(0)
    if len(seeds) > 1:
        found = spread(np.stack([_mean(columns) for columns, _ in seeds]))
        return _estimates(*found, found[2] - found[0])
    mean, low, high = interval(seeds[0][0])
    low, high = (np.where(of_each, end, np.nan) for end in (low, high))
    return _estimates(mean, low, high)


def differences(run: Run, first: Run, asked: Sequence[Quantity]) -> list[Estimate]:
    """Of a run less the first: paired over images, or over the seeds of both."""
    sides = [[_columns(seed, asked) for seed in each.seeds] for each in (run, first)]
    if all(len(side) > 1 for side in sides):
        one, other = (np.stack([_mean(each) for each, _ in side]) for side in sides)
        return _estimates(*difference_of_means(one, other))
    columns = [np.stack([found for found, _ in side]).mean(0) for side in sides]
    of_each = np.stack([there for side in sides for _, there in side]).all(0)
    mean, low, high = difference(columns[0], columns[1])
    low, high = (np.where(of_each, end, np.nan) for end in (low, high))
    return _estimates(mean, low, high)


def _estimates(*parts: Floats) -> list[Estimate]:
    return [Estimate(*map(float, row)) for row in zip(*parts, strict=True)]


def _columns(
    measures: Measures, asked: Sequence[Quantity]
) -> tuple[Floats, NDArray[np.bool_]]:
    """`[N, K]`, and of which of the K the images are known."""
    count = int(measures.about["images"])
    found = [values(measures, of) for of in asked]
    wide = [np.broadcast_to(column, (count,)) for column in found]
    known = np.array([column.ndim > 0 for column in found])
    return np.stack(wide, 1), known


def _mean(columns: Floats) -> Floats:
    mean: Floats = torch.from_numpy(columns).nanmean(0).numpy()
    return mean


def _column(
    measures: Measures, group: str, measure: str, place: str, at: int | None
) -> Tensor:
    """`[N]`, or a number; of correlations with several subjects their mean."""
    table = measures.tables.get(group, {}).get(measure, {}).get(place)
    if table is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    table = known(table)
    if group in measures.axes:
        return table.nanmean(-1) if at is None else table[..., at]
    if group in PER_IMAGE and table.dim():
        return table.reshape(len(table), -1).nanmean(1)
    return table.nanmean()
