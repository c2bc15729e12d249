"""The images that measures are taken of: batches, their labels and names."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from dai_plugin.measures.contents import Contents, channels_of, find_contents
from dai_plugin.measures.seen import Digest, Seen
from dai_plugin.views.normalization import (
    Normalization,
    Statistics,
    channel_ranges,
    ends,
    from_batch,
    known_normalization,
)
from dai_plugin.views.statistics import check_images

logger = logging.getLogger("dai_plugin")

_BATCH = 128
# Images that are standardised one by one lie farther outside of [0, 1] than others, but
# not so far; 0 to 255 and 0 to 65535 do.
_FAR = 4.0


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

    `find_contents` says what of a batch of the data is the images, what their labels
    and names. Every pass has to give the same images in the same order.

    Args:
        base: the network, whose configuration may know the normalisation.
        data: images `[N, C, H, W]`, or an iterable of batches.
        mean: of the normalisation.
        std: of the normalisation.
        device: where the images go.

    Attributes:
        normalization: what the images carry, None until the first are seen.
        labels: of all images `[N]` after a pass, None if there are none.
        names: of all images, None if there are none.
        count: of the images.
        size: `[C, H, W]` of the images.
        digest: of their pixels, as `Digest` takes it; empty until a pass has ended.
        labelled: whether labels are looked for; setting it to False forgets them.
    """

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
        _refuse_drawing(data)
        self._data, self._device = data, device
        self._channels = channels_of(base)
        self.normalization = known_normalization(base, mean, std)
        self.labels: Tensor | None = None
        self.names: list[str] | None = None
        self.labelled = True
        self.count, self.size, self.digest = 0, [0, 0, 0], ""
        self._seen = Seen()

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.images for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        """One pass over the data.

        Raises:
            ValueError: there are no images, they are of several sizes, hold NaN, are
                others than those of the pass before, or only some batches have labels.
        """
        labels: list[Tensor | None] = []
        names: list[str] = []
        count, digest = 0, Digest()
        for batch in self._data:
            found = find_contents(batch, self._channels)
            rows = len(found.images)
            if not rows:
                continue
            if not count:
                self.size = list(found.images.shape[1:])
            self._check_size(found.images, count)
            images = self._prepare(found, count)
            pixels = self.pixels(images)
            self._seen.take(images, count)
            if not self.digest:
                digest.take(pixels)
            labels.append(found.labels if self.labelled else None)
            names += found.names
            yield Batch(count, images, pixels, labels[-1])
            count += rows
        self._seen.finish(count)
        if not count:
            raise ValueError("data holds no images")
        self.digest = self.digest or str(digest)
        self.labels, self.count = _together(labels), count
        self.names = names if len(names) == count else None

    def pixels(self, images: Tensor) -> Tensor:
        """The [0, 1] pixels of prepared images."""
        assert self.normalization is not None
        mean, std = self.normalization.tensors(images)
        return images.float() * std + mean

    def _check_size(self, images: Tensor, before: int) -> None:
        size = list(images.shape[1:])
        if size != self.size:
            raise ValueError(
                f"image {before} is of size {size}, those before it of {self.size}: "
                "measures compare all images with each other; bring them to one size"
            )

    def _prepare(self, found: Contents, before: int) -> Tensor:
        images = found.images.to(self._device)
        check_images(images)
        # Later passes are compared with the first.
        new = images.is_floating_point() and not self.digest
        if new:
            _refuse_infinite(images, found.names, before)
        if self.normalization is None:
            self.normalization = from_batch(images)
            logger.warning("normalisation taken: %s", self.normalization)
        if new and not self.normalization.none:
            _refuse_far(images, self.normalization)
        if not before and not self.digest and len(found.alike) > 1:
            logger.warning(
                "a batch holds several tensors that could be the images, of shapes %s; "
                "the first is taken",
                ", ".join(map(str, found.alike)),
            )
        images = self.normalization.prepare(images)
        # Versions are made in float32 at least; the network gets its own dtype.
        return images.to(torch.promote_types(images.dtype, torch.float32))


def _refuse_drawing(data: Iterable[Any]) -> None:
    """Raises for a DataLoader whose order is random.

    Raises:
        ValueError: so it is.
    """
    if not isinstance(data, DataLoader):
        return
    drawing = RandomSampler, SubsetRandomSampler, WeightedRandomSampler
    for sampler in (data.sampler, getattr(data.batch_sampler, "sampler", None)):
        if isinstance(sampler, drawing):
            raise ValueError(
                f"the DataLoader draws its images by a {type(sampler).__name__}, and "
                "each pass has to give the same ones in the same order: give "
                "shuffle=False and no sampler"
            )


def _refuse_infinite(images: Tensor, names: Sequence[str], before: int) -> None:
    if torch.stack(images.aminmax()).isfinite().all():
        return
    row = int(images.isfinite().flatten(1).all(1).logical_not().nonzero()[0])
    name = f" ({names[row]})" if names else ""
    raise ValueError(
        f"image {before + row}{name} holds NaN or infinite pixels: leave it out, or "
        "repair it"
    )


def _refuse_far(images: Tensor, known: Normalization) -> None:
    """Raises if floats cannot be images of that normalisation.

    Raises:
        ValueError: so it is.
    """
    values = channel_ranges(images)
    low, high = known.pixels(values)
    if low < -_FAR or high > 1 + _FAR:
        least, most = ends(values)
        raise ValueError(
            f"float images with values from {least:.4g} to {most:.4g} do not carry the "
            f"normalisation {known}: if they are 0 to 255, divide them by 255 and "
            "normalise them, or pass them as uint8; else give mean= and std="
        )


def _together(labels: list[Tensor | None]) -> Tensor | None:
    given = [each for each in labels if each is not None]
    if given and len(given) < len(labels):
        raise ValueError(
            f"{len(given)} of {len(labels)} batches hold labels [B]; give them with "
            "all batches, or with none"
        )
    return torch.cat(given) if given else None
