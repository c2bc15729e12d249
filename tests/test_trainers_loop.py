"""What the tests of other people's trainers ask of each, asked of a plain loop."""

import math

import pytest
import torch
from oracle import exponential_weights
from torch import nn

from dai_plugin import attach

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}


def trained(attachment, forwards, scale=1.0):
    """Every forward reached its loss, and the last loss is the formula's.

    Args:
        attachment: after the training.
        forwards: how many training forwards the trainer made.
        scale: of the invariance terms, where the loss is a part of a larger batch's.

    Returns:
        Its `stats()`.
    """
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"]) == (forwards, forwards)
    assert stats["missed"] == 0
    losses = list(stats["layers"].values())
    assert len(losses) >= 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    weights = exponential_weights(len(losses), stats["alpha"], 10.0)
    terms = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    task = stats["task_loss"]
    expected = (1 - stats["alpha"]) * task + scale * terms
    assert stats["total_loss"] == pytest.approx(expected, rel=1e-4)
    assert stats["total_loss"] != pytest.approx(task, rel=1e-4)
    return stats


def test_a_plain_loop(net, loader):
    """Two epochs: each forward counted once, the last loss as the formula has it."""
    _, criterion = attachment = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(2):
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(net(images), targets)
            loss.backward()
            optimizer.step()
    assert trained(attachment, 6)["total_loss"] == pytest.approx(loss.item())
