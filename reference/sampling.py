"""The order of the training images: a function of seed and epoch, on any ranks."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from dai_plugin.views.expand import mix_seed


class EpochSampler(Sampler[int]):
    """This rank's part of a permutation that all ranks share.

    The permutation of an epoch depends on (seed, epoch) alone. Rank r of R takes every
    R-th index from the r-th on, so that the ranks' batches number k together are batch
    number k of one process with R times the batch size. Where the length is no multiple
    of R, up to R - 1 images from the start of the permutation come once more at its
    end: every rank has as many images, and as many batches, as every other.

    The loader must not be sharded again: give it to no `accelerator.prepare`.

    With repetitions every image stands several times in a row, so that its copies go to
    different ranks, or to one batch. An epoch then has as many images as without, less
    what is no multiple of 256 (repeated augmentation, arXiv:1901.09335, as torchvision
    counts it). A repetition has a key of its own: `index + repetition * length`.

    Args:
        length: number of images in the data set.
        batch_size: images in a batch of one rank, as the loader has it.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        repetitions: times that an image is shown in a row.

    Attributes:
        epoch: whose order is given.
        start: number of this rank's images that are left out at the epoch's beginning.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repetitions: int = 1,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(
                f"length {length} and batch_size {batch_size}: both must be at least 1"
            )
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank {rank} of world_size {world_size}: ranks go from 0 to "
                "world_size - 1"
            )
        if repetitions > 1 and length < 256:
            raise ValueError(
                f"--ra-sampler counts whole portions of 256 images, and there are "
                f"{length}: leave it out"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.repetitions = repetitions
        self.epoch = self.start = 0

    @property
    def images(self) -> int:
        """Number of images that this rank sees in a whole epoch."""
        if self.repetitions > 1:
            return self.length // 256 * 256 // self.world_size
        return math.ceil(self.length / self.world_size)

    @property
    def batches(self) -> int:
        """Number of batches of a whole epoch, the same on all ranks."""
        return math.ceil(self.images / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Gives the order of that epoch, from its beginning."""
        self.epoch, self.start = epoch, 0

    def skip(self, batches: int) -> None:
        """Goes on behind so many batches of this epoch; their images are not loaded.

        Raises:
            ValueError: the epoch has not so many.
        """
        if not 0 <= batches <= self.batches:
            raise ValueError(
                f"cannot skip {batches} batches: an epoch of {self.length} images has "
                f"{self.batches} with batch_size {self.batch_size} on "
                f"{self.world_size} process(es); is the batch size another than before?"
            )
        self.start = min(batches * self.batch_size, self.images)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        repetitions = torch.arange(self.repetitions) * self.length
        keys = (order[:, None] + repetitions).flatten()
        # Wrapped, more than once if there are more ranks than images.
        places = torch.arange(self.rank, self.images * self.world_size, self.world_size)
        return iter(keys[places[self.start :] % len(keys)].tolist())

    def __len__(self) -> int:
        return self.images - self.start
