"""Copies of a trained network carry no live hooks: EMA, AveragedModel, teachers."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dai_plugin import attach, attached

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def test_a_copy_in_mid_step_is_inert(net, batch):
    """Deepcopy between forward and criterion works, and the copy is a stock network."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **AS_THEY_ARE)
    output = net(images)
    twin = copy.deepcopy(net)
    criterion(output, targets).backward()
    assert attached(twin) is None
    assert twin(images).shape == (4, 5)
    assert attached(net).stats()["forwards"] == 1
    attach(twin, nn.CrossEntropyLoss(), **AS_THEY_ARE)  # and may be attached to itself


def test_averaged_models_follow_and_score_as_stock(net, loader):
    """`AveragedModel` and its evaluation, beside an attached network."""
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **AS_THEY_ARE)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for images, targets in loader:
        optimizer.zero_grad()
        criterion(net(images), targets).backward()
        optimizer.step()
        ema.update_parameters(net)
    ema.eval()
    assert ema(images).shape == (len(images), 5)
    assert list(ema.module.state_dict()) == list(net.state_dict())
    assert attached(net).stats()["missed"] == 0


def test_a_look_at_the_network_itself_leaves_the_step_open(net, batch):
    """A forward under no_grad between ours and the criterion, in training mode."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **AS_THEY_ARE)
    output = net(images)
    with torch.no_grad():
        net(images.flip(3))
    criterion(output, targets).backward()
    stats = attached(net).stats()
    assert (stats["criterion_calls"], stats["missed"]) == (1, 0)


def test_a_frozen_teacher_in_the_step_changes_nothing(net, batch):
    """Another network's forward between ours and the criterion is not ours."""
    images, _ = batch
    teacher = copy.deepcopy(net).requires_grad_(False)
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **AS_THEY_ARE)
    output = net(images)
    with torch.no_grad():
        soft = teacher(images).softmax(1)
    criterion(output, soft).backward()
    stats = attached(net).stats()
    assert (stats["forwards"], stats["criterion_calls"]) == (1, 1)
