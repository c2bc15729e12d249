"""The images that measures are taken of: batches, their labels and names."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, RandomSampler

from dai_plugin.measures.seen import Seen
from dai_plugin.views.normalization import (
    Statistics,
    from_batch,
    known_normalization,
)
from dai_plugin.views.statistics import check_images

logger = logging.getLogger("dai_plugin")

_BATCH = 128


@dataclass(frozen=True)
class Batch:
    """Prepared images, and what came with them.

    Attributes:
        start: images before it.
        images: `[B, C, H, W]` floats that carry the normalisation, on their device.
        pixels: the same in [0, 1].
        labels: `[B]` classes on the CPU, None if there are none.
    """

    start: int
    images: Tensor
    pixels: Tensor
    labels: Tensor | None


class Batches:
    """Batches of normalised float images on their device, again and again.

    Of a batch of the data, the first 4-D tensor is the images, the first integer tensor
    of one number an image their labels, and as many strings as images their names.

    Args:
        base: the network, whose configuration may know the normalisation.
        data: images `[N, C, H, W]`, or an iterable of batches.
        mean: of the normalisation.
        std: of the normalisation.
        device: where the images go.
        same: whether every pass has to give the same images in the same order.

    Attributes:
        normalization: what the images carry, None until the first are seen.
        labels: of all images `[N]` after a pass, None if there are none.
        names: of all images, None if there are none.
        count: of the images.
        size: `[C, H, W]` of the last image.
        labelled: whether labels are looked for; setting it to False forgets them.
    """

    def __init__(
        self,
        base: nn.Module,
        data: Tensor | Iterable[Any],
        mean: Statistics | None,
        std: Statistics | None,
        device: torch.device | str,
        same: bool = False,
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
        self.labels: Tensor | None = None
        self.names: list[str] | None = None
        self.labelled = True
        self.count, self.size = 0, [0, 0, 0]
        self._seen = Seen() if same else None

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        """One pass over the data.

        Raises:
            ValueError: there are no images, only some batches have labels, or (`same`)
                the images are others than those of the pass before.
        """
        labels: list[Tensor | None] = []
        names: list[str] = []
        count = 0
        for batch in self._data:
            leaves = pytree.tree_leaves(batch)
            found = [x for x in leaves if isinstance(x, Tensor) and x.dim() == 4]
            if not found:
                raise ValueError("a batch of data holds no images [B, C, H, W]")
            rows = found[0].shape[0]
            if not rows:
                continue
            images = self._prepare(found[0].to(self._device))
            if self._seen is not None:
                self._seen.take(images, count)
            labels.append(_labels(leaves, rows) if self.labelled else None)
            own = [leaf for leaf in leaves if isinstance(leaf, str)]
            names += own if len(own) == rows else []
            yield Batch(count, images, self.pixels(images), labels[-1])
            count, self.size = count + rows, list(images.shape[1:])
        if not count:
            raise ValueError("data holds no images")
        if self._seen is not None:
            self._seen.finish(count)
        self.labels, self.count = _together(labels), count
        self.names = names if len(names) == count else None

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


def _labels(leaves: list[Any], rows: int) -> Tensor | None:
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.shape == (rows,) and _integer(leaf):
            return leaf.detach().cpu().long()
    return None


def _integer(leaf: Tensor) -> bool:
    return not (leaf.is_floating_point() or leaf.is_complex()) and (
        leaf.dtype != torch.bool
    )


def _together(labels: list[Tensor | None]) -> Tensor | None:
    given = [each for each in labels if each is not None]
    if given and len(given) < len(labels):
        raise ValueError(
            f"{len(given)} of {len(labels)} batches hold labels [B]; give them with "
            "all batches, or with none"
        )
    return torch.cat(given) if given else None
