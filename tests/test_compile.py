"""torch.compile on either side of attach: the eager loss, one graph for the network."""

import copy
from collections import Counter

import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import attach, attached, invariance_loss

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}
ORDERS = ["attach, compile", "compile, attach", "attach, in place", "in place, attach"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(net, order, backend):
    """The network to call, and its attachment's criterion."""
    criterion = nn.CrossEntropyLoss()
    if order.startswith("attach"):
        attach(net, criterion, **OPTIONS)
    if "in place" in order:
        net.compile(backend=backend)
        model = net
    else:
        model = torch.compile(net, backend=backend)
    if order.endswith("attach"):
        attach(model, criterion, **OPTIONS)
    return model, criterion


def steps(net, model, criterion, batch):
    """Losses of steps with two batch sizes, and the gradients of the last."""
    images, targets = batch
    losses = []
    for count in (4, 4, 3, 2):
        net.zero_grad()
        loss = criterion(model(images[:count]), targets[:count])
        loss.backward()
        losses.append(loss.item())
    return losses, [p.grad for p in net.parameters()]


def check(net, batch, order, backend):
    twin = copy.deepcopy(net)
    expected, gradients = steps(twin, *eager(twin), batch)
    model, criterion = compiled(net, order, backend)
    losses, ours = steps(net, model, criterion, batch)
    assert losses == pytest.approx(expected, abs=1e-5)
    for got, reference in zip(ours, gradients, strict=True):
        torch.testing.assert_close(got, reference, atol=1e-5, rtol=1e-4)
    stats = attached(model).stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (4, 4, 0)
    model.eval(), twin.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(batch[0]), twin(batch[0]))


def eager(net):
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    return net, criterion


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_every_order_gives_the_eager_losses(net, batch, order, backend):
    """Losses and gradients, through changing batch sizes; evaluation as stock."""
    check(net, batch, order, backend)


@pytest.mark.parametrize(
    "order", [ORDERS[0], *(pytest.param(o, marks=pytest.mark.all) for o in ORDERS[1:])]
)
def test_inductor(net, batch, order):
    """The default backend."""
    check(net, batch, order, "inductor")


@pytest.mark.parametrize("order", ORDERS)
def test_the_network_stays_one_graph(net, batch, order):
    """Convolutions and layer losses are compiled together; views and criterion not."""
    graphs = []

    def backend(module, _):
        graphs.append(Counter(str(node.target) for node in module.graph.nodes))
        return module.forward

    steps(net, *compiled(net, order, backend), (batch[0], batch[1]))
    assert len(graphs[0]) > 10
    operations = graphs[0]
    assert sum("conv2d" in name for name in operations) == 1
    assert sum(count for name, count in operations.items() if "conv2d" in name) == 2
    assert any("sum" in name for name in operations)


def test_attach_after_the_first_compiled_step(net, batch):
    """A graph that was compiled without hooks is not used any more."""
    model = torch.compile(net, backend="eager")
    criterion = nn.CrossEntropyLoss()
    for _ in range(2):
        criterion(model(batch[0]), batch[1]).backward()
    attachment = attach(model, criterion, **OPTIONS)
    for _ in range(2):
        criterion(model(batch[0]), batch[1]).backward()
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"]) == (2, 2)
    attachment.remove()
    twin = copy.deepcopy(net)
    torch.testing.assert_close(model(batch[0]), twin(batch[0]))


def test_a_stale_graph_of_a_part_is_never_silent(batch):
    """A block that was compiled and run before attach either fires or raises."""
    net = SmallNet()
    net.features.compile(backend="eager")
    net(batch[0])
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    try:
        criterion(net(batch[0]), batch[1]).backward()
    except RuntimeError as error:
        assert "did not fire" in str(error)  # noqa: PT017
    else:
        assert len(attached(net).stats()["layers"]) == 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_layer_overwritten_in_place_is_right_in_a_graph(net, batch, backend):
    """What eager mode refuses, a graph computes from values of its own.

    Loss and gradients are those of the network whose ReLU does not write in place.
    """
    images, targets = batch
    twin = copy.deepcopy(net)
    twin.features[2].inplace = False
    model = torch.compile(net, backend=backend)
    losses = []
    for owner, called in ((twin, twin), (net, model)):
        _, criterion = attach(
            owner, nn.CrossEntropyLoss(), layers="features.1", **OPTIONS
        )
        loss = criterion(called(images), targets)
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    for ours, reference in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, atol=1e-6, rtol=1e-4)


def test_one_graph_for_any_size():
    """With symbolic sizes and strides: the eager loss and its gradient."""
    loss = torch.compile(
        lambda a: invariance_loss(a, 2),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for shape in ((6, 3, 4, 4), (8, 3, 5, 6)):
        ours = torch.randn(shape, requires_grad=True)
        twin = ours.detach().clone().requires_grad_()
        graph, eager = loss(ours), invariance_loss(twin, 2)
        graph.backward()
        eager.backward()
        torch.testing.assert_close(graph, eager)
        torch.testing.assert_close(ours.grad, twin.grad)
