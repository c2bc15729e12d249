"""The network looks at the images: first once, then again beside versions of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from dai_plugin.measures.data import Batch, Batches
from dai_plugin.measures.output_measures import OutputMeasures
from dai_plugin.measures.passes import (
    Observer,
    Source,
    Tables,
    first_pass,
    observed,
    second_pass,
)
from dai_plugin.measures.pictures import Pictured
from dai_plugin.measures.progress import Progress
from dai_plugin.measures.results import Pictures
from dai_plugin.measures.series import Series
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.versions import Unfit

logger = logging.getLogger("dai_plugin")


class Look:
    """One look at the images is shared by all second ones.

    Args:
        model: the network.
        batches: of the images.
        observers: by the group of measures that they take.
        classes: tells which labels fit; None if none are needed for the output.
        progress: tells how far it is.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        observers: Mapping[str, Observer],
        classes: OutputMeasures | None,
        progress: Progress,
    ) -> None:
        self.batches, self._observers, self._progress = batches, observers, progress
        self._pictured, self._classes = Pictured(), classes
        several = [*observers.values(), *([] if classes is None else [classes])]
        self._first = list(dict.fromkeys(several))
        self._taps = Taps(model, observed(self._first))

    def first(self, series: Sequence[Series]) -> list[Series]:
        """The first look; in it, series are asked whether they suit the images.

        Returns:
            Those that do.

        Raises:
            ValueError: there is but one image, or a whole family does not suit.
        """
        fit = list(series)

        def over(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in self._progress.bar("images")(batches):
                fit[:] = [one for one in fit if _suits(one, batch)]
                yield batch

        first_pass(self._taps, self.batches, self._first, over)
        if self.batches.count < 2:
            raise ValueError("data holds one image: measures compare images, give more")
        self._fit_labels()
        return fit

    def versions(self, source: Source, count: int) -> dict[str, Tables]:
        """Measures of so many versions of each image, by group."""
        title, observers = ", ".join(self._observers), list(self._observers.values())
        shown = [self._pictured] if "output" in self._observers else []
        self._look(title, source, [*observers, *shown], 1.0 + count)
        return {name: each.tables() for name, each in self._observers.items()}

    def pictures(self) -> dict[str, Pictures]:
        """Of those versions, which images broke most and which held best."""
        return self._pictured.pictures()

    def along(self, series: Series) -> Tables:
        """Measures at each point of an axis."""
        observers = [each.along() for each in self._observers.values()]
        forwards = 1 + len(series.axis.values) * (1 + series.cost)
        self._look(series.name, series.source, observers, forwards)
        tables = (observer.tables() for observer in observers)
        return {name: places for each in tables for name, places in each.items()}

    def _look(
        self, title: str, source: Source, observers: list[Observer], forwards: float
    ) -> None:
        self._progress.expect(title, forwards)
        bar = self._progress.bar(title)
        second_pass(self._taps, self.batches, source, observers, bar)

    def _fit_labels(self) -> None:
        """Leaves labels out that the output has no class for."""
        output, labels = self._classes, self.batches.labels
        if output is None or labels is None:
            return
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= output.classes:
            logger.warning(
                "labels from %d to %d do not fit the network's %d classes, numbered "
                "from 0: what needs labels is left out; give data with the labels that "
                "it was trained on",
                least,
                most,
                output.classes,
            )
            self.batches.labelled, self.batches.labels = False, None


def _suits(series: Series, batch: Batch) -> bool:
    try:
        series.source.check(batch)
    except Unfit as reason:
        logger.warning("%s is left out: %s", series.name, reason)
        return False
    return True
