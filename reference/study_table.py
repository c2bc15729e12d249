"""The table of a study: means over the seeds, differences in pairs, intervals."""

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from study_run import Result
from study_trials import Cell

LEVEL = 0.95
COST = ("rows", "cpu_seconds")


@dataclass(frozen=True)
class Row:
    """One arm in one regime, with what came of it.

    Attributes:
        cell: which.
        chosen: the values that the tuning found, by path.
        edges: those of them that lie at an end of three values or more.
        tried: candidates of the tuning.
        results: by seed; those of diverged trials among them.
        note: why there is no chosen value, "" if there is.
    """

    cell: Cell
    chosen: dict[str, Any]
    edges: list[str]
    tried: int
    results: dict[int, Result]
    note: str = ""

    @property
    def diverged(self) -> int:
        """Seeds whose loss was no number."""
        return sum(r["diverged"] is not None for r in self.results.values())

    def values(self, name: str) -> dict[int, float]:
        """A quantity by seed, where there is one."""
        return {seed: r[name] for seed, r in self.results.items() if name in r}


@dataclass(frozen=True)
class Compared:
    """A quantity of one row, and how far it lies from that of the first arm.

    Attributes:
        n: seeds.
        mean: over the seeds.
        std: of one seed.
        difference: mean over the pairs of one seed, NaN for the first arm itself.
        low: end of the interval of the difference, NaN with fewer than two pairs.
        high: its other end.
    """

    n: int
    mean: float
    std: float
    difference: float
    low: float
    high: float


def compare(row: Row, first: Row, name: str) -> Compared:
    """A quantity of a row beside that of the first arm, seed by seed."""
    mine, theirs = row.values(name), first.values(name)
    found = list(mine.values())
    mean = statistics.fmean(found) if found else math.nan
    std = statistics.stdev(found) if len(found) > 1 else math.nan
    both = [] if row is first else [mine[s] - theirs[s] for s in mine if s in theirs]
    return Compared(len(found), mean, std, *interval(both))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences, and the ends of Student's interval of 95 %.

    NaN where there is nothing to take; the ends need two values. Source: Student, The
    probable error of a mean, 1908; the quantile is scipy's.
    """
    if not values:
        return math.nan, math.nan, math.nan
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * statistics.stdev(values)
    half = float(half) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def quantities(rows: Sequence[Row]) -> list[str]:
    """What was measured of the networks, in the order of the results."""
    beside = {"images", "rows", "steps", "cpu_seconds", "seconds", "losses", "diverged"}
    found = (k for row in rows for result in row.results.values() for k in result)
    return [name for name in dict.fromkeys(found) if name not in beside]


def firsts(rows: Sequence[Row]) -> dict[str, Row]:
    """The first arm of each regime."""
    return {row.cell.regime: row for row in reversed(rows)}


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each arm and quantity."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    own = ("n", "mean", "std", "difference", "low", "high", "diverged", "tried")
    writer.writerow(["regime", "arm", "quantity", *own, "chosen"])
    base = firsts(rows)
    for row in rows:
        for name in (*quantities(rows), *COST):
            of = compare(row, base[row.cell.regime], name)
            told = [of.n, *map(_plain, list(vars(of).values())[1:])]
            which = [row.cell.regime, row.cell.arm, name]
            chosen = ", ".join(f"{path} {value}" for path, value in row.chosen.items())
            writer.writerow([*which, *told, row.diverged, row.tried, chosen])
    return out.getvalue()


def as_markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table for each regime."""
    base = firsts(rows)
    for regime, first in reversed(base.items()):
        ours = [row for row in rows if row.cell.regime == regime]
        names = quantities(ours)
        if regime:
            yield from (f"## {regime}", "")
        heads = ["arm", "n", "chosen of", "thousand rows", "CPU s", *names]
        yield "| " + " | ".join(head.replace("_", " ") for head in heads) + " |"
        yield "|---|---|---|" + "---:|" * (len(heads) - 3)
        for row in ours:
            rows_, cpu = (compare(row, first, name).mean for name in COST)
            told = [row.cell.arm, _count(row), _chosen(row)]
            told += [_short(rows_ / 1000), _short(cpu)]
            told += [_cell(name, compare(row, first, name)) for name in names]
            yield "| " + " | ".join(told) + " |"
        yield ""


def _count(row: Row) -> str:
    if row.note:
        return row.note
    done = len(row.results) - row.diverged
    return f"{done}, {row.diverged} diverged" if row.diverged else str(done)


def _chosen(row: Row) -> str:
    ends = {path: "*" if path in row.edges else "" for path in row.chosen}
    shown = (f"{p.split('.')[-1]} {v}{ends[p]}" for p, v in row.chosen.items())
    return f"{row.tried}: {', '.join(shown)}" if row.chosen else str(row.tried)


def _cell(name: str, of: Compared) -> str:
    """Mean, and the difference with its interval: shares in per cent, scores as is."""
    scale, form = (1, ".3f") if name.startswith("score") else (100, ".1f")
    if math.isnan(of.mean):
        return "-"
    told = f"{scale * of.mean:{form}}"
    if math.isnan(of.difference):
        return told if math.isnan(of.std) else f"{told} ± {scale * of.std:{form}}"
    told += f" ({scale * of.difference:+{form}}"
    if not math.isnan(of.low):
        told += f" [{scale * of.low:+{form}}, {scale * of.high:+{form}}]"
    return told + ")"


def _short(value: float) -> str:
    return (
        "-" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    )


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
