"""Image files in folders: train/CLASS and val/CLASS, and Tiny ImageNet as it comes."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from presets import Preset, Wanted, for_images
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from dai_plugin.cli.decoding import DARK, read_image

logger = logging.getLogger("dai_plugin")

Parts = tuple[Dataset, Dataset, int, Preset]


class ImageFiles(Dataset):
    """Labelled image files.

    Args:
        files: their paths.
        targets: the class of each.
        transform: from the image to what the loader delivers.
    """

    def __init__(
        self,
        files: Sequence[Path],
        targets: Sequence[int],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.files, self.targets = list(files), list(targets)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.files[index])), self.targets[index]


def image_folder(path: Path, wanted: Wanted) -> Parts:
    """Folders train/CLASS and val/CLASS (or test/CLASS) of image files.

    Returns:
        Training images, held-out images, number of classes, preset.

    Raises:
        FileNotFoundError: a folder is missing, or a class has no image.
        ValueError: the two parts hold different classes.
    """
    expect_folder(path)
    held_out = next((path / n for n in ("val", "test") if (path / n).is_dir()), None)
    if not (path / "train").is_dir() or held_out is None:
        raise FileNotFoundError(
            f"--data-path {path} needs the folders train and val (or test), each with "
            f"a folder a class; it holds {sorted(p.name for p in path.iterdir())[:5]}"
        )
    first = ImageFolder(path / "train", loader=read_image)
    image = first[0][0]
    if image.info.get("brightest", DARK) < DARK:
        logger.warning(
            "%s is nearly black: 16-bit images are scaled by 65535; if they hold 12 "
            "bits, multiply them by 65535 / 4095",
            first.samples[0][0],
        )
    preset = for_images(min(image.size)).adapted(wanted)
    parts = {path / "train": preset.training(), held_out: preset}
    train, test = (
        ImageFolder(part, own.transforms(), loader=read_image)
        for part, own in parts.items()
    )
    if train.classes != test.classes:
        alone = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(
            f"{path}/train and {held_out} hold different classes: {alone[:5]} are in "
            "one of them alone; give both the same folders"
        )
    return train, test, len(train.classes), preset


def tiny_imagenet(path: Path, preset: Preset) -> Parts:
    """Tiny ImageNet in its own layout, at `path` or in `path`/tiny-imagenet-200.

    train/CLASS/images/*.JPEG, val/images/*.JPEG, and the classes of the latter in
    val/val_annotations.txt, which are the held-out images (those of test have no
    labels).

    Returns:
        Training images, held-out images, number of classes, preset.

    Raises:
        FileNotFoundError: a folder, the annotations or an image of theirs is missing.
        ValueError: a line of the annotations has no known class.
    """
    expect_folder(path)
    if (path / "tiny-imagenet-200").is_dir():
        path = path / "tiny-imagenet-200"
    train, annotations = path / "train", path / "val" / "val_annotations.txt"
    if not train.is_dir() or not annotations.is_file():
        raise FileNotFoundError(
            f"--data-path {path} needs the folder train and the file "
            "val/val_annotations.txt of tiny-imagenet-200.zip; it holds "
            f"{sorted(p.name for p in path.iterdir())[:5]}"
        )
    classes = sorted(p.name for p in train.iterdir() if p.is_dir())
    labels = {name: label for label, name in enumerate(classes)}
    files = [file for name in classes for file in _images(train / name / "images")]
    targets = [labels[file.parts[-3]] for file in files]
    return (
        ImageFiles(files, targets, preset.training().transforms()),
        ImageFiles(*_annotated(annotations, labels), preset.transforms()),
        len(classes),
        preset,
    )


def expect_folder(path: Path) -> None:
    """Refuses a path that is no folder.

    Raises:
        FileNotFoundError: so it is.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"the folder --data-path {path} does not exist")


def _images(folder: Path) -> list[Path]:
    present = folder.iterdir() if folder.is_dir() else ()
    found = sorted(p for p in present if p.suffix.lower() in IMG_EXTENSIONS)
    if not found:
        raise FileNotFoundError(
            f"no images in {folder}; each class of Tiny ImageNet has them there: "
            "unpack tiny-imagenet-200.zip again"
        )
    return found


def _annotated(
    annotations: Path, labels: dict[str, int]
) -> tuple[list[Path], list[int]]:
    """Files and classes of val_annotations.txt: name, class and box, tab-separated."""
    folder = annotations.parent / "images"
    present = {file.name: file for file in _images(folder)}
    files, targets = [], []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        name, _, rest = line.partition("\t")
        kind = rest.partition("\t")[0]
        if kind not in labels:
            raise ValueError(
                f"line {number} of {annotations} is {line[:60]!r}; it must be a file, "
                "a tab and one of the classes in train"
            )
        if name not in present:
            raise FileNotFoundError(
                f"line {number} of {annotations} names {name}, which is not in "
                f"{folder}: unpack tiny-imagenet-200.zip again"
            )
        files.append(present[name])
        targets.append(labels[kind])
    return files, targets
