"""Running values and the lines that show them, in torchvision's form."""

import datetime
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from tqdm import tqdm


class Meter:
    """Median of the last 20 values and mean of all."""

    def __init__(
        self, recent: Iterable[float] = (), total: float = 0, count: float = 0
    ):
        self.recent = deque(recent, maxlen=20)
        self.total, self.count = total, count

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


class Tally:
    """The values of an epoch so far, in one process.

    Attributes:
        shown: meters of the values that the lines show.
        layers: meters of each term's loss at each layer, by column of metrics.csv.
        seen: images so far.
        rows: that the network ran on, views among them.
        right: those of them that were classified right.
    """

    def __init__(self) -> None:
        self.shown: dict[str, Meter] = {}
        self.layers: dict[str, Meter] = {}
        self.seen = self.rows = 0
        self.right: Tensor | int = 0

    def update(
        self, count: int, shown: dict[str, float], layers: dict[str, float]
    ) -> None:
        """Adds values that stand for `count` images."""
        for meters, values in ((self.shown, shown), (self.layers, layers)):
            for name, value in values.items():
                meters.setdefault(name, Meter()).update(value, count)

    def means(self) -> dict[str, float]:
        """The columns of metrics.csv."""
        layers = {name: meter.mean for name, meter in self.layers.items()}
        return {
            "loss": self.shown["loss"].mean,
            "task_loss": self.shown["task"].mean,
            "invariance_loss": self.shown["inv"].mean,
            "train_acc1": 100 * int(self.right) / self.seen,
            **layers,
        }

    def state_dict(self) -> dict[str, Any]:
        """In plain types."""
        shown, layers = (
            {name: (list(m.recent), m.total, m.count) for name, m in meters.items()}
            for meters in (self.shown, self.layers)
        )
        counts = {"seen": self.seen, "rows": self.rows, "right": int(self.right)}
        return {"shown": shown, "layers": layers, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.shown, self.layers = (
            {name: Meter(*values) for name, values in state[part].items()}
            for part in ("shown", "layers")
        )
        self.seen, self.rows, self.right = (
            state[name] for name in ("seen", "rows", "right")
        )


class Pace:
    """Goes through the batches of an epoch, with a line now and then, and takes time.

    Args:
        header: what each line starts with.
        every: number of batches between two lines.
        show: whether this process prints.

    Attributes:
        seconds: since the present batch was asked for; at the end, of all batches.
        waited: seconds of waiting for batches so far.
    """

    def __init__(self, header: str, every: int, show: bool) -> None:
        self.header, self.every, self.show = header, every, show
        self.began = self._asked = time.perf_counter()
        self.waited = 0.0

    @property
    def seconds(self) -> float:
        """Since the present batch was asked for."""
        return time.perf_counter() - self._asked

    @property
    def total(self) -> float:
        """Seconds since the first batch was asked for."""
        return time.perf_counter() - self.began

    def over(
        self, batches: Iterable[Any], tally: Tally, first: int, total: int
    ) -> Iterator[tuple[int, bool, Any]]:
        """Number, whether its values are to be read and shown, batch.

        Args:
            batches: those that are left of the epoch.
            tally: the values that a line shows.
            first: number of the first of them.
            total: batches of the whole epoch.
        """
        steps, waits = Meter(), Meter()
        hidden = None if self.show else True  # None: hidden unless on a terminal
        bar = tqdm(
            batches, self.header, total, leave=False, disable=hidden, initial=first
        )
        self.began = self._asked = time.perf_counter()
        for i, batch in enumerate(bar, first):
            waits.update(self.seconds)
            self.waited += self.seconds
            shown = i % self.every == 0 or i == total - 1
            yield i, shown, batch
            steps.update(self.seconds)
            self._asked = time.perf_counter()
            if shown and self.show:
                left = datetime.timedelta(seconds=int(steps.mean * (total - i - 1)))
                values = "  ".join(f"{k}: {v}" for k, v in tally.shown.items())
                bar.write(
                    f"{self.header}  [{i:{len(str(total))}}/{total}]  eta: {left}  "
                    f"{values}  time: {steps}  data: {waits}"
                )
        took = datetime.timedelta(seconds=int(self.total))
        if self.show:
            bar.write(f"{self.header} Total time: {took}")
