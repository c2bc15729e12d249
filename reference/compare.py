"""A table of several runs, the seeds of a setting brought together.

python reference/compare.py runs/plain-* runs/baseline-* runs/invariance-*

Folders whose names differ in what follows the last hyphen are seeds of one setting.
Each holds what training writes, and `summary.json` of `dai-plugin score`.

An image costs a row a view, so a plain loop (`--num-views 1`) sees M images for the
rows of one. Runs are compared at their ends, and where each of them has come with the
images, and with the rows, that the shortest of them has had.
"""

import csv
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from best import best_of

Row = dict[str, float]
SPENT = ("images", "rows")  # what two runs may have had equally much of


class Finished(NamedTuple):
    """What a run has left in its folder."""

    rows: list[Row]
    about: dict[str, Any]
    scores: dict[str, Any]


def settings(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Folders by the setting that they are seeds of."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        groups.setdefault(folder.name.rpartition("-")[0] or folder.name, []).append(
            folder
        )
    return groups


def read(folder: Path) -> Finished:
    """What lies in a run's folder.

    Raises:
        ValueError: no run of an epoch or more.
    """
    try:
        with (folder / "metrics.csv").open() as file:
            texts = list(csv.DictReader(file))
        about = json.loads((folder / "run.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no run to compare: {Path(error.filename).name} is missing"
        ) from error
    rows = [{k: float(v) for k, v in text.items() if v} for text in texts]
    path = folder / "summary.json"
    return Finished(rows, about, json.loads(path.read_text()) if path.exists() else {})


def kind(run: Finished) -> str:
    """What the run is in the comparison."""
    flags = run.about["arguments"]
    # One view has no terms but those that compare images of a class.
    between = flags["num_views"] > 1 or flags.get("term") == "class"
    if (flags["alpha"] and between) or flags.get("beta"):
        return "method"
    return "plain loop" if flags["num_views"] == 1 else "baseline"


def cost(run: Finished) -> dict[str, float]:
    """What a step takes, and what the whole run has taken."""
    flags, last = run.about["arguments"], run.rows[-1]
    images = flags["batch_size"] * flags["gradient_accumulation_steps"]
    images *= run.about["processes"]
    return {
        "views": flags["num_views"],
        "rows a step": images * last["rows"] / last["images"],
        "seconds a step": images / max(last["images_per_second"], 1e-9),
        "images in all": last["images"],
        "rows in all": last["rows"],
    }


def reached(rows: list[Row], what: str, limit: float) -> Row | None:
    """The last epoch within so many images or rows; None: the first takes more."""
    within = [row for row in rows if row[what] <= limit]
    return within[-1] if within else None


def outcome(run: Finished, limits: dict[str, float]) -> dict[str, float]:
    """How good the network has become: at the end, at its best, at equal cost."""
    last, best = run.rows[-1], best_of(run.rows)
    found = {
        "accuracy, %": last["acc1"],
        "top-5 accuracy, %": last.get("acc5"),
        "test loss": last.get("test_loss"),
        "accuracy on augmented images, %": last["acc1_augmented"],
        "best accuracy, %": best["acc1"],
        "epoch of the best": best["epoch"],
        "task loss": last["task_loss"],
    }
    for what, limit in limits.items():
        row = reached(run.rows, what, limit)
        found[f"accuracy at {limit:.0f} {what}, %"] = row and row["acc1"]
    return {name: value for name, value in found.items() if value is not None}


def medians(scores: dict[str, Any]) -> dict[str, float]:
    """Of the invariance scores, layer by layer."""
    found = {}
    for layers in scores.values():
        for depth, (name, layer) in enumerate(layers.items()):
            place = f"layer {depth} (`{name}`)" if depth else "pixels"
            if "50%" in layer:  # that of `dai-plugin measure` has means alone
                found[f"median score, {place}"] = layer["50%"]
    return found


def cell(numbers: list[float]) -> str:
    """Mean over the seeds, and their standard deviation."""
    if not numbers:
        return "-"
    mean = statistics.mean(numbers)
    shown = f"{mean:.0f}" if abs(mean) >= 1000 else f"{mean:.3g}"
    if len(numbers) < 2:
        return shown
    return f"{shown} ± {statistics.stdev(numbers):.2g}"


def table(folders: list[Path]) -> Iterator[str]:
    """Markdown: a column a setting, a row a quantity.

    Raises:
        ValueError: a folder without a run.
    """
    groups = {
        name: [read(folder) for folder in members]
        for name, members in settings(folders).items()
    }
    runs = [run for members in groups.values() for run in members]
    limits = {what: min(run.rows[-1][what] for run in runs) for what in SPENT}
    shown = {
        name: [cost(run) | outcome(run, limits) | medians(run.scores) for run in group]
        for name, group in groups.items()
    }
    heads = [f"{name} (n = {len(group)})" for name, group in groups.items()]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(groups)
    kinds = [", ".join(dict.fromkeys(map(kind, group))) for group in groups.values()]
    yield "| training | " + " | ".join(kinds) + " |"
    found = (quantity for group in shown.values() for run in group for quantity in run)
    for quantity in dict.fromkeys(found):
        cells = [
            cell([run[quantity] for run in group if quantity in run])
            for group in shown.values()
        ]
        yield f"| {quantity} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    try:
        print("\n".join(table([Path(name) for name in sys.argv[1:]])))
    except ValueError as error:
        sys.exit(f"compare.py: error: {error}")
