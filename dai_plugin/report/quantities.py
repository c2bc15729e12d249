"""A number that is asked for by name, and the images that it is the mean of.

Names are those of the measures: "consistency", "score" (mean over the layers, the
pixels left out), "score:LAYER", and of series "strength:rotation/consistency",
"attacks:pgd/accuracy_transformed@8" at one value of the axis, or "corruptions/score"
(mean over all corruptions).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dai_plugin.measures.passes import PIXELS
from dai_plugin.measures.results import Measures
from dai_plugin.report.bootstrap import (
    difference,
    difference_of_means,
    interval,
    spread,
)
from dai_plugin.report.runs import Run

# Of these less is better; of all others, more.
LOWER = (
    "calibration_error",
    "calibration_error_transformed",
    "normalized_variance",
    "first_component",
)
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


def quantity(name: str, measures: Measures) -> Quantity:
    """What a name stands for in measures.

    Raises:
        ValueError: nothing of that name was measured; all names are listed.
    """
    path, _, value = name.partition("@")
    group, slash, rest = path.partition("/")
    groups = _groups(group, measures) if slash else _holding(path, measures)
    measure, colon, place = (rest if slash else path).partition(":")
    if not groups or any(not _known(measures, g, measure) for g in groups):
        raise ValueError(_unknown(name, measures))
    places = tuple(measures.tables[groups[0]][measure])
    if colon:
        places = (place,) if place in places else ()
    elif len(places) > 1:
        places = tuple(layer for layer in places if layer != PIXELS)
    at = _at(value, measures, groups) if "@" in name else None
    if not places or at == -1:
        raise ValueError(_unknown(name, measures))
    return Quantity(groups, measure, places, at)


def names(measures: Measures) -> list[str]:
    """What may be asked for, series of one kind together, layers left out."""
    found = []
    for group, tables in measures.tables.items():
        some = [measure for measure in tables if _known(measures, group, measure)]
        start = "" if group in PER_IMAGE else f"{group}/"
        found += [start + measure for measure in some]
    return found


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
    known = np.stack([of_images for _, of_images in seeds]).all(0)
    if len(seeds) > 1:
        found = spread(np.stack([_mean(columns) for columns, _ in seeds]))
        return _estimates(*found, found[2] - found[0])
    mean, low, high = interval(seeds[0][0])
    low, high = (np.where(known, end, np.nan) for end in (low, high))
    return _estimates(mean, low, high)


def differences(run: Run, first: Run, asked: Sequence[Quantity]) -> list[Estimate]:
    """Of a run less the first: paired over images, or over the seeds of both."""
    sides = [[_columns(seed, asked) for seed in each.seeds] for each in (run, first)]
    if all(len(side) > 1 for side in sides):
        one, other = (np.stack([_mean(each) for each, _ in side]) for side in sides)
        return _estimates(*difference_of_means(one, other))
    columns = [np.stack([found for found, _ in side]).mean(0) for side in sides]
    known = np.stack([there for side in sides for _, there in side]).all(0)
    mean, low, high = difference(columns[0], columns[1])
    low, high = (np.where(known, end, np.nan) for end in (low, high))
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
    table = table.double()
    if group in measures.axes:
        return table.nanmean(-1) if at is None else table[..., at]
    if group in PER_IMAGE and table.dim():
        return table.reshape(len(table), -1).nanmean(1)
    return table.nanmean()


def _known(measures: Measures, group: str, measure: str) -> bool:
    """Whether it was measured, and is a number: no classes, no matrix."""
    places = measures.tables[group].get(measure, {})
    return bool(places) and all(
        table.dtype != torch.int64 and (group != "similarity" or table.dim() < 2)
        for table in places.values()
    )


def _groups(name: str, measures: Measures) -> tuple[str, ...]:
    if name in measures.tables:
        return (name,)
    return tuple(group for group in measures.tables if group.startswith(f"{name}:"))


def _holding(name: str, measures: Measures) -> tuple[str, ...]:
    measure = name.partition(":")[0]
    held = [g for g in PER_IMAGE if measure in measures.tables.get(g, {})]
    return tuple(held[:1])


def _at(value: str, measures: Measures, groups: Sequence[str]) -> int:
    """The place of a value on the axis that all groups share, else -1."""
    grids = {measures.axes[g].values if g in measures.axes else () for g in groups}
    told = [f"{point:g}" for point in next(iter(grids))]
    return told.index(value) if len(grids) == 1 and value in told else -1


def _unknown(name: str, measures: Measures) -> str:
    lines = "".join(f"\n  {line}" for line in _listed(measures))
    return (
        f"no measure {name!r} in the measures of {measures.about['name']}, which are"
        f"{lines}\nof a layer MEASURE:LAYER, at a value of a series MEASURE@VALUE"
    )


def _listed(measures: Measures) -> Iterator[str]:
    """A line for groups with the same measures."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for group, tables in measures.tables.items():
        some = tuple(m for m in tables if _known(measures, group, m))
        if some:
            kinds.setdefault(some, []).append(group)
    for some, groups in kinds.items():
        told = ", ".join(some)
        yield told if groups[0] in PER_IMAGE else f"{', '.join(groups)} / {told}"
    layers = _layers(measures.tables)
    if layers:
        yield f"layers: {', '.join(layers)}"


def _layers(tables: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> list[str]:
    return list(
        dict.fromkeys(n for found in tables.get("layers", {}).values() for n in found)
    )
