"""Networks by name: All-CNN-C with a width factor, and torchvision's classifiers."""

import torchvision
from torch import Tensor, nn


class AllCNN(nn.Module):
    """All-CNN-C (Springenberg et al., arXiv:1412.6806, table 1) with batch norm.

    Nine convolutions, two of them with stride 2 instead of pooling, and an average over
    the positions. Batch norm and no dropout, as in arXiv:1906.04547.

    Args:
        num_classes: number of outputs.
        width: factor of the 96 and 192 channels.
        channels: of the images.
    """

    def __init__(
        self, num_classes: int = 10, width: float = 1.0, channels: int = 3
    ) -> None:
        super().__init__()
        narrow, wide = max(round(96 * width), 1), max(round(192 * width), 1)
        self.features = nn.Sequential(
            *_convolution(channels, narrow, 3, padding=1),
            *_convolution(narrow, narrow, 3, padding=1),
            *_convolution(narrow, narrow, 3, padding=1, stride=2),
            *_convolution(narrow, wide, 3, padding=1),
            *_convolution(wide, wide, 3, padding=1),
            *_convolution(wide, wide, 3, padding=1, stride=2),
            *_convolution(wide, wide, 3),
            *_convolution(wide, wide, 1),
        )
        self.classifier = nn.Conv2d(wide, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `[N, num_classes]` of `[N, channels, H, W]`, H and W >= 12."""
        return self.classifier(self.features(images)).mean((2, 3))


def _convolution(
    inputs: int, outputs: int, size: int, padding: int = 0, stride: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def allcnn(num_classes: int = 10, width: float = 1.0) -> AllCNN:
    """All-CNN-C for colour images."""
    return AllCNN(num_classes, width)


OWN = {"allcnn": allcnn}


def names() -> list[str]:
    """Names of all models: ours, then torchvision's classifiers."""
    return [*OWN, *torchvision.models.list_models(module=torchvision.models)]


def arguments(name: str, num_classes: int, width: float) -> dict[str, float]:
    """Keyword arguments that `build` passes on: what a checkpoint has to remember.

    Raises:
        ValueError: a width is given for a model that has none.
    """
    if name in OWN:
        return {"num_classes": num_classes, "width": width}
    if width != 1:
        raise ValueError(f"--width {width}: {name} has no width factor, allcnn has")
    return {"num_classes": num_classes}


def build(name: str, **options: float) -> nn.Module:
    """The untrained network of that name.

    Raises:
        ValueError: there is none.
    """
    if name in OWN:
        return OWN[name](**options)
    if name not in names():
        raise ValueError(f"no model {name!r}; there are {', '.join(names())}")
    return torchvision.models.get_model(name, weights=None, **options)
