"""A table of several runs, the seeds of a setting brought together.

python reference/compare.py runs/baseline-* runs/invariance-*

Folders whose names differ in what follows the last hyphen are seeds of one setting.
Each holds what training writes, and `summary.json` of `dai-plugin score`.
"""

import csv
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def settings(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Folders by the setting that they are seeds of."""
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        groups.setdefault(folder.name.rpartition("-")[0] or folder.name, []).append(
            folder
        )
    return groups


def values(folder: Path) -> dict[str, float]:
    """What the table shows of one run, row by row."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    about = json.loads((folder / "run.json").read_text())
    arguments = about["arguments"]
    last = {name: float(value) for name, value in rows[-1].items()}
    images = arguments["batch_size"] * arguments["gradient_accumulation_steps"]
    images *= about["processes"]
    shown = {
        "accuracy, %": last["acc1"],
        "accuracy on augmented images, %": last["acc1_augmented"],
        "task loss": last["task_loss"],
        "seconds a step": images / max(last["images_per_second"], 1e-9),
    }
    path = folder / "summary.json"
    scores: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for layers in scores.values():
        for depth, (name, layer) in enumerate(layers.items()):
            place = f"layer {depth} (`{name}`)" if depth else "pixels"
            shown[f"median score, {place}"] = layer["50%"]
    return shown


def cell(numbers: list[float]) -> str:
    """Mean over the seeds, and their standard deviation."""
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):.3g}"
    if len(numbers) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(numbers):.2g}"


def table(folders: list[Path]) -> Iterator[str]:
    """Markdown: a column a setting, a row a quantity."""
    groups = {
        name: [values(folder) for folder in members]
        for name, members in settings(folders).items()
    }
    heads = [f"{name} (n = {len(runs)})" for name, runs in groups.items()]
    yield "| | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(groups)
    found = (quantity for runs in groups.values() for run in runs for quantity in run)
    for quantity in dict.fromkeys(found):
        cells = [
            cell([run[quantity] for run in runs if quantity in run])
            for runs in groups.values()
        ]
        yield f"| {quantity} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print("\n".join(table([Path(name) for name in sys.argv[1:]])))
