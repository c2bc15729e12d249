"""`--data`: the images of a command, checked before the first of them runs."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from dai_plugin.cli.checking import (
    checked,
    explain,
    picture,
    refuse_dark,
    tell_of_frames,
    unreadable,
)
from dai_plugin.cli.collecting import collect
from dai_plugin.cli.datasets import Collection
from dai_plugin.cli.decoding import MODES, most_pixels


class ImageSet(Dataset[tuple[Any, ...]]):
    """Images as uint8 tensors `[C, crop, crop]`, with their labels and names.

    An item is `(image, label, name)`, or `(image, name)` where there are no labels.

    Args:
        images: where they come from.
        resize: the shorter side is resized to it (bilinear, with antialiasing).
        crop: side of the square that is cut from the centre.
        channels: 1 for grey, 3 for RGB, 4 for RGB and transparency.
        skipped: files that are left out, and why.

    Attributes:
        classes: their names, None where there are no labels.
        skipped: as above.
    """

    def __init__(
        self,
        images: Collection,
        resize: int,
        crop: int,
        channels: int,
        skipped: Sequence[str] = (),
    ) -> None:
        self._images, self.resize, self.crop = images, resize, crop
        self.channels, self.skipped = channels, list(skipped)
        self.classes = images.classes

    def relabelled(self, places: Sequence[int] | None) -> Self:
        """The same images, class k with the label `places[k]`; None: without labels."""
        new = None
        if places is not None:
            new = [places[label] for label in self._images.labels or ()]
        other = copy.copy(self)
        other._images = replace(self._images, labels=new)
        other.classes = self.classes if new else None
        return other

    def __len__(self) -> int:
        return len(self._images.items)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        pixels = tv.pil_to_tensor(picture(self._images, index, self.channels))
        pixels = tv.resize(pixels, [self.resize], antialias=True)
        image, name = tv.center_crop(pixels, [self.crop]), self._images.names[index]
        if self._images.labels is None:
            return image, name
        return image, self._images.labels[index], name


def load_images(
    sources: Sequence[str],
    *,
    resize: int,
    crop: int,
    channels: int,
    skip_unreadable: bool = False,
    limit: int | None = None,
) -> ImageSet:
    """The images of files, folders and data sets, every file decoded once to check it.

    Args:
        sources: as in `collect`.
        resize: of the shorter side.
        crop: of the centre.
        channels: that the network takes: 1, 3 or 4.
        skip_unreadable: leave out files that cannot be read, instead of refusing.
        limit: so many images at most, evenly spread over all.

    Raises:
        FileNotFoundError: a source does not exist, or holds no image.
        ValueError: files cannot be read, the sizes do not fit, there are fewer than
            two images, or 16-bit images that hold no more than 12 bits.
    """
    image_size(resize, crop, resize, crop)
    if channels not in MODES:
        raise ValueError(
            f"the network takes {channels} channels; image files have 1 (grey), 3 "
            "(RGB) or 4 (RGB and transparency): measure it in Python, on tensors"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"the number of images must be at least 1, got {limit}")
    images = collect(sources)
    if limit is not None and limit < len(images.items):
        count = len(images.items)
        images = images.part([i * count // limit for i in range(limit)])
    checks = list(checked(images, resize, channels))
    skipped = unreadable(images, checks)
    if skipped and not skip_unreadable:
        raise ValueError(explain(skipped, len(checks)))
    refuse_dark(checks)
    tell_of_frames(images, checks)
    good = [i for i, check in enumerate(checks) if not check.problem]
    if len(good) < 2:
        raise ValueError(
            f"data holds {'one image' if good else 'no image'} that can be read, so "
            "that there is nothing to compare; give more"
        )
    return ImageSet(images.part(good), resize, crop, channels, skipped)


def image_size(
    resize: int | None, crop: int | None, own_resize: int, own_crop: int
) -> tuple[int, int]:
    """Shorter side and crop: what was asked for, else what the weights ask.

    Raises:
        ValueError: one of them is no size, or the crop is larger than the images.
    """
    for flag, value in (("--resize", resize), ("--crop", crop)):
        if value is not None and not (value >= 1 and value**2 <= most_pixels()):
            most = int(most_pixels() ** 0.5)
            raise ValueError(f"{flag} {value}: it must be from 1 to {most} pixels")
    if crop is None:
        crop = own_crop if resize is None else min(own_crop, resize)
        resize = resize or own_resize
    elif resize is None:
        resize = crop
    if crop > resize:
        raise ValueError(
            f"--crop {crop} is larger than --resize {resize}, so that images would be "
            "black outside: make the one smaller, or the other larger"
        )
    return resize, crop
