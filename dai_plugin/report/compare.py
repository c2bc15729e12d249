"""Is a network worse than the one before it? For continuous integration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from dai_plugin.measures.results import Measures
from dai_plugin.report.bootstrap import difference
from dai_plugin.report.naming import names, quantity
from dai_plugin.report.quantities import Estimate, values
from dai_plugin.report.runs import differing

_ROUNDING = 1e-9  # 0.90 - 0.88 is a little more than 0.02


@dataclass(frozen=True)
class Compared:
    """One measure of two networks.

    Attributes:
        measure: its name, as it was asked for.
        old: mean of the old network.
        new: mean of the new one, over the images of which the old one has a number:
            NaN if it has none of one of these.
        change: new less old, paired over the images.
        allowed: the loss that is allowed; None if none was asked for.
        failed: the loss is larger than allowed, or one of the means is NaN.
    """

    measure: str
    old: float
    new: float
    change: Estimate
    allowed: float | None
    failed: bool


@dataclass(frozen=True)
class Comparison:
    """All measures that were compared.

    Attributes:
        rows: one a measure.
        names: of the old and of the new network.
    """

    rows: list[Compared]
    names: tuple[str, str]

    @property
    def failed(self) -> bool:
        """Whether any measure lost more than allowed."""
        return any(row.failed for row in self.rows)

    def text(self) -> str:
        """A table for the terminal, and a line that says what it comes to."""
        head = ["measure", "old", "new", "change", "95 % interval", "allowed", ""]
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join(
            [f"{self.names[0]} -> {self.names[1]}", *lines, self._verdict()]
        )

    def _verdict(self) -> str:
        failed = [row.measure for row in self.rows if row.failed]
        if failed:
            return f"failed: {', '.join(failed)}"
        limited = sum(row.allowed is not None for row in self.rows)
        return f"passed: {limited} of {limited}" if limited else "nothing was limited"


def compare(old: Measures, new: Measures, drops: Mapping[str, float]) -> Comparison:
    """Compares a new network with an old one, measured on the same versions.

    Args:
        old: the measures that count as good.
        new: those in question.
        drops: by name of a measure (`naming.py`), how much it may lose: fall, or
            rise if less of it is better ("calibration_error", "normalized_variance",
            "first_component"). Empty: all measures are shown, and nothing can fail.

    Raises:
        ValueError: the two saw other images or versions, a name is unknown to either,
            or a limit is no number of 0 or more.
    """
    check_alike(old, new)
    for name, most in drops.items():
        if not 0 <= most < math.inf:
            raise ValueError(
                f"{name} may lose {most}, but a limit is a number of 0 or more; give "
                "how much it may lose, such as 0.02"
            )
    shared = [name for name in names(old) if "/" not in name and name in names(new)]
    rows = [_compared(old, new, name, drops.get(name)) for name in drops or shared]
    return Comparison(rows, (str(old.about["name"]), str(new.about["name"])))


def _compared(
    old: Measures, new: Measures, name: str, allowed: float | None
) -> Compared:
    of, of_new = quantity(name, old), quantity(name, new)
    if {*of.groups} != {*of_new.groups}:
        raise ValueError(
            f"{name} is the mean over {', '.join(of.groups)} of the old network, but "
            f"over {', '.join(of_new.groups)} of the new one; measure both alike"
        )
    before, after = np.broadcast_arrays(values(old, of), values(new, of_new))
    known = ~np.isnan(before)
    first, last = (float(v[known].mean()) if known.any() else nan
                   for v in (before, after))  # fmt: skip
    change = Estimate(last - first, nan, nan)
    if before.ndim and known.any():
        change = Estimate(*map(float, difference(after[known], before[known])))
    lost = last - first if of.lower_is_better else first - last
    # The loss from or to nothing is no number.
    failed = allowed is not None and not lost <= allowed + _ROUNDING
    return Compared(name, first, last, change, allowed, failed)


def check_alike(old: Measures, new: Measures) -> None:
    """Both saw the same versions of the same images.

    Raises:
        ValueError: they did not; says what differs.
    """
    if found := differing(old, new):
        key, before, after = found
        raise ValueError(
            f"{old.about['name']} (old) and {new.about['name']} (new) cannot be "
            f"compared: their {key} differ, {before!r} and {after!r}; measure both "
            "with the same"
        )


def _cells(row: Compared) -> list[str]:
    change = row.change
    inside = "-"
    if not math.isnan(change.low):
        inside = f"{change.low:+.4f} to {change.high:+.4f}"
    told = [f"{n:.4f}" for n in (row.old, row.new)] + [
        f"{round(change.mean, 4) + 0.0:+.4f}"
    ]
    allowed = "-" if row.allowed is None else f"{row.allowed:g}"
    verdict = "" if row.allowed is None else "FAILED" if row.failed else "ok"
    numbers = ["-" if "nan" in cell else cell for cell in told]
    return [row.measure, *numbers, inside, allowed, verdict]
