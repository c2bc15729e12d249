"""Two passes over a data set, in which the network shows all that measures are made of.

In the first it sees each image, for what has to be known of all of them (means); in the
second each image and its versions. An observer takes numbers meanwhile: a group of
measures is one. Activations are kept for the batch alone that runs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from dai_plugin.losses.weights import Key, key_name
from dai_plugin.measures.data import Batch, Batches
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.versions import Version
from dai_plugin.views.normalization import Normalization

PIXELS = "input"  # the layer before all others

Tables = dict[str, dict[str, Tensor]]
Over = Callable[[Iterator[Batch]], Iterator[Batch]]


class Source(Protocol):
    """What makes versions of images: transformations, corruptions, attacks."""

    def check(self, batch: Batch) -> None:
        """Looks, in the first pass, whether it can make versions of such images.

        Raises:
            ValueError: it cannot.
            Unfit: it cannot, and is to be left out.
        """

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """Versions of one batch after another, as many of each."""


class Observer(Protocol):
    """What looks on while the network runs.

    Attributes:
        layers: that it looks at, as `select_layers` gives them, and PIXELS.
    """

    layers: Sequence[str]

    def along(self) -> "Observer":
        """One for a second pass of its own, whose versions lie along an axis.

        It knows what the first pass told.
        """

    def first(self, name: str, activation: Tensor, batch: Batch) -> None:
        """A layer's activation of images `[B, ...]`, in the first pass."""

    def clean(self, name: str, activation: Tensor, batch: Batch) -> None:
        """The same in the second pass."""

    def version(
        self, name: str, activation: Tensor, clean: Tensor, version: Version
    ) -> None:
        """The activation of a version, beside that of the images."""

    def ended(self, batch: Batch) -> None:
        """All versions of the batch have run."""

    def tables(self) -> Tables:
        """Measures by name and place (a layer): each number is the mean of a tensor."""


def observed(observers: Sequence[Observer]) -> list[str]:
    """The layers that any of them looks at, without the pixels."""
    names = [name for observer in observers for name in observer.layers]
    return [name for name in dict.fromkeys(names) if name != PIXELS]


def first_pass(
    taps: Taps,
    batches: Batches,
    observers: Sequence[Observer],
    over: Over = iter,
) -> None:
    """The network sees each image once; `over` looks at the batches that go by."""
    with taps.looking():
        for batch in over(batches.batches()):

            def show(key: Key, activation: Tensor, batch: Batch = batch) -> None:
                for each in _of(observers, key):
                    each.first(key_name(key), activation, batch)

            _run(taps, batch.images, batch.pixels, show)


def second_pass(
    taps: Taps,
    batches: Batches,
    source: Source,
    observers: Sequence[Observer],
    over: Over = iter,
) -> None:
    """The network sees each image and its versions."""
    with taps.looking():
        for batch in over(batches.batches()):
            _second(taps, batches, batch, source, observers)
            for observer in observers:
                observer.ended(batch)


def _second(
    taps: Taps,
    batches: Batches,
    batch: Batch,
    source: Source,
    observers: Sequence[Observer],
) -> None:
    kept: dict[Key, Tensor] = {}

    def keep(key: Key, activation: Tensor) -> None:
        spoiled = key in taps.overwritten
        kept[key] = activation.clone() if spoiled else activation
        for each in _of(observers, key):
            each.clean(key_name(key), activation, batch)

    _run(taps, batch.images, batch.pixels, keep)
    assert batches.normalization is not None
    for version in source.versions(batch, batches.normalization):

        def compare(key: Key, activation: Tensor, version: Version = version) -> None:
            for each in _of(observers, key):
                each.version(key_name(key), activation, kept[key], version)

        _run(taps, version.images, batches.pixels(version.images), compare)


def _run(
    taps: Taps, images: Tensor, pixels: Tensor, show: Callable[[Key, Tensor], None]
) -> None:
    show((PIXELS, 0), pixels)
    taps.run(images, show)


def _of(observers: Sequence[Observer], key: Key) -> list[Observer]:
    return [observer for observer in observers if key[0] in observer.layers]
