"""In-place operations after a chosen layer: an error names it, or "auto" drops it."""

import pytest
import torch
import torchvision
from torch import nn

from dai_plugin import attach, attached

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def test_an_activation_overwritten_in_place(net, batch):
    """The batch norm before an in-place ReLU is named, with what to choose instead."""
    images, targets = batch
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), layers="features.1", **AS_THEY_ARE
    )
    output = net(images)
    with pytest.raises(
        RuntimeError, match=r"\['features.1'\] were overwritten in place"
    ):
        criterion(output, targets)


def test_the_batch_norms_of_a_resnet_are_all_named():
    """Seventeen outputs are overwritten by the next ReLU; the blocks' are not."""
    net = torchvision.models.resnet18(num_classes=3)
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, layers=nn.BatchNorm2d, **AS_THEY_ARE)
    output = net(images)
    with pytest.raises(RuntimeError, match="overwritten in place") as raised:
        criterion(output, targets)
    assert str(raised.value).count("bn1'") == 9
    attached(net).remove()
    attach(net, criterion, layers=["conv1", "layer?.?"], **AS_THEY_ARE)
    criterion(net(images), targets).backward()
    assert len(attached(net).stats()["layers"]) == 9


def test_auto_leaves_out_what_is_overwritten(batch):
    """Where the modules do not tell, the first forward does."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x):
            return self.conv2(torch.relu_(self.conv1(x))).mean((2, 3))

    net = InPlace()
    _, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    criterion(net(batch[0]), batch[1]).backward()
    assert attached(net).layers == ["conv2"]
