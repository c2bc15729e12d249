"""What is done to an image before it reaches the network, data set by data set.

Random changes are the views' business, on the device. The loader's workers decode an
image and bring it to size; it travels as uint8, a quarter of float32, and is normalised
where the network is.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torchvision.transforms import v2

from dai_plugin.views.normalization import Normalization


@dataclass(frozen=True)
class Wanted:
    """What the flags, and the weights that a run starts from, ask of a preset.

    None leaves the preset's own, and its share of a picture that the crop holds.

    Attributes:
        train_crop: side of the square in training; else that of testing.
        crop: side of the square in testing; else the preset's or that of training,
            whichever is larger and fits into `resize`.
        resize: shorter side of held-out images before the crop.
        interpolation: of the resizing, as torchvision names it.
        statistics: mean and std that the network knows.
    """

    train_crop: int | None = None
    crop: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


STOCK = Wanted()


@dataclass(frozen=True)
class Preset:
    """Size and normalisation of a data set's images.

    Attributes:
        mean: of the channels, in [0, 1] pixels.
        std: of the channels.
        crop: side of the square that the network sees.
        resize: shorter side before the centre is cropped.
        train_crop: side of the square in training, where it is another.
        interpolation: of the resizing, as torchvision names it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    resize: int
    train_crop: int | None = None
    interpolation: str = "bilinear"

    def transforms(self) -> v2.Compose:
        """From a PIL image to a uint8 tensor `[3, crop, crop]`."""
        how = v2.InterpolationMode(self.interpolation)
        return v2.Compose(
            [
                v2.PILToTensor(),
                v2.RGB(),
                v2.Resize(self.resize, interpolation=how, antialias=True),
                v2.CenterCrop(self.crop),
            ]
        )

    def training(self) -> Self:
        """The preset of training images: the same part of a picture, at its size."""
        crop = self.train_crop or self.crop
        resize = round(self.resize * crop / self.crop)
        return dataclasses.replace(self, crop=crop, resize=resize, train_crop=None)

    def adapted(self, wanted: Wanted) -> Self:
        """This preset with what is wanted in its place.

        Raises:
            ValueError: the crop is larger than the images.
        """
        crop = wanted.crop or max(self.crop, wanted.train_crop or 0)
        if wanted.resize and not wanted.crop:
            crop = min(crop, wanted.resize)
        resize = wanted.resize or round(self.resize * crop / self.crop)
        if crop > resize:
            raise ValueError(
                f"a crop of {crop} x {crop} pixels is larger than images whose shorter "
                f"side is resized to --val-resize-size {resize}, and would be black "
                "outside: make the one smaller (--val-crop-size), or the other larger"
            )
        mean, std = wanted.statistics or (self.mean, self.std)
        return dataclasses.replace(
            self,
            mean=mean,
            std=std,
            crop=crop,
            resize=resize,
            train_crop=wanted.train_crop or crop,
            interpolation=wanted.interpolation,
        )

    def normalize(self, images: Tensor) -> Tensor:
        """Float32 images with this mean and std removed, on the device they are on.

        Nothing is copied from the host, except once for each device.

        Args:
            images: `[B, 3, H, W]`, uint8, or floating point in [0, 1].

        Raises:
            TypeError: they are of another dtype.
        """
        if images.dtype == torch.uint8:
            pixels = images / 255
        elif images.is_floating_point():
            pixels = images.float()
        else:
            raise TypeError(
                f"images of dtype {images.dtype}: pass uint8 (0 to 255), or floating "
                "point from 0 to 1"
            )
        mean, std = Normalization(self.mean, self.std).tensors(images)
        return (pixels - mean).div_(std)


HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

PRESETS = {
    "digits": Preset(HALF, HALF, crop=16, resize=16),
    "cifar10": Preset((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32, 32),
    "cifar100": Preset((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 32, 32),
    "tinyimagenet": Preset((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262), 64, 64),
    "fake": Preset(HALF, HALF, crop=32, resize=32),
}


def for_images(shorter_side: int) -> Preset:
    """ImageNet's preset for images of that size; small images keep their own."""
    crop = min(shorter_side, 224)
    return Preset(*IMAGENET, crop, resize=256 if crop == 224 else crop)
