"""Gradient accumulation, clipping, and losses changed in place."""

import copy

import torch
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(net, batch):
    """Each micro-batch has its own ratio; `loss /= n` in place is allowed."""
    images, targets = batch
    net.features[1].eval()  # batch norm would see other statistics
    twin = copy.deepcopy(net)
    for model in (net, twin):
        attach(model, nn.CrossEntropyLoss(), **OPTIONS)
        model.features[1].eval()
    parts = [(images[:2], targets[:2]), (images[2:], targets[2:])]
    separate = []
    for part, labels in parts:
        twin.zero_grad()
        attached(twin).criterion(twin(part), labels).backward()
        separate.append([p.grad.clone() for p in twin.parameters()])
    for part, labels in parts:
        loss = attached(net).criterion(net(part), labels)
        loss /= 2
        loss.backward()
    for p, first, second in zip(net.parameters(), *separate, strict=True):
        torch.testing.assert_close(p.grad, (first + second) / 2)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    assert norm.isfinite()


def test_two_losses_summed_before_one_backward(net, batch):
    """forward, criterion, forward, criterion, one backward of the sum."""
    images, targets = batch
    net.features[1].eval()
    twin = copy.deepcopy(net)
    for model in (net, twin):
        attach(model, nn.CrossEntropyLoss(), **OPTIONS)
        model.features[1].eval()
    criterion = attached(net).criterion
    total = criterion(net(images), targets) + criterion(net(images), targets)
    total.backward()
    for _ in range(2):
        attached(twin).criterion(twin(images), targets).backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_backward_after_the_next_forward(net, batch):
    """The loss of one step may be back-propagated while the next is on its way."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    first = criterion(net(images), targets)
    output = net(images)
    first.backward()
    second = criterion(output, targets)
    stats = attached(net).stats()
    assert stats["criterion_calls"] == 2
    assert second.item() == stats["total_loss"]
    assert stats["total_loss"] != stats["task_loss"]


def test_a_criterion_call_after_a_backward_that_kept_the_graph(net, batch):
    """With retain_graph, a second call on the same output is the same objective."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    output = net(images)
    losses = []
    for _ in range(3):
        losses.append(criterion(output, targets))
        losses[-1].backward(retain_graph=True)
    assert losses[0].item() == losses[1].item() == losses[2].item()
