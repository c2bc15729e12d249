"""Activation checkpointing runs layers again in the backward; losses stay the same."""

import copy

import pytest
import torch
from conftest import SmallNet
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from dai_plugin import attach, attached

OPTIONS = {
    "num_views": 2,
    "alpha": 0.4,
    "beta": 0.2,
    "seed": 7,
    "mean": 0.0,
    "std": 1.0,
}


class Checkpointed(SmallNet):
    """Recomputes its features, or each of their modules, in the backward."""

    kind, options = "whole", {"use_reentrant": False}

    def forward(self, x):
        if self.kind == "after a stem":
            x = checkpoint(self.features[1:], self.features[0](x), **self.options)
        elif self.kind == "whole":
            x = checkpoint(self.features, x, **self.options)
        elif self.kind == "sequential":
            x = checkpoint_sequential(self.features, 3, x, **self.options)
        else:
            for module in self.features:
                x = checkpoint(module, x, **self.options)
        return self.classifier(x.flatten(1))


def step(net, batch):
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    losses = []
    for _ in range(2):
        net.zero_grad()
        loss = criterion(net(images), targets)
        loss.backward()
        losses.append(loss.item())
    return losses, [p.grad for p in net.parameters()]


@pytest.mark.parametrize("kind", ["whole", "sequential", "modules"])
@pytest.mark.parametrize("early_stop", [True, False])
def test_recomputed_layers_give_the_same_loss_and_gradients(batch, kind, early_stop):
    """Losses count once, gradients are those without checkpointing."""
    torch.manual_seed(0)
    net = Checkpointed()
    for module in net.features:  # an in-place ReLU would overwrite what is recomputed
        module.inplace = False
    plain = SmallNet()
    plain.load_state_dict(copy.deepcopy(net.state_dict()))
    net.kind = kind
    net.options = {"use_reentrant": False, "early_stop": early_stop}
    if kind == "sequential":
        net.options = {"use_reentrant": False}
    expected, gradients = step(plain, batch)
    losses, ours = step(net, batch)
    assert losses == pytest.approx(expected, rel=1e-6)
    for got, reference in zip(ours, gradients, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-6)
    assert attached(net).stats()["criterion_calls"] == 2


def test_reentrant_checkpointing_is_refused_with_the_way_out(batch):
    """It captures activations without a graph: the loss would train nothing."""
    net = Checkpointed()
    net.kind, net.options = "after a stem", {"use_reentrant": True}
    with pytest.raises(RuntimeError, match="use use_reentrant=False"):
        step(net, batch)


def test_checkpointing_the_whole_network_is_refused(batch):
    """Recomputed, it would draw other views: wrong gradients, so it raises."""
    images, targets = batch
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    output = checkpoint(net, images, use_reentrant=False)
    with pytest.raises(RuntimeError, match="checkpoint the blocks inside it"):
        criterion(output, targets).backward()


@pytest.mark.parametrize("trained", [False, True])
def test_gradients_in_evaluation_are_left_alone(batch, trained):
    """Recomputed layers of a forward that was not measured stay stock layers."""
    images, targets = batch
    torch.manual_seed(0)
    net, stock = Checkpointed(), SmallNet()
    for module in net.features:
        module.inplace = False
    net.kind = "whole"
    stock.load_state_dict(net.state_dict())
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    if trained:
        criterion(net(images), targets).backward()
        stock.load_state_dict(net.state_dict())
    for count in (3, 8):  # 8: as many as the rows of a training step
        probe = torch.rand(count, 3, 12, 12)
        grads = []
        for each in (net.eval(), stock.eval()):
            given = probe.clone().requires_grad_()
            each(given).sum().backward()
            grads.append(given.grad)
        torch.testing.assert_close(*grads)


def test_two_forwards_of_different_sizes_before_their_backward(batch):
    """Each recomputation finds the settings of its own forward."""
    images, targets = batch
    torch.manual_seed(0)
    plain, net = SmallNet(), Checkpointed()
    for module in net.features:
        module.inplace = False
    net.load_state_dict(plain.state_dict())
    net.kind = "whole"
    totals = []
    for each in (plain, net):
        criterion = nn.CrossEntropyLoss()
        attach(each, criterion, **OPTIONS)
        first = criterion(each(images), targets)
        second = criterion(each(images[:2]), targets[:2])
        (first + second).backward()
        totals.append([p.grad for p in each.parameters()])
    for got, expected in zip(totals[1], totals[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
