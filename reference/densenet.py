"""DenseNet-BC of 100 layers (Huang et al., arXiv:1608.06993) for 32 x 32 pixels."""

import torch
from torch import Tensor, nn

GROWTH = 12  # k, the channels that each layer adds at width 1
# A depth of 100: a first convolution, 3 blocks of 16 layers of 2, 2 transitions, and
# the classifier.
BLOCKS, LAYERS = 3, 16


class DenseNetBC(nn.Module):
    """Bottleneck layers (B) and transitions that halve the channels (C), no dropout.

    Args:
        num_classes: number of outputs.
        width: factor of the growth rate 12.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        growth = max(round(GROWTH * width), 1)
        channels = 2 * growth
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for i in range(BLOCKS):
            if i:
                parts += _transition(channels, channels // 2)
                channels //= 2
            parts.append(DenseBlock(channels, growth))
            channels += LAYERS * growth
        parts += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `[N, num_classes]` of `[N, 3, H, W]`, H and W >= 4."""
        return self.classifier(self.features(images).mean((2, 3)))


class DenseBlock(nn.ModuleList):
    """Bottleneck layers, each of which sees all that those before it gave.

    Args:
        channels: that come in.
        growth: channels that each layer adds.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            _bottleneck(channels + i * growth, growth) for i in range(LAYERS)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Input and all layers' outputs, one behind the other along the channels."""
        for layer in self:
            features = torch.cat([features, layer(features)], 1)
        return features


def _bottleneck(channels: int, growth: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, 4 * growth, 1, bias=False),
        nn.BatchNorm2d(4 * growth),
        nn.ReLU(inplace=True),
        nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
    )


def _transition(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.AvgPool2d(2),
    ]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def densenet_bc(num_classes: int = 10, width: float = 1.0) -> DenseNetBC:
    """DenseNet-BC for colour images: depth 100, growth rate 12."""
    return DenseNetBC(num_classes, width)
