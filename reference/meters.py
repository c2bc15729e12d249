"""Running values and the lines that show them, in torchvision's form."""

import csv
import datetime
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Meter:
    """Median of the last 20 values and mean of all."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=20)
        self.total = self.count = 0.0

    def update(self, value: float, count: float = 1) -> None:
        """Adds a value that stands for `count` items."""
        self.recent.append(value)
        self.total += value * count
        self.count += count

    @property
    def mean(self) -> float:
        """Of everything so far; 0 without a value."""
        return self.total / max(self.count, 1)

    def __str__(self) -> str:
        return f"{statistics.median(self.recent or [0.0]):.4f} ({self.mean:.4f})"


class Meters:
    """Named meters, and a line now and then while one goes through batches.

    Args:
        header: what each line starts with.
        every: number of batches between two lines.
        show: whether this process prints.
    """

    def __init__(self, header: str, every: int, show: bool) -> None:
        self.header, self.every, self.show = header, every, show
        self.meters: dict[str, Meter] = {}
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the present batch was asked for."""
        return time.perf_counter() - self._began

    def update(self, count: float = 1, **values: float) -> None:
        """Adds to the meters of these names."""
        for name, value in values.items():
            self.meters.setdefault(name, Meter()).update(value, count)

    def __getitem__(self, name: str) -> float:
        return self.meters[name].mean

    def over(self, batches: Iterable[Any]) -> Iterator[tuple[bool, Any]]:
        """Batches, each with whether its values are to be read and shown."""
        total, start = len(batches), time.perf_counter()
        steps, waits = Meter(), Meter()
        hidden = None if self.show else True  # None: hidden unless on a terminal
        bar = tqdm(batches, desc=self.header, leave=False, disable=hidden)
        end = start
        for i, batch in enumerate(bar):
            waits.update(time.perf_counter() - end)
            self._began = end
            shown = i % self.every == 0 or i == total - 1
            yield shown, batch
            steps.update(time.perf_counter() - end)
            end = time.perf_counter()
            if shown and self.show:
                left = datetime.timedelta(seconds=int(steps.mean * (total - i - 1)))
                values = "  ".join(f"{k}: {v}" for k, v in self.meters.items())
                bar.write(
                    f"{self.header}  [{i:{len(str(total))}}/{total}]  eta: {left}  "
                    f"{values}  time: {steps}  data: {waits}"
                )
        took = datetime.timedelta(seconds=int(time.perf_counter() - start))
        if self.show:
            bar.write(f"{self.header} Total time: {took}")


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a CSV file; writes its header first if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
