"""The images of a study: decoded once, and split so that no two parts meet."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from data import load
from files import write
from parts import InMemory, balanced, held
from presets import Wanted
from study_settings import Data
from study_trials import REPORTED
from torch import Tensor

from dai_plugin.views.expand import mix_seed
from dai_plugin.views.normalization import Normalization

_TRAINING = 1  # mixed into the seed of the choice of training images


@dataclass(frozen=True)
class Pool:
    """All images of a data set at one size.

    Attributes:
        train: its training part.
        test: its held-out part.
        classes: their names.
        normalization: of the data set.
        hashes: of each part's pixels and labels.
    """

    train: InMemory
    test: InMemory
    classes: list[str]
    normalization: Normalization
    hashes: dict[str, str]


@dataclass(frozen=True)
class Split:
    """The images of one trial.

    Attributes:
        train: that the network is trained on.
        held_out: that it is measured on.
        classes: number of classes.
    """

    train: InMemory
    held_out: InMemory
    classes: int


def file_of(data: Data, path: str, folder: Path) -> Path:
    """Where `prepare` keeps the images of a data set at one size."""
    source = str(Path(path).resolve()) if path else ""
    own = hashlib.sha256(source.encode()).hexdigest()[:8]
    return folder / f"{data.name}-{data.size}-{own}.pt"


def prepare(data: Data, path: str, folder: Path) -> None:
    """Decodes a data set at the study's size, unless that is done already.

    Args:
        data: of the study.
        path: where the data set lies, as `data.load` has it.
        folder: of the study.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        ValueError: there is no such data set.
    """
    file = file_of(data, path, folder)
    if file.is_file():
        return
    side = data.size
    found = load(data.name, path, Wanted(train_crop=side, crop=side, resize=side))
    names = getattr(found.train, "classes", None) or range(found.num_classes)
    content: dict[str, Any] = {
        "classes": [str(name) for name in names],
        "mean": found.preset.mean,
        "std": found.preset.std,
    }
    for part in ("train", "test"):
        images = held(getattr(found, part))
        content[part] = images.images, images.targets
        content[f"{part} hash"] = _hash(images)
    write(file, lambda out: torch.save(content, out))


@lru_cache(maxsize=2)
def read(file: Path) -> Pool:
    """What `prepare` wrote."""
    # What a trial does not take stays on the disk.
    content = torch.load(file, weights_only=True, mmap=True)
    return Pool(
        InMemory(*content["train"]),
        InMemory(*content["test"]),
        content["classes"],
        Normalization.given(content["mean"], content["std"]),
        {part: content[f"{part} hash"] for part in ("train", "test")},
    )


def split(pool: Pool, data: Data, seed: int, part: str) -> Split:
    """The images of a trial.

    Args:
        pool: all there are.
        data: which, and how many.
        seed: of the trial, which draws the training images.
        part: "validation" or "test"; the first does not touch the test images.

    Raises:
        ValueError: there are not so many images, or no such class.
    """
    names = pool.classes if data.classes is None else data.classes
    if missing := [name for name in names if name not in pool.classes]:
        raise ValueError(
            f"data.classes: there is no {', '.join(map(str, missing))}; there are "
            f"{', '.join(pool.classes)}"
        )
    kinds = torch.tensor([pool.classes.index(name) for name in names])
    ours = _of_classes(pool.train.targets, kinds)
    chosen = _choice(pool.train.targets[ours], data.validation, 0, "validation")
    validation, left = ours[chosen], _without(ours, chosen)
    draw = mix_seed(seed, _TRAINING)
    train = left[_choice(pool.train.targets[left], data.train, draw, "train")]
    if part == REPORTED:
        test = _of_classes(pool.test.targets, kinds)
        test = test[_choice(pool.test.targets[test], data.test, 0, "test")]
        held_out = _images(pool.test, test, kinds)
    else:
        held_out = _images(pool.train, validation, kinds)
    return Split(_images(pool.train, train, kinds), held_out, len(names))


def _choice(targets: Tensor, count: int, seed: int, name: str) -> Tensor:
    if not 1 <= count <= len(targets):
        raise ValueError(
            f"data.{name} is {count}, and there are {len(targets)} images to choose "
            "from (training images are those that validation leaves)"
        )
    return balanced(targets, count, seed)


def _of_classes(targets: Tensor, kinds: Tensor) -> Tensor:
    """Which images are of some classes."""
    return torch.isin(targets, kinds).nonzero().squeeze(1)


def _without(indices: Tensor, places: Tensor) -> Tensor:
    kept = torch.ones(len(indices), dtype=torch.bool)
    kept[places] = False
    return indices[kept]


def _images(part: InMemory, indices: Tensor, kinds: Tensor) -> InMemory:
    """Those images; their classes are numbered from 0 in the order of `kinds`."""
    same = part.targets[indices, None] == kinds
    return InMemory(part.images[indices], same.int().argmax(1))


def _hash(images: InMemory) -> str:
    found = hashlib.sha256(images.images.numpy().tobytes())
    found.update(images.targets.numpy().tobytes())
    return found.hexdigest()[:16]
