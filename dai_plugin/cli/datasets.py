"""Data sets by name: digits, CIFAR-10, CIFAR-100, Tiny ImageNet."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dai_plugin.cli.folders import Finder

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Collection:
    """Images that are not decoded yet.

    Attributes:
        items: paths of files, or uint8 pixels `[H, W]` or `[H, W, 3]`.
        names: of the images.
        labels: the class of each, None where nothing tells.
        classes: their names, None likewise.
    """

    items: Sequence[str | Pixels]
    names: list[str]
    labels: list[int] | None = None
    classes: list[str] | None = None

    def part(self, chosen: Sequence[int]) -> "Collection":
        """The images of these numbers."""
        labels = self.labels and [self.labels[i] for i in chosen]
        items, names = [self.items[i] for i in chosen], [self.names[i] for i in chosen]
        return Collection(items, names, labels, self.classes)


def digits(train: bool = False) -> Collection:
    """Handwritten digits of the UCI repository, as they come with scikit-learn.

    1,797 images of 8 x 8 pixels, a fixed and stratified fifth of them held out.

    Raises:
        ImportError: scikit-learn is not there.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: pip install it, or choose other images"
        ) from error
    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=bunch.target, random_state=0
    )
    chosen = parts[0 if train else 1]
    labels = bunch.target[chosen].tolist()
    names = [f"{index:04}" for index in chosen]
    return Collection(list(images[chosen]), names, labels, [str(n) for n in range(10)])


def cifar10(path: Path, train: bool = False) -> Collection:
    """CIFAR-10 in its files for Python, at `path` or in `path`/cifar-10-batches-py."""
    parts = [f"data_batch_{n}" for n in range(1, 6)] if train else ["test_batch"]
    return _cifar(path, "cifar-10-batches-py", parts, "batches.meta", "label")


def cifar100(path: Path, train: bool = False) -> Collection:
    """CIFAR-100 likewise, with its 100 classes."""
    parts = ["train" if train else "test"]
    return _cifar(path, "cifar-100-python", parts, "meta", "fine_label")


def tiny_imagenet(path: Path, train: bool = False) -> Collection:
    """Tiny ImageNet in its own layout, at `path` or in `path`/tiny-imagenet-200.

    Held out are the images of val, with their classes from val_annotations.txt.

    Raises:
        FileNotFoundError: a folder or the annotations are missing.
        ValueError: a line of the annotations names no class of train.
    """
    inside = path / "tiny-imagenet-200"
    path = inside if inside.is_dir() else path
    annotations = path / "val" / "val_annotations.txt"
    if not (path / "train").is_dir() or not annotations.is_file():
        raise FileNotFoundError(
            f"tinyimagenet:{path} needs the folder train and val/val_annotations.txt "
            "of tiny-imagenet-200.zip there"
        )
    classes = sorted(p.name for p in (path / "train").iterdir() if p.is_dir())
    if train:
        files = Finder().below(path / "train")
        pairs = [(path / "train" / file, file.parts[0]) for file in files]
    else:
        lines = [line.split("\t") for line in annotations.read_text().splitlines()]
        pairs = [(path / "val/images" / line[0], "".join(line[1:2])) for line in lines]
    wrong = next((n for n, (_, kind) in enumerate(pairs, 1) if kind not in classes), 0)
    if wrong:
        raise ValueError(
            f"line {wrong} of {annotations} gives {pairs[wrong - 1][1]!r}, which is no "
            "folder of train: unpack tiny-imagenet-200.zip again"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    names = [text(str(file.relative_to(path))) for file, _ in pairs]
    items = [str(file) for file, _ in pairs]
    return Collection(items, names, [numbers[kind] for _, kind in pairs], classes)


def text(path: str) -> str:
    """A path as text that can be written: bytes that are no text are spelt out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _cifar(
    path: Path, packed: str, parts: Sequence[str], meta: str, kind: str
) -> Collection:
    path = path / packed if (path / packed).is_dir() else path
    stored = [_unpickled(path / part) for part in parts]
    try:
        rows = np.concatenate([part["data"] for part in stored])
        labels = [int(label) for part in stored for label in part[f"{kind}s"]]
        classes = list(_unpickled(path / meta)[f"{kind}_names"])
        images = rows.astype(np.uint8).reshape(len(labels), 3, 32, 32)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{', '.join(parts)} and {meta} in {path} are not those of {packed} "
            f"({error}): unpack its archive again"
        ) from error
    names = [f"{index:05}" for index in range(len(labels))]
    return Collection(list(images.transpose(0, 2, 3, 1)), names, labels, classes)


class _Arrays(pickle.Unpickler):
    """Reads dictionaries of numpy arrays, and runs no other code of a file."""

    _NEEDED = frozenset(("_reconstruct", "ndarray", "dtype", "encode"))

    def find_class(self, module: str, name: str) -> Any:
        known = module.startswith(("numpy", "_codecs")) and name in self._NEEDED
        if not known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: a CIFAR data set has its files for Python there"
        )
    try:
        with file.open("rb") as opened:
            content: dict[str, Any] = _Arrays(opened, encoding="latin1").load()
    except Exception as error:  # whatever damaged bytes lead to
        raise ValueError(
            f"{file} is no file of CIFAR's for Python ({error})"
        ) from error
    return content
