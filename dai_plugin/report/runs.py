"""Measured networks beside each other: what may be compared, what is pooled.

Folders whose networks have one name are seeds of one network, a `Run`. Two runs are
comparable if they saw the same versions of the same images.
"""

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from dai_plugin.measures.results import Measures

logger = logging.getLogger("dai_plugin")

# What was measured: of two networks, each has to be the same.
COMPARED = ("data", "images", "size", "scheme", "num_transforms", "seed", "units")
# How the network takes its images: of seeds of one network, the same as well.
_OF_SEEDS = "normalization"

Found = tuple[Path, Measures]
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One network, trained once or from several seeds.

    Attributes:
        name: what reports call it.
        seeds: the measures of each seed; all have the same groups and layers.
        folders: where they were read from, in the same order.
    """

    name: str
    seeds: list[Measures]
    folders: list[Path]

    def has(self, group: str, measure: str) -> bool:
        """Whether all seeds have a measure."""
        return all(measure in seed.tables.get(group, {}) for seed in self.seeds)

    def places(self, group: str, measure: str) -> list[str]:
        """Of a measure: the layers in their order, or "output"."""
        return list(self.seeds[0].tables[group][measure])


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs of folders that hold measures, in their order.

    Seeds of one name are pooled, which is logged. Networks of one name whose groups or
    layers differ are no seeds of each other: their names get the folders' beside them.

    Raises:
        FileNotFoundError: a folder holds no measures.
        ValueError: a folder is given twice, one name has the same weights twice, or
            other images, versions or values were measured.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("no folders to report on; give those that hold measures")
    for twice in _alike(paths, lambda path: path.resolve()):
        raise ValueError(f"{twice[0]} and {twice[1]} are one folder: give it once")
    found = [(path, Measures.load(path)) for path in paths]
    for one, other in combinations(found, 2):
        if apart := differing(one[1], other[1]):
            _refuse(one[0], other[0], *apart)
    runs = [
        run
        for name, seeds in _groups(found, lambda each: str(each[1].about["name"]))
        for run in _runs(name, seeds)
    ]
    for run in runs:
        if len(run.seeds) > 1:
            where = ", ".join(str(folder) for folder in run.folders)
            logger.warning("%s: %d seeds, pooled: %s", run.name, len(run.seeds), where)
    return runs


def tails(paths: Sequence[Path]) -> list[str]:
    """The last parts of different paths, as few of them as tell all apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        ends = [tuple(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ["/".join(end) for end in ends]
    return [str(path) for path in paths]


def _runs(name: str, seeds: list[Found]) -> Iterable[Run]:
    """One run, or as many as there are different networks of the name."""
    for (one, _), (two, measures) in _alike(seeds, _weights):
        raise ValueError(
            f"{one} and {two} hold the same network, {name!r} with the weights "
            f"{measures.about['weights']}: they are no two seeds; leave one out, or "
            "measure it again under another name"
        )
    kinds = _groups(seeds, lambda each: _shape(each[1]))
    several = len(kinds) > 1
    names = tails([path for path, _ in seeds])
    own = {path: tail for (path, _), tail in zip(seeds, names, strict=True)}
    for _, same in kinds:
        for other in same[1:]:
            taken = [each[1].about.get(_OF_SEEDS) for each in (same[0], other)]
            if taken[0] != taken[1]:
                _refuse(same[0][0], other[0], _OF_SEEDS, *taken)
        told = f"{name} ({own[same[0][0]]})" if several else name
        yield Run(told, [each for _, each in same], [path for path, _ in same])
    if several:
        logger.warning(
            "%s: %d networks of this name have other groups or layers than each "
            "other; they are told apart by their folders",
            name,
            len(kinds),
        )


def differing(one: Measures, other: Measures) -> tuple[str, Any, Any] | None:
    """What forbids a comparison, and its two values; None if nothing does."""
    for key in COMPARED:
        if one.about.get(key) != other.about.get(key):
            return key, one.about.get(key), other.about.get(key)
    told, its_told = (each.about.get("settings", {}) for each in (one, other))
    for group in told.keys() & its_told.keys():
        if told[group] != its_told[group]:
            return f"settings of {group}", told[group], its_told[group]
    for group in one.axes:
        grid, its = one.axes[group], other.axes.get(group)
        if its is not None and its.values != grid.values:
            return f"values of {group}", grid.values, its.values
    if apart := other_classes(one.labels, other.labels):
        return "labels", *apart
    return None


def other_classes(one: Tensor | None, other: Tensor | None) -> tuple[str, str] | None:
    """Two images that only one of two sets of labels puts into one class, in words.

    None if there are none: classes may have other numbers, in the order of each
    network's outputs.
    """
    if one is None or other is None:
        return None
    firsts: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for i, labels in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        same = [f.setdefault(n, i) for f, n in zip(firsts, labels, strict=True)]
        if same[0] != same[1]:
            j = max(k for k in same if k != i)
            told = f"images {j} and {i} in one class", f"images {j} and {i} in two"
            return told if same[0] == j else (told[1], told[0])
    return None


def _refuse(one: Path, other: Path, key: str, first: Any, second: Any) -> None:
    raise ValueError(
        f"{one} and {other} cannot be compared: their {key} differ, {first!r} and "
        f"{second!r}; measure both with the same"
    )


def _weights(found: Found) -> Hashable:
    return str(found[1].about["weights"])


def _shape(measures: Measures) -> Hashable:
    """Groups, measures and places: what seeds of one network share."""
    return tuple(
        (group, measure, tuple(places))
        for group, tables in measures.tables.items()
        for measure, places in tables.items()
    )


def _groups(found: Iterable[T], key: Any) -> list[tuple[Any, list[T]]]:
    groups: dict[Hashable, list[T]] = {}
    for each in found:
        groups.setdefault(key(each), []).append(each)
    return list(groups.items())


def _alike(found: Iterable[T], key: Any) -> list[list[T]]:
    """Those of which there are several, by a key."""
    return [same[:2] for _, same in _groups(found, key) if len(same) > 1]
