"""The images that scores are taken of: batches, and their transformed versions."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, RandomSampler

from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import expand, mix_seed, transform
from dai_plugin.views.normalization import (
    Normalization,
    Statistics,
    from_batch,
    known_normalization,
)
from dai_plugin.views.schemes import Scheme, Transform
from dai_plugin.views.statistics import check_images

logger = logging.getLogger("dai_plugin")

_BATCH = 128


class Batches:
    """Batches of normalised float images on their device, again and again."""

    def __init__(
        self,
        base: nn.Module,
        data: Tensor | Iterable[Any],
        mean: Statistics | None,
        std: Statistics | None,
        device: torch.device | str,
    ) -> None:
        if isinstance(data, Tensor):
            data = torch.split(data, _BATCH)
        if isinstance(data, Iterator):
            raise TypeError(
                f"data is a one-shot {type(data).__name__}, but two passes are made; "
                "give a tensor, a list of batches or a DataLoader"
            )
        if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
            logger.warning("the DataLoader shuffles: scores come in an unknown order")
        self._data, self._device = data, device
        self.normalization = known_normalization(base, mean, std)

    def __iter__(self) -> Iterator[Tensor]:
        count = 0
        for batch in self._data:
            leaves = pytree.tree_leaves(batch)
            found = [x for x in leaves if isinstance(x, Tensor) and x.dim() == 4]
            if not found:
                raise ValueError("a batch of data holds no images [B, C, H, W]")
            count += found[0].shape[0]
            if found[0].shape[0]:
                yield self._prepare(found[0].to(self._device))
        if not count:
            raise ValueError("data holds no images")

    def _prepare(self, images: Tensor) -> Tensor:
        check_images(images)
        if self.normalization is None:
            self.normalization = from_batch(images)
            logger.warning("normalisation taken: %s", self.normalization)
        return self.normalization.prepare(images)

    def pixels(self, images: Tensor) -> Tensor:
        """The [0, 1] pixels of prepared images."""
        assert self.normalization is not None
        mean, std = self.normalization.tensors(images)
        return images.float() * std + mean


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
        for k in range(self.count):
            yield self._transformed(images, k, normalization)
        self.first += images.shape[0] * self.processes

    def _transformed(self, images: Tensor, k: int, known: Normalization) -> Tensor:
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
            return transform(images, self.scheme, drawn, known, out=out)[0]
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
        return torch.cat(rows)
