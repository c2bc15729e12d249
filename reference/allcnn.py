"""All-CNN-C, and its longer form for images of 64 x 64 pixels."""

from torch import Tensor, nn


class AllCNN(nn.Module):
    """All-CNN-C (Springenberg et al., arXiv:1412.6806, table 1) with batch norm.

    Nine convolutions, two of them with stride 2 instead of pooling, and an average over
    the positions. Batch norm and no dropout, as in arXiv:1906.04547.

    Args:
        num_classes: number of outputs.
        width: factor of the 96 and 192 channels.
        channels: of the images.
        more_stages: how often the second stage (two convolutions and one with stride 2)
            is repeated; each halves the side once more.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: float = 1.0,
        channels: int = 3,
        more_stages: int = 0,
    ) -> None:
        super().__init__()
        narrow, wide = max(round(96 * width), 1), max(round(192 * width), 1)
        again = [layer for _ in range(more_stages) for layer in _stage(wide, wide)]
        self.features = nn.Sequential(
            *_stage(channels, narrow),
            *_stage(narrow, wide),
            *again,
            *_convolution(wide, wide, 3),
            *_convolution(wide, wide, 1),
        )
        self.classifier = nn.Conv2d(wide, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `[N, num_classes]` of `[N, channels, H, W]`.

        H and W are at least 12, twice that for each further stage.
        """
        return self.classifier(self.features(images)).mean((2, 3))


def _stage(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        *_convolution(inputs, outputs, 3, padding=1),
        *_convolution(outputs, outputs, 3, padding=1),
        *_convolution(outputs, outputs, 3, padding=1, stride=2),
    ]


def _convolution(
    inputs: int, outputs: int, size: int, padding: int = 0, stride: int = 1
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def allcnn(num_classes: int = 10, width: float = 1.0) -> AllCNN:
    """All-CNN-C for colour images of 32 x 32 pixels."""
    return AllCNN(num_classes, width)


def allcnn_tiny(num_classes: int = 200, width: float = 1.0) -> AllCNN:
    """All-CNN for Tiny ImageNet's colour images of 64 x 64 pixels.

    arXiv:1906.04547 adds three layers to All-CNN-C and does not say which. Our reading:
    the stage of 192 channels, whose last convolution has stride 2, comes twice, so that
    64 x 64 pixels end at the 6 x 6 positions at which 32 x 32 do in All-CNN-C.
    """
    return AllCNN(num_classes, width, more_stages=1)
