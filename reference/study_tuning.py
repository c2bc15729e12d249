"""Which setting an arm is reported with: chosen on validation images, all told."""

import csv
import io
import statistics
from collections.abc import Iterator
from typing import Any

from study_file import Study
from study_run import Place, Result
from study_table import Row
from study_trials import Cell, Trial

NOT_YET, DIVERGED = "not tuned yet", "diverged, whatever was tried"


def choose(study: Study, cell: Cell, place: Place) -> dict[str, Any] | str:
    """The candidate that is most accurate on validation images, the first of equals.

    Accuracies are means over the seeds of the tuning; a candidate that diverges with
    one of them is out.

    Returns:
        Values by path, or why there are none.
    """
    candidates, trials = cell.candidates(), study.tuning(cell)
    if not trials:
        return candidates[0]
    best, chosen = -1.0, None
    for candidate, each in zip(candidates, trials, strict=True):
        results = [place.result(trial) for trial in each]
        if None in results:
            return NOT_YET
        found = [result["accuracy"] for result in results if _whole(result)]
        mean = statistics.fmean(found) if len(found) == len(results) else -1.0
        if mean > best:
            best, chosen = mean, candidate
    return DIVERGED if chosen is None else chosen


def final_trials(study: Study, cell: Cell, place: Place) -> list[Trial]:
    """The trials to report; none where nothing is chosen."""
    chosen = choose(study, cell, place)
    return [] if isinstance(chosen, str) else study.reported(cell, chosen)


def rows(study: Study, place: Place) -> list[Row]:
    """What has come of each arm so far."""
    made = []
    for cell in study.cells:
        chosen = choose(study, cell, place)
        note, values = (chosen, {}) if isinstance(chosen, str) else ("", chosen)
        trials = final_trials(study, cell, place)
        found = {trial.seed: place.result(trial) for trial in trials}
        results = {seed: r for seed, r in found.items() if r is not None}
        edges = [path for path, value in values.items() if at_edge(cell, path, value)]
        made.append(Row(cell, values, edges, len(cell.candidates()), results, note))
    return made


def at_edge(cell: Cell, path: str, value: Any) -> bool:
    """Whether a value is the least or the greatest of three or more."""
    grid = cell.grid[path]
    numbers = all(isinstance(each, int | float) for each in grid)
    return numbers and len(grid) > 2 and value in (min(grid), max(grid))


def as_csv(study: Study, place: Place) -> str:
    """A line for each trial of the tuning that has been run, the losing ones too."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["regime", "arm", "setting", "seed", "accuracy", "diverged"])
    writer.writerows(_lines(study, place))
    return out.getvalue()


def _lines(study: Study, place: Place) -> Iterator[list[Any]]:
    for cell in study.cells:
        for candidate, each in zip(cell.candidates(), study.tuning(cell), strict=False):
            told = ", ".join(f"{path} {value}" for path, value in candidate.items())
            for trial in each:
                if (result := place.result(trial)) is not None:
                    own = result.get("accuracy", ""), result["diverged"]
                    yield [cell.regime, cell.arm, told, trial.seed, *own]


def _whole(result: Result | None) -> bool:
    return result is not None and result["diverged"] is None
