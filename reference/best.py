"""Which epoch is the best one, and why."""

from typing import Any

Row = dict[str, Any]


def best_of(rows: list[Row]) -> Row:
    """The row of metrics.csv with the highest Acc@1, the first of equals."""
    return max(rows, key=lambda row: row["acc1"])


def results(rows: list[Row], done: int, epochs: int) -> dict[str, Any]:
    """For run.json: how far the run is, its last epoch and its best.

    Args:
        rows: of metrics.csv.
        done: epochs so far.
        epochs: that are asked for.
    """
    found: dict[str, Any] = {"epochs_done": done, "finished": done >= epochs}
    if not rows:
        return found
    return found | {
        "last": rows[-1],
        "best": best_of(rows) | {"why": "highest acc1, the first of equals"},
    }


def told(rows: list[Row]) -> str:
    """A line about the best epoch."""
    row = best_of(rows)
    return (
        f"best.pth: epoch {row['epoch']}, the highest Acc@1 ({row['acc1']:.3f}) of "
        f"{len(rows)} epoch(s), the first of equals"
    )
