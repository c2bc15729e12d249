"""How far a long measurement is, and how long it may take."""

import sys
import time
from collections.abc import Iterator

from dai_plugin.measures.data import Batch
from dai_plugin.measures.passes import Over

_LONG = 10.0  # seconds that are worth a line of their own


class Progress:
    """Bars on stderr, one a pass, and estimates from the time that the first took.

    Args:
        shown: whether there are any.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._images = 0
        self._seconds = 0.0

    def bar(self, title: str) -> Over:
        """What batches of a pass go through; counts images."""

        def over(batches: Iterator[Batch]) -> Iterator[Batch]:
            from tqdm import tqdm

            started, total = time.monotonic(), self._images or None
            bar = tqdm(desc=title, unit="image", total=total, disable=not self._shown)
            count = 0
            with bar:
                for batch in batches:
                    yield batch
                    count += len(batch.images)
                    bar.update(len(batch.images))
            if not self._images:  # the first pass: each image runs once
                self._images, self._seconds = count, time.monotonic() - started

        return over

    def expect(self, title: str, forwards: float) -> None:
        """Says how long so many forwards of each image may take, if that is long."""
        seconds = forwards * self._seconds
        if self._shown and seconds > _LONG:
            about = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
            print(f"{title}: about {about}", file=sys.stderr)
