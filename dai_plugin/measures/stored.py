"""Corrupted test sets that others stored as arrays, in the layout of CIFAR-10-C."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dai_plugin.measures.constants import check_severity

_LABELS = "labels"


def stored_names(folder: Path | str) -> list[str]:
    """The corruptions of which a folder holds images: its NAME.npy but labels.npy."""
    return sorted(p.stem for p in Path(folder).glob("*.npy") if p.stem != _LABELS)


def stored(folder: Path | str, name: str, severity: int) -> tuple[Tensor, Tensor]:
    """Reads the images and labels of one corruption at one severity.

    Args:
        folder: holds labels.npy, `[5 * N]`, and NAME.npy, `[5 * N, H, W, 3]` uint8,
            severities 1 to 5 one after another, as CIFAR-10-C and CIFAR-100-C are given
            out (https://zenodo.org/records/2535967). Only what is asked for is read.
        name: of the corruption.
        severity: 1 to 5.

    Returns:
        Images `[N, 3, H, W]`, uint8, and labels `[N]`, int64.

    Raises:
        FileNotFoundError: if the folder lacks a file.
        ValueError: if a file holds something else, or for other severities.
    """
    check_severity(severity)
    return Stored(folder, name).rows(severity)


@dataclass(frozen=True)
class Stored:
    """One corruption of a folder, of which rows are read as they are asked for.

    Attributes:
        folder: as in `stored`.
        name: of the corruption.

    Raises:
        FileNotFoundError: if the folder lacks a file.
        ValueError: if a file holds something else.
    """

    folder: Path | str
    name: str

    def __post_init__(self) -> None:
        self._arrays()

    @property
    def count(self) -> int:
        """Of images at each severity."""
        return len(self._arrays()[1]) // 5

    @property
    def shape(self) -> list[int]:
        """Of an image, `[C, H, W]`."""
        height, width, channels = self._arrays()[0].shape[1:]
        return [channels, height, width]

    def rows(
        self, severity: int, start: int = 0, end: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels from `start` to `end` (all), as `stored` returns them.

        Raises:
            ValueError: for other severities.
        """
        check_severity(severity)
        images, labels = self._arrays()
        before, count = (severity - 1) * self.count, self.count
        part = slice(before + start, before + (count if end is None else end))
        return images[part].permute(0, 3, 1, 2).contiguous(), labels[part].long()

    def _arrays(self) -> tuple[Tensor, Tensor]:
        """All images and labels, mapped anew: what was read before can be let go."""
        images = _read(Path(self.folder), self.name)
        labels = _read(Path(self.folder), _LABELS)
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
            raise ValueError(
                f"{self.name}.npy holds {images.dtype} {tuple(images.shape)}; "
                "uint8 [5 * N, H, W, 3] is needed"
            )
        if labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(
                f"labels.npy holds {labels.dtype} {tuple(labels.shape)}; "
                "whole numbers [5 * N] are needed"
            )
        if len(images) % 5 or len(labels) != len(images):
            raise ValueError(
                f"{self.name}.npy holds {len(images)} images and labels.npy "
                f"{len(labels)} labels; as many are needed, for five severities of "
                "equal size"
            )
        return images, labels


def _read(folder: Path, name: str) -> Tensor:
    """An array of the folder, mapped and not yet read."""
    import numpy

    place = folder / f"{name}.npy"
    if not place.is_file():
        found = ", ".join(stored_names(folder)) or "none"
        raise FileNotFoundError(f"there is no {place}; corruptions there: {found}")
    try:
        # Copy on write: a tensor must be able to write to its memory.
        return torch.from_numpy(numpy.load(place, mmap_mode="c"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is no array of numbers: {error}") from error
