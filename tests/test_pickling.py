"""Saving an attached network saves a stock network."""

import io
import pickle

import pytest
import torch
from torch import nn

from dai_plugin import attach, attached

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


@pytest.mark.parametrize("moment", ["before", "mid-step", "after"])
def test_a_pickled_network_comes_back_stock(net, batch, moment):
    """torch.save(model) at any moment; what is loaded has no live hooks."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **AS_THEY_ARE)
    output = net(images) if moment != "before" else None
    if moment == "after":
        criterion(output, targets).backward()
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert attached(loaded) is None
    assert loaded(images).shape == (4, 5)
    loaded.load_state_dict(net.state_dict())
    assert torch.equal(loaded.eval()(images), net.eval()(images))


def test_a_criterion_and_its_state_can_be_pickled(net):
    """The criterion module is saved without its watcher."""
    _, criterion = attach(net, nn.CrossEntropyLoss(label_smoothing=0.1), **AS_THEY_ARE)
    loaded = pickle.loads(pickle.dumps(criterion))
    logits, targets = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 1, 2])
    assert torch.equal(loaded(logits, targets), criterion(logits, targets))


def test_state_dict_loads_into_a_stock_network(net):
    """The same keys with and without the plugin."""
    keys = list(net.state_dict())
    attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    assert list(net.state_dict()) == keys
