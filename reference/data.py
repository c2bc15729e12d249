"""Data sets by name: training and held-out images, classes, and their preset.

Images leave a data set as uint8 tensors `[3, crop, crop]`; `Preset.normalize` makes
network inputs of a batch of them, on the device.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from folders import image_folder, tiny_imagenet
from parts import InMemory, held, part
from PIL import Image
from presets import PRESETS, STOCK, Preset, Wanted
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10, CIFAR100, FakeData

from dai_plugin.cli.datasets import digits as digits_of_scikit_learn

NAMES = ("digits", "cifar10", "cifar100", "tinyimagenet", "imagefolder", "fake")


@dataclass
class Data:
    """Training and held-out images of one data set."""

    train: Dataset
    test: Dataset
    num_classes: int
    preset: Preset


def load(
    name: str,
    path: str,
    wanted: Wanted = STOCK,
    *,
    train_images: int | None = None,
    test_images: int | None = None,
    hold: bool = False,
) -> Data:
    """The data set of that name.

    Args:
        name: one of `NAMES`.
        path: where it lies (CIFAR is downloaded to it where there is a network).
        wanted: of its preset, which for an image folder is ImageNet's: 224 pixels, or
            less if the images are smaller.
        train_images: so many of the training images alone, the same ones in every run,
            equally many of each class as far as that goes.
        test_images: so many of the held-out images alone.
        hold: decode all of them once, and keep them in memory.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        ValueError: there are not so many images, or they are too many to hold.
    """
    if name == "imagefolder":
        data = Data(*image_folder(Path(path), wanted))
    elif name == "tinyimagenet":
        data = Data(*tiny_imagenet(Path(path), PRESETS[name].adapted(wanted)))
    elif name == "digits":
        data = digits(PRESETS[name].adapted(wanted))
    elif name == "fake":
        data = fake(PRESETS[name].adapted(wanted))
    else:
        data = cifar(name, path, PRESETS[name].adapted(wanted))
    data.train = part(data.train, train_images, "--train-images")
    data.test = part(data.test, test_images, "--test-images")
    if hold:
        data.train, data.test = held(data.train), held(data.test)
    return data


class Digits(Dataset):
    """Handwritten digits of the UCI repository, as they come with scikit-learn.

    1,797 images of 8 x 8 pixels, a fixed and stratified fifth of them held out.
    """

    def __init__(self, train: bool, preset: Preset) -> None:
        scanned = digits_of_scikit_learn(train)
        self.images, self.labels = scanned.items, scanned.labels
        self.preset = preset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.preset.transforms()(self.picture(index))
        return image, self.labels[index]

    def picture(self, index: int) -> Image.Image:
        """The image as it was scanned."""
        return Image.fromarray(self.images[index])


def digits(preset: Preset) -> Data:
    """All digits, brought to size once."""
    train, test = (
        InMemory(torch.stack([image for image, _ in digits]), digits.labels)
        for digits in (Digits(True, preset.training()), Digits(False, preset))
    )
    return Data(train, test, 10, preset)


def fake(preset: Preset) -> Data:
    """Noise with labels, to try a command without any data."""
    train, test = (
        FakeData(count, (3, 32, 32), 10, own.transforms(), random_offset=offset)
        for own, count, offset in ((preset.training(), 256, 0), (preset, 64, 256))
    )
    return Data(train, test, 10, preset)


def cifar(name: str, path: str, preset: Preset) -> Data:
    """CIFAR-10 or CIFAR-100 in torchvision's layout."""
    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    try:
        both = [kind(path, part, download=True) for part in (True, False)]
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name} is not below --data-path {path} and cannot be downloaded ({error})"
        ) from error
    classes = len(both[0].classes)
    for stored, own in zip(both, (preset.training(), preset), strict=True):
        stored.transform = own.transforms()
    if {preset.crop, preset.resize, preset.train_crop} != {32}:
        return Data(*both, classes, preset)
    # They are stored at that size, [N, 32, 32, 3]: nothing is left to do.
    train, test = (
        InMemory(torch.from_numpy(c.data).permute(0, 3, 1, 2).contiguous(), c.targets)
        for c in both
    )
    return Data(train, test, classes, preset)


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
