"""Transformed versions of images, the same ones whatever the batches are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dai_plugin.measures.data import Batch
from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import expand, mix_seed, transform
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Parameters, Scheme, Transform


class Unfit(ValueError):
    """Such versions cannot be made of these images, or for this network; others can."""


@dataclass(frozen=True)
class Version:
    """One transformed version of a batch.

    Attributes:
        number: of the transformation.
        images: `[B, C, H, W]`, prepared as the network takes them.
        scheme: what made them.
        drawn: its parameters, on the device of the images; None where it tells none.
    """

    number: int
    images: Tensor
    scheme: Any
    drawn: Parameters | None = None


class Transformations:
    """The transformed versions of one batch after another, image by image.

    Args:
        scheme: of the transformations.
        count: of transformations of each image.
        seed: of all.
        rank: of this process, if several go through the batches in turn.
        processes: how many do; all of them have batches of the same size.
    """

    def __init__(
        self,
        scheme: Scheme | Composed | Transform,
        count: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.scheme, self.count, self.seed = scheme, count, seed
        self.rank, self.processes, self.first = rank, processes, 0
        # One stream a transformation, whose rows are taken in the order of the images.
        self.generators = [
            torch.Generator().manual_seed(mix_seed(seed, k)) for k in range(count)
        ]

    def __call__(
        self, images: Tensor, normalization: Normalization
    ) -> Iterator[Tensor]:
        """The next batch, transformed in one way after another."""
        return (version.images for version in self._versions(images, normalization))

    def check(self, batch: Batch) -> None:
        """Nothing: all images suit."""

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """The same, with the parameters that were drawn."""
        return self._versions(batch.images, known)

    def _versions(self, images: Tensor, known: Normalization) -> Iterator[Version]:
        for k in range(self.count):
            yield self._transformed(images, k, known)
        self.first += images.shape[0] * self.processes

    def _transformed(self, images: Tensor, k: int, known: Normalization) -> Version:
        count = images.shape[0]
        before = self.rank * count  # images of the other processes' batches
        if isinstance(self.scheme, Scheme):
            everywhere = self.scheme.draw(
                count * self.processes, generator=self.generators[k]
            )
            drawn = {
                name: values[before : before + count].to(images.device)
                for name, values in everywhere.items()
            }
            out = torch.empty_like(images)[None]
            moved = transform(images, self.scheme, drawn, known, out=out)[0]
            return Version(k, moved, self.scheme, drawn)
        rows = [
            expand(
                image[None],
                1,
                self.scheme,
                first_view="augmented",
                normalization=known,
                seed=mix_seed(self.seed, self.first + before + i, k),
            )
            for i, image in enumerate(images)
        ]
        return Version(k, torch.cat(rows), self.scheme)
