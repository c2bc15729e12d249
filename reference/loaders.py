"""Batches of images: who loads them, in which order, and with which random numbers."""

import argparse
import os
import random

import torch
from faults import ignore_signals
from parts import InMemory
from sampling import EpochSampler
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dai_plugin.views.expand import mix_seed


class Seeded(Dataset):
    """A data set whose random numbers are those of (seed, epoch, index).

    So an image is the same whichever worker loads it, and when.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        seed = mix_seed(self._seed, self.epoch, index)
        if get_worker_info() is not None:
            _seed_all(seed)
            return self._dataset[index]
        with torch.random.fork_rng(devices=[]):
            before = random.getstate()
            _seed_all(seed)
            item = self._dataset[index]
            random.setstate(before)
        return item


class TrainingBatches:
    """One process's batches of an epoch, from any of them on.

    Args:
        images: the data set.
        args: `--batch-size`, `--workers`, `--seed`.
        rank: of this process.
        processes: how many there are.

    Attributes:
        workers: that load images.
    """

    def __init__(
        self, images: Dataset, args: argparse.Namespace, rank: int, processes: int
    ) -> None:
        self._data = Seeded(images, args.seed)
        self._sampler = EpochSampler(
            len(self._data), args.batch_size, args.seed, rank, processes
        )
        # Its own generator: else each epoch's start would draw from the global one.
        common = _common(images, args) | {"generator": torch.Generator()}
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
        **_common(images, args),
    )


def _common(images: Dataset, args: argparse.Namespace) -> dict[str, object]:
    cores = os.cpu_count() or 1
    return {
        "num_workers": 0 if in_memory(images) else min(args.workers, cores),
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": ignore_signals,
    }


def in_memory(images: Dataset) -> bool:
    """Whether there is nothing to load."""
    return isinstance(images, InMemory)


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
