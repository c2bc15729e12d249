"""Wide ResNet 28-10 (Zagoruyko & Komodakis, arXiv:1605.07146)."""

from torch import Tensor, nn

# A depth of 28: a first convolution, 3 groups of 4 blocks of 2, and 3 shortcuts.
BLOCKS = 4
GROUPS = ((160, 1), (320, 2), (640, 2))  # channels at width 1, stride


class WideResNet(nn.Module):
    """Pre-activation residual network, wide and not deep, without dropout.

    Args:
        num_classes: number of outputs.
        width: factor of the 160, 320 and 640 channels of the groups.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        channels = 16
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for full, stride in GROUPS:
            outputs = max(round(full * width), 1)
            for i in range(BLOCKS):
                blocks.append(Residual(channels, outputs, 1 if i else stride))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores `[N, num_classes]` of `[N, 3, H, W]`."""
        features = self.head(self.blocks(self.stem(images)))
        return self.classifier(features.mean((2, 3)))


class Residual(nn.Module):
    """Two 3x3 convolutions, each behind its batch norm and ReLU, and a shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input;
    elsewhere it is the input itself.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # In place on the norm's output alone: the input is the previous block's output,
        # which the invariance loss looks at.
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[N, outputs, H / stride, W / stride]` of `[N, inputs, H, W]`."""
        active = self.activate(features)
        kept = features if self.shortcut is None else self.shortcut(active)
        return kept + self.residual(active)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def wrn28_10(num_classes: int = 10, width: float = 1.0) -> WideResNet:
    """Wide ResNet 28-10 for colour images of 32 x 32 or 64 x 64 pixels."""
    return WideResNet(num_classes, width)
