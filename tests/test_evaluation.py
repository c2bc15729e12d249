"""Evaluation, statistics passes and evaluation-mode training."""

import copy

import pytest
import torch
from torch import nn

from dai_plugin import attach, attached

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_batch_norm_is_estimated_as_without_the_plugin(net, batch, context):
    """Training mode without gradients sees the B images alone."""
    twin = copy.deepcopy(net)
    attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    with context():
        assert torch.equal(net(batch[0]), twin(batch[0]))
    assert torch.equal(net.features[1].running_mean, twin.features[1].running_mean)
    assert attached(net).stats()["forwards"] == 0


def test_training_in_evaluation_mode_warns_once(net, batch, caplog):
    """Fine-tuning in eval mode would train past the plugin: it says so."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    net.eval()
    net(images)  # evaluation that forgot no_grad is no training
    assert not caplog.records
    for _ in range(3):
        criterion(net(images), targets).backward()
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 1
    assert 'attach with when="grad"' in messages[0]


def test_when_grad_trains_in_evaluation_mode(net, batch):
    """when="grad" follows gradients, not the mode."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), when="grad", **AS_THEY_ARE)
    net.eval()
    criterion(net(images), targets).backward()
    with torch.no_grad():
        net(images)
    stats = attached(net).stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (1, 1, 0)


def test_tracing_and_export_see_the_stock_network(net, batch):
    """torch.jit.trace, torch.export and FX in training mode record B rows."""
    images, _ = batch
    twin = copy.deepcopy(net)
    attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    for model in (net, twin):
        model.features[1].eval()
    graph = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(graph(images), twin(images))
    exported = torch.export.export(net.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), twin.eval()(images))
    assert attached(net).stats()["forwards"] == 0
