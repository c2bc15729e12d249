"""What a study's file declares: regimes x arms x seeds, and the grid of the tuning.

    question: what is asked
    small: what is smaller here than one would wish
    seeds: 5
    tuning_seeds: 1
    data: {name: digits, size: 16, train: 500, validation: 300, test: 360}
    network: {name: small, channels: [24, 48, 96]}
    training: {rows: 128, total_rows: 100000, augment: heavier}
    attach: null
    measures: {strength: {rotation: [30, 45]}}
    tune: {training.lr: [0.05, 0.2], training.weight_decay: [0.0005, 0.005]}
    regimes: {few: {data: {train: 50}}, more: {}}
    arms:
      plain: {}
      method: {attach: {alpha: 0.1}, tune: {attach.alpha: [0.1, 0.3]}}

A regime, then an arm, lays its sections over those of the file, mapping by mapping;
null takes away. Every arm is tuned over the grid of the file or its regime; an arm may
add settings of its own to the grid. The first arm is the one that all others are
compared with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from study_settings import Section
from study_trials import REPORTED, TUNED, Cell, Setting, Trial

COUNTS = {"seeds": 5, "tuning_seeds": 1}
SECTIONS = ("data", "network", "training", "attach", "measures", "tune")
_TUNING = 1000  # the first seed of the tuning: none of those that are reported


@dataclass(frozen=True)
class Study:
    """What a file declares.

    Attributes:
        question: that it asks.
        small: what is small about it.
        seeds: of each reported arm.
        tuning_seeds: of each candidate.
        cells: regimes x arms.
    """

    question: str
    small: str
    seeds: int
    tuning_seeds: int
    cells: list[Cell]

    @classmethod
    def read(cls, path: Path) -> Self:
        """What stands in a file.

        Raises:
            ValueError: it is no study; where and why.
            OSError: there is no such file.
        """
        try:
            told = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {error}") from error
        _check(path, told)
        cells = list(_cells(path, told))
        counts = [told.get(name, default) for name, default in COUNTS.items()]
        return cls(told["question"], told.get("small", ""), *counts, cells)

    def tuning(self, cell: Cell) -> list[list[Trial]]:
        """Trials of each candidate; none if there is one candidate alone."""
        candidates = cell.candidates()
        if len(candidates) < 2:
            return []
        seeds = range(_TUNING, _TUNING + self.tuning_seeds)
        return [[_trial(cell, c, seed, TUNED) for seed in seeds] for c in candidates]

    def reported(self, cell: Cell, chosen: Mapping[str, Any]) -> list[Trial]:
        """The trials whose results are reported, a seed each."""
        return [_trial(cell, chosen, seed, REPORTED) for seed in range(self.seeds)]


def _check(path: Path, told: Any) -> None:
    """Raises unless a file has the parts of a study."""
    mappings = ("data", "arms", "regimes", *SECTIONS)
    known = dict.fromkeys(("question", "small", *COUNTS, *mappings))
    if not isinstance(told, Mapping):
        raise ValueError(f"{path}: a study is a mapping, got {told!r:.60}")
    if unknown := [name for name in told if name not in known]:
        raise ValueError(
            f"{path}: a study has no {', '.join(map(str, unknown))}; it may have "
            f"{', '.join(known)}"
        )
    if missing := [k for k in ("question", "data", "arms") if not told.get(k)]:
        raise ValueError(f"{path}: a study needs {', '.join(missing)}")
    parts = {name: told.get(name) for name in mappings}
    for name in ("arms", "regimes"):
        inside = parts[name] if isinstance(parts[name], Mapping) else {}
        parts |= {f"{name}, {key}": value for key, value in inside.items()}
    for name, part in parts.items():
        if not isinstance(part, Mapping | None):
            raise ValueError(f"{path}: {name} must be a mapping, got {part!r:.60}")
    for name in COUNTS:
        if not isinstance(told.get(name, 1), int) or told.get(name, 1) < 1:
            raise ValueError(f"{path}: {name} is {told[name]!r}; give 1 or more")


def _trial(cell: Cell, values: Mapping[str, Any], seed: int, part: str) -> Trial:
    shown = [f"{path.split('.', 1)[1]} {value}" for path, value in values.items()]
    label = f"{cell.name}: {', '.join([*shown, f'seed {seed}'])}"
    return Trial(cell.setting.with_values(values), seed, part, cell.name, label)


def _cells(path: Path, told: Section) -> Iterator[Cell]:
    base = {name: told.get(name) for name in SECTIONS}
    for regime, its in (told.get("regimes") or {"": {}}).items():
        for arm, own in told["arms"].items():
            try:
                yield _cell(base, (regime, its or {}), (arm, own or {}))
            except (ValueError, TypeError, KeyError) as error:
                where = " / ".join(filter(None, (regime, arm)))
                raise ValueError(f"{path}, {where}: {error}") from error


def _cell(base: Section, regime: tuple[str, Section], arm: tuple[str, Section]) -> Cell:
    for name, its in (regime, arm):
        if unknown := set(its) - set(SECTIONS):
            raise ValueError(
                f"{name} has {sorted(unknown)}; it may have {', '.join(SECTIONS)}"
            )
    common = _over(base, regime[1])
    whole = _over(common, arm[1])
    shared, grid = common["tune"] or {}, whole.pop("tune") or {}
    if changed := [path for path in shared if grid.get(path) != shared[path]]:
        raise ValueError(
            f"{arm[0]} tunes {', '.join(changed)} on a grid of its own: every arm of a "
            "regime is tuned on the same; an arm may only add other settings"
        )
    empty = {name: whole[name] or {} for name in ("network", "training", "measures")}
    cell = Cell(regime[0], arm[0], Setting(whole | empty), grid)
    for candidate in cell.candidates():
        cell.setting.with_values(candidate).check()
    return cell


def _over(below: Section, above: Section) -> dict[str, Any]:
    """One mapping laid over another, mapping by mapping."""
    both = dict(below)
    for name, value in above.items():
        under = both.get(name)
        nested = isinstance(value, Mapping) and isinstance(under, Mapping)
        both[name] = _over(under, value) if nested else value
    return both
