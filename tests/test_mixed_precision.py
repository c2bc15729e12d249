"""Autocast, half precision, loss scaling: the same invariance loss either way."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}


def layers_of(net):
    return attached(net).stats()["layers"]


@pytest.mark.parametrize("criterion_inside", [True, False])
def test_autocast_around_forward_and_criterion(net, batch, criterion_inside):
    """The criterion inside autocast (torchvision) or outside it (accelerate)."""
    images, targets = batch
    plain = copy.deepcopy(net)
    for model in (net, plain):
        attach(model, nn.CrossEntropyLoss(), **OPTIONS)
    criterion = attached(net).criterion
    with torch.autocast("cpu", torch.bfloat16):
        output = net(images)
        if criterion_inside:
            loss = criterion(output, targets)
    if not criterion_inside:
        loss = criterion(output.float(), targets)
    loss.backward()
    attached(plain).criterion(plain(images), targets)
    assert layers_of(net) == pytest.approx(layers_of(plain), abs=0.01)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert attached(net).stats()["criterion_calls"] == 1


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_with_its_output_cast(net, loader, precision):
    """Outputs cast to float32 by accelerate are recognised as the network's."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, **OPTIONS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    for images, targets in loader:
        output = net(images)
        assert output.dtype == torch.float32
        accelerator.backward(criterion(output, targets))
        optimizer.step()
        optimizer.zero_grad()
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (3, 3, 0)


def test_a_bfloat16_network(net, batch):
    """A network in half precision gets views in its precision; statistics are exact."""
    images, targets = batch
    net = net.bfloat16()
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    loss = criterion(net(images.bfloat16()), targets)
    loss.backward()
    assert all(0 < value < 1 for value in layers_of(net).values())
    assert net.features[0].weight.grad.dtype == torch.bfloat16


def test_a_float64_network(net, batch):
    """Double precision stays double."""
    images, targets = batch
    _, criterion = attach(net.double(), nn.CrossEntropyLoss(), **OPTIONS)
    assert criterion(net(images.double()), targets).dtype == torch.float64


def test_a_loss_scale_multiplies_the_whole_objective(net, batch):
    """GradScaler's manner: gradients scale with the loss, invariance included."""
    images, targets = batch
    twin = copy.deepcopy(net)
    for model, scale in ((net, 1.0), (twin, 1024.0)):
        _, criterion = attach(model, nn.CrossEntropyLoss(), **OPTIONS)
        (criterion(model(images), targets) * scale).backward()
    for plain, scaled in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(scaled.grad / 1024, plain.grad)
