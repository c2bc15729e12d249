"""A number that is asked for by name, and the images that it is the mean of.

Names are those of the measures: "consistency", "score" (mean over the layers, the
pixels left out), "score:LAYER", and of series "strength:rotation/consistency",
"attacks:pgd/accuracy_transformed@8" at one value of the axis, or "corruptions/score"
(mean over all corruptions).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dai_plugin.measures.passes import PIXELS
from dai_plugin.measures.results import Measures
from dai_plugin.report.quantities import PER_IMAGE, Quantity


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
