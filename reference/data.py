"""Data sets by name: training and held-out images, classes, and their preset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from presets import PRESETS, Preset, for_images
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10, CIFAR100, FakeData, ImageFolder

NAMES = ("digits", "cifar10", "cifar100", "imagefolder", "fake")


@dataclass
class Data:
    """Training and held-out images of one data set."""

    train: Dataset
    test: Dataset
    num_classes: int
    preset: Preset


def load(
    name: str, path: str, crop: int | None = None, resize: int | None = None
) -> Data:
    """The data set of that name.

    Args:
        name: one of `NAMES`.
        path: where it lies (CIFAR is downloaded to it where there is a network).
        crop: side of the images of an image folder; by default 224, or less if they are
            smaller.
        resize: shorter side before the crop.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
    """
    if name == "digits":
        return digits(PRESETS[name])
    if name == "fake":
        return fake(PRESETS[name])
    if name == "imagefolder":
        return image_folder(Path(path), crop, resize)
    return cifar(name, path, PRESETS[name])


class Digits(Dataset):
    """Handwritten digits of the UCI repository, as they come with scikit-learn.

    1,797 images of 8 x 8 pixels, a fixed and stratified fifth of them held out.
    """

    def __init__(self, train: bool, preset: Preset) -> None:
        try:
            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
        except ImportError as error:
            raise ImportError(
                "the digits come with scikit-learn: pip install it, or choose "
                "another --dataset"
            ) from error
        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        parts = train_test_split(
            images, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0
        )
        self.images, self.labels = parts[0 if train else 1], parts[2 if train else 3]
        self.preset = preset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.preset.transforms()(self.picture(index))
        return image, int(self.labels[index])

    def picture(self, index: int) -> Image.Image:
        """The image as it was scanned."""
        return Image.fromarray(self.images[index])


def digits(preset: Preset) -> Data:
    """All digits, prepared once: they fit into memory."""
    return Data(
        InMemory(Digits(True, preset)), InMemory(Digits(False, preset)), 10, preset
    )


class InMemory(Dataset):
    """A small data set whose images are prepared once instead of every epoch."""

    def __init__(self, data: Dataset) -> None:
        self.items = [data[i] for i in range(len(data))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.items[index]


def fake(preset: Preset) -> Data:
    """Noise with labels, to try a command without any data."""
    size = (3, preset.crop, preset.crop)
    train, test = (
        FakeData(count, size, 10, preset.transforms(), random_offset=offset)
        for count, offset in ((256, 0), (64, 256))
    )
    return Data(train, test, 10, preset)


def cifar(name: str, path: str, preset: Preset) -> Data:
    """CIFAR-10 or CIFAR-100 in torchvision's layout."""
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        train, test = (
            kind(path, part, preset.transforms(), download=True)
            for part in (True, False)
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{name} is not below --data-path {path} and cannot be downloaded ({error})"
        ) from error
    return Data(train, test, len(train.classes), preset)


def image_folder(path: Path, crop: int | None, resize: int | None) -> Data:
    """Folders train/CLASS and val/CLASS (or test/CLASS) of image files."""
    if not path.is_dir():
        raise FileNotFoundError(f"the folder --data-path {path} does not exist")
    held_out = next((path / n for n in ("val", "test") if (path / n).is_dir()), None)
    if not (path / "train").is_dir() or held_out is None:
        raise FileNotFoundError(
            f"--data-path {path} needs the folders train and val (or test), each with "
            f"a folder a class; it holds {sorted(p.name for p in path.iterdir())[:5]}"
        )
    first = ImageFolder(path / "train")
    preset = for_images(min(first[0][0].size), crop, resize)
    train = ImageFolder(path / "train", preset.transforms())
    test = ImageFolder(held_out, preset.transforms())
    if train.classes != test.classes:
        raise ValueError(f"{path}/train and {held_out} hold different classes")
    return Data(train, test, len(train.classes), preset)


def export_digits(folder: Path) -> int:
    """Writes the held-out digits as folder/CLASS/NNNN.png; returns their number."""
    preset = PRESETS["digits"]
    held_out = Digits(False, preset)
    for index, label in enumerate(held_out.labels):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        held_out.picture(index).save(place / f"{index:04}.png")
    return len(held_out)


if __name__ == "__main__":
    import sys

    target = Path(sys.argv[1])
    print(f"{export_digits(target)} held-out digits written to {target}")
