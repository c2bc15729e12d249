"""What is done to an image before it reaches the network, data set by data set.

Random changes are the views' business, on the device. The loader's workers decode an
image and bring it to size; it travels as uint8, a quarter of float32, and is normalised
where the network is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from dai_plugin.views.normalization import Normalization


@dataclass(frozen=True)
class Preset:
    """Size and normalisation of a data set's images.

    Attributes:
        mean: of the channels, in [0, 1] pixels.
        std: of the channels.
        crop: side of the square that the network sees.
        resize: shorter side before the centre is cropped.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    resize: int

    def transforms(self) -> v2.Compose:
        """From a PIL image to a uint8 tensor `[3, crop, crop]`."""
        return v2.Compose(
            [
                v2.PILToTensor(),
                v2.RGB(),
                v2.Resize(self.resize, antialias=True),
                v2.CenterCrop(self.crop),
            ]
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


def for_images(shorter_side: int, crop: int | None, resize: int | None) -> Preset:
    """ImageNet's preset for images of that size; small images keep their own."""
    crop = crop or min(shorter_side, 224)
    if resize is None:
        resize = 256 if crop == 224 else crop
    return Preset(*IMAGENET, crop, resize)
