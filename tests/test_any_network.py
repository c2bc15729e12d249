"""attach trains every classification network of torchvision with "auto" layers."""

from pathlib import Path

import networks
import pytest
import torch
from torch import nn

from dai_plugin import attach

TABLE = Path(__file__).parents[1] / "docs" / "layers.md"
OPTIONS = {"num_views": 2, "alpha": 1.0, "mean": 0.0, "std": 1.0}


def one_step(net, size, images=2):
    """A training step on noise with the invariance losses alone."""
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, **OPTIONS)
    output = net(torch.rand(images, 3, size, size))
    primary = output if isinstance(output, torch.Tensor) else output[0]
    assert primary.shape[0] == images
    loss = criterion(primary, torch.arange(images))
    loss.backward()
    first = next(p for p in net.parameters() if p.dim() > 1)
    assert first.grad.abs().sum() > 0
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert loss.isfinite()
    stats = attachment.stats()
    assert list(stats["layers"]) == attachment.layers
    assert len(attachment.layers) >= 2
    assert (stats["criterion_calls"], stats["missed"]) == (1, 0)
    return attachment.layers


@pytest.mark.parametrize(
    "name",
    [
        name if name in networks.SAMPLE else pytest.param(name, marks=pytest.mark.all)
        for name in networks.NAMES
    ],
)
def test_one_step_on_every_classifier(name):
    """Two layers or more, each fires, the loss is finite, gradients reach the first."""
    layers = one_step(*networks.build(name))
    assert networks.table_row(name, layers) in TABLE.read_text()
