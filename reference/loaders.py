"""Batches of images: who loads them, in which order, and with which random numbers."""

import argparse
import os
import random
from collections.abc import Callable

import torch
from faults import ignore_signals
from parts import InMemory
from sampling import EpochSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dai_plugin.views.expand import mix_seed

Augment = Callable[[Tensor], Tensor]


class Seeded(Dataset):
    """A data set, augmented with the random numbers of (seed, epoch, key).

    So an image is the same whichever worker loads it, and when; its repetitions in an
    epoch, which `EpochSampler` gives keys of their own, are not.

    Args:
        dataset: uint8 images and their classes.
        seed: of the run.
        augment: what is done to an image, if anything.
    """

    def __init__(self, dataset: Dataset, seed: int, augment: Augment | None) -> None:
        self._dataset, self._seed, self._augment = dataset, seed, augment
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: int) -> tuple[Tensor, int]:
        seed = mix_seed(self._seed, self.epoch, key)
        if get_worker_info() is not None:
            return self._item(key, seed)
        with torch.random.fork_rng(devices=[]):
            before = random.getstate()
            item = self._item(key, seed)
            random.setstate(before)
        return item

    def _item(self, key: int, seed: int) -> tuple[Tensor, int]:
        torch.manual_seed(seed)
        random.seed(seed)
        image, target = self._dataset[key % len(self._dataset)]
        return self._augment(image) if self._augment else image, target


class TrainingBatches:
    """One process's batches of an epoch, from any of them on.

    Args:
        images: the data set.
        args: `--batch-size`, `--workers`, `--seed`, `--ra-sampler`, `--ra-reps`.
        augment: what the workers do to an image, if anything.
        rank: of this process.
        processes: how many there are.

    Attributes:
        workers: that load images.
    """

    def __init__(
        self,
        images: Dataset,
        args: argparse.Namespace,
        augment: Augment | None,
        rank: int,
        processes: int,
    ) -> None:
        self._data = Seeded(images, args.seed, augment)
        self._sampler = EpochSampler(
            len(self._data),
            args.batch_size,
            args.seed,
            rank,
            processes,
            repetitions=args.ra_reps if args.ra_sampler else 1,
        )
        idle = in_memory(images) and augment is None
        # Its own generator: else each epoch's start would draw from the global one.
        common = _common(args, idle) | {"generator": torch.Generator()}
        self.workers = common["num_workers"]
        self._loader = DataLoader(
            self._data, args.batch_size, sampler=self._sampler, **common
        )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._sampler.batches

    def epoch(self, epoch: int, first: int) -> DataLoader:
        """The batches of that epoch from number `first` on."""
        self._sampler.set_epoch(epoch)
        self._sampler.skip(first)
        self._data.epoch = epoch
        return self._loader


def test_batches(images: Dataset, args: argparse.Namespace) -> DataLoader:
    """Batches of held-out images, as large as a training step's rows."""
    # A generator of its own: testing must not move the stream that training draws from.
    return DataLoader(
        images,
        args.batch_size * args.num_views,
        generator=torch.Generator(),
        **_common(args, in_memory(images)),
    )


def _common(args: argparse.Namespace, idle: bool) -> dict[str, object]:
    """What all loaders have; `idle`: there is nothing for workers to do."""
    cores = os.cpu_count() or 1
    return {
        "num_workers": 0 if idle else min(args.workers, cores),
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": ignore_signals,
    }


def in_memory(images: Dataset) -> bool:
    """Whether there is nothing to load."""
    return isinstance(images, InMemory)
