"""Data sets held in memory, and fixed parts of any data set."""

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset


class InMemory(Dataset):
    """A small data set: one tensor of images and one of labels.

    Args:
        images: uint8, `[N, 3, H, W]`.
        targets: the class of each.
    """

    def __init__(self, images: Tensor, targets: Sequence[int] | np.ndarray) -> None:
        self.images = images
        self.targets = torch.as_tensor(targets, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.targets[index])


def part(data: Dataset, count: int | None, flag: str) -> Dataset:
    """So many images of a data set; all of them without a number.

    A smaller part lies within every larger one.

    Raises:
        ValueError: there are not so many.
    """
    if count is None:
        return data
    if not 1 <= count <= len(data):
        raise ValueError(
            f"{flag} {count}: the data set has {len(data)}; give a number from 1 to "
            f"{len(data)}, or leave it out for all"
        )
    targets = getattr(data, "targets", None)
    if targets is None:
        targets = [target for _, target in data]
    chosen = balanced(torch.as_tensor(targets), count)
    if isinstance(data, InMemory):
        return InMemory(data.images[chosen], data.targets[chosen])
    return Subset(data, chosen.tolist())


def held(data: Dataset) -> InMemory:
    """The data set in memory, every image decoded once.

    Raises:
        ValueError: its images need more than half of this machine's memory.
    """
    if isinstance(data, InMemory):
        return data
    shape = (len(data), *data[0][0].shape)
    size = math.prod(shape)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory / 2:
        raise ValueError(
            f"--cache-dataset: {len(data)} images need {size / 2**30:.1f} GiB, more "
            f"than half of the {memory / 2**30:.1f} GiB of this machine; leave it out"
        )
    images, targets = torch.empty(shape, dtype=torch.uint8), []
    for i in range(len(data)):
        images[i], target = data[i]
        targets.append(target)
    return InMemory(images, targets)


def balanced(targets: Tensor, count: int, seed: int = 0) -> Tensor:
    """Indices, in order, of a random choice with equally many of each class.

    The choice depends on the arguments alone. Every class gives its first image before
    any gives its second, and so on.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator)
    turn = torch.empty_like(order)
    for kind in targets.unique():
        places = (targets[order] == kind).nonzero().squeeze(1)
        turn[places] = torch.arange(len(places))
    return order[turn.argsort(stable=True)[:count]].sort().values
