"""Ignite's supervised trainer and evaluator."""

import pytest
import torch
from test_trainers_loop import OPTIONS, trained
from torch import nn
from torch.nn import functional as F

from dai_plugin import attach

engine = pytest.importorskip("ignite.engine", reason="needs --group integrations")
metrics = pytest.importorskip("ignite.metrics", reason="needs --group integrations")
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


def run(net, criterion, loader, **options):
    """Two epochs; returns the loss of each batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    trainer = engine.create_supervised_trainer(net, optimizer, criterion, **options)
    losses = []
    keep = trainer.on(engine.Events.ITERATION_COMPLETED)
    keep(lambda its: losses.append(its.state.output))
    trainer.run(loader, max_epochs=2)
    return losses


@pytest.mark.parametrize("kind", ["module", "function", "object"])
def test_ignite_trainer(net, loader, kind):
    """A criterion of any kind; its evaluator sees the stock loss and metrics."""
    criterion = {
        "module": nn.CrossEntropyLoss(),
        "function": F.cross_entropy,
        "object": lambda output, target: F.cross_entropy(output, target),
    }[kind]
    _, criterion = attachment = attach(net, criterion, **OPTIONS)
    losses = run(net, criterion, loader)
    assert trained(attachment, 6)["total_loss"] == pytest.approx(losses[-1])
    watched = {"loss": metrics.Loss(criterion), "accuracy": metrics.Accuracy()}
    found = engine.create_supervised_evaluator(net, watched).run(loader).metrics
    attachment.remove()
    watched = {"loss": metrics.Loss(F.cross_entropy), "accuracy": metrics.Accuracy()}
    stock = engine.create_supervised_evaluator(net, watched).run(loader).metrics
    assert found == stock
    assert attachment.stats()["forwards"] == 6


def test_ignite_accumulation(net, loader):
    """Its own gradient accumulation divides what the criterion returned."""
    attachment = attach(net, criterion := nn.CrossEntropyLoss(), **OPTIONS)
    run(net, criterion, loader, gradient_accumulation_steps=2)
    trained(attachment, 6)
