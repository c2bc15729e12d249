"""Corruptions by severity: made of the images, or read from a folder beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from dai_plugin.measures.adversary import usable_pixels
from dai_plugin.measures.constants import NAMES, ConstantSet, constants_for
from dai_plugin.measures.corruptions import SMALLEST, corrupt
from dai_plugin.measures.data import Batch
from dai_plugin.measures.results import Axis
from dai_plugin.measures.series import Series
from dai_plugin.measures.stored import Stored, stored_names
from dai_plugin.measures.versions import Unfit, Version
from dai_plugin.views.expand import mix_seed
from dai_plugin.views.normalization import Normalization


@dataclass(frozen=True, eq=False)  # its fields have no hash
class Corruptions:
    """Each corruption by severity, a series each: for `measure`.

    Made here, an image's random numbers come from the seed and its place in the data
    alone, the same ones at all severities. See docs/corruptions.md.

    Attributes:
        names: of corruptions; None is the 15 of the benchmark, or all of the folder.
        severities: of 1 to 5.
        constants: as in `corrupt`.
        folder: in the layout of CIFAR-10-C, whose images are taken instead: the
            corrupted versions of the data's images, in their order.

    Raises:
        ValueError: there are no names or severities, or unknown ones.
        FileNotFoundError: the folder lacks a file.
    """

    names: Sequence[str] | None = None
    severities: Sequence[int] = (1, 2, 3, 4, 5)
    constants: ConstantSet | None = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if self.folder is not None and not self.chosen:
            raise FileNotFoundError(
                f"the folder {self.folder} holds no corrupted sets (NAME.npy beside "
                "labels.npy, in the layout of CIFAR-10-C)"
            )
        if not self.severities or not self.chosen:
            raise ValueError(
                f"corruptions need names and severities, got {list(self.chosen)} at "
                f"{list(self.severities)}"
            )
        for severity in self.severities:
            for name in self.chosen:
                if self.folder is None:
                    constants_for(name, severity, self.constants, SMALLEST)
                else:
                    Stored(self.folder, name).rows(severity)

    @property
    def chosen(self) -> Sequence[str]:
        """The names that were asked for."""
        if self.names is not None:
            return self.names
        return NAMES if self.folder is None else stored_names(self.folder)

    def series(self, model: nn.Module, seed: int) -> list[Series]:
        """A series for each corruption; the network does not matter."""
        severities = tuple(self.severities)
        axis = Axis("severity", "", tuple(map(float, severities)))
        told = f"constants {self.constants or 'by size'}"
        told = told if self.folder is None else "read from a folder"
        return [
            Series(
                f"corruptions:{name}",
                axis,
                Corrupted(name, severities, self.constants, seed)
                if self.folder is None
                else Read(Stored(self.folder, name), severities),
                settings=told,
            )
            for name in self.chosen
        ]


@dataclass(frozen=True)
class Corrupted:
    """Makes the versions of one corruption; a `Source`."""

    name: str
    severities: tuple[int, ...]
    constants: ConstantSet | None
    seed: int

    def check(self, batch: Batch) -> None:
        """Raises if images like these cannot be corrupted so.

        Raises:
            ValueError: they are too small, of other channels, or no [0, 1] pixels.
            Unfit: this corruption alone does not go with them.
        """
        channels, height, width = batch.images.shape[1:]
        if channels not in (1, 3) or min(height, width) < SMALLEST:
            raise ValueError(
                f"images are {height} x {width} with {channels} channels: corruptions "
                f"need {SMALLEST} pixels a side or more, and one channel or three; "
                "leave 'corruptions' out"
            )
        if channels == 1 and self.name == "saturate":
            raise Unfit("saturate changes colours, and images have one channel")
        usable_pixels(batch.pixels)

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """A version of the batch for each severity."""
        self.check(batch)
        pixels = usable_pixels(batch.pixels)
        seeds = [mix_seed(self.seed, batch.start + i) for i in range(len(pixels))]
        for number, severity in enumerate(self.severities):
            spoilt = corrupt(
                pixels, self.name, severity, seeds, constants=self.constants
            )
            yield Version(number, known.carry(spoilt, batch.images), None)


@dataclass(frozen=True)
class Read:
    """Reads the versions of one corruption from a folder; a `Source`."""

    stored: Stored
    severities: tuple[int, ...]

    def check(self, batch: Batch) -> None:
        """Raises if the folder's images are no versions of these.

        Raises:
            ValueError: they are of another size, fewer, or have other labels.
        """
        name, shape = self.stored.name, list(batch.images.shape[1:])
        if self.stored.shape != shape:
            raise ValueError(
                f"{name}.npy holds images of [C, H, W] = {self.stored.shape}, the data "
                f"{shape}: they are compared image by image; give the data at the "
                "stored size (and in its channels)"
            )
        end = batch.start + len(batch.images)
        if end > self.stored.count:
            raise ValueError(
                f"{name}.npy holds {self.stored.count} images a severity, the data at "
                f"least {end}: give the images that it was made of, in their order"
            )
        if batch.labels is not None:
            self._check_labels(batch.start, batch.labels)

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """The batch's images at each severity."""
        self.check(batch)
        end = batch.start + len(batch.images)
        for number, severity in enumerate(self.severities):
            levels, _ = self.stored.rows(severity, batch.start, end)
            pixels = levels.to(batch.images.device).to(batch.pixels.dtype) / 255
            yield Version(number, known.carry(pixels, batch.images), None)

    def _check_labels(self, start: int, labels: Tensor) -> None:
        for severity in self.severities:
            _, found = self.stored.rows(severity, start, start + len(labels))
            if (wrong := (found != labels).nonzero()).numel():
                i = int(wrong[0])
                raise ValueError(
                    f"labels.npy has {self.stored.count} labels a severity; that of "
                    f"image {start + i} (severity {severity}) is {int(found[i])}, but "
                    f"the data has {int(labels[i])}: give the images that the set was "
                    "made of, in their order"
                )
