"""Images for the command line, from folders."""

from collections.abc import Sequence
from pathlib import Path

import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

_SUFFIXES = frozenset(torchvision.datasets.folder.IMG_EXTENSIONS)


class ImageFolders(Dataset[Tensor]):
    """All images below some folders, in the order of their paths, as uint8 tensors.

    Args:
        folders: searched at any depth.
        resize: the shorter side is resized to it.
        crop: size of the square cut from the centre.
        channels: 1 for grey images, 3 for colour.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no image.
    """

    def __init__(
        self, folders: Sequence[str | Path], resize: int, crop: int, channels: int
    ) -> None:
        self.paths: list[Path] = []
        for folder in map(Path, folders):
            if not folder.is_dir():
                raise FileNotFoundError(f"the data folder {folder} does not exist")
            found = [p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES]
            if not found:
                raise FileNotFoundError(f"no images below the data folder {folder}")
            self.paths += sorted(found)
        self.resize, self.crop = resize, crop
        self.mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        try:
            with Image.open(self.paths[index]) as file:
                image = tv.pil_to_tensor(file.convert(self.mode))
        except OSError as error:
            raise OSError(f"cannot read {self.paths[index]}: {error}") from error
        image = tv.resize(image, [self.resize], antialias=True)
        cropped: Tensor = tv.center_crop(image, [self.crop])
        return cropped
