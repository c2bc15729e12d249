"""torch.compile on either side of attach: the eager loss, one graph for the network."""

import copy
from collections import Counter

import pytest
import torch
from conftest import SmallNet
from torch import nn
from torch._dynamo.utils import counters

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


def batches(sizes):
    """Random images and labels, of these sizes."""
    generator = torch.Generator().manual_seed(sum(sizes))
    for size in sizes:
        images = torch.rand(size, 3, 12, 12, generator=generator)
        yield images, torch.randint(5, (size,), generator=generator)


def graphs_and_losses(sizes, dynamic=None, order=None, **options):
    """How many graphs a compiled run makes, and its losses; stock without an order."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    model, losses = net, []
    for part in (order or "compile").split(", "):
        if part == "attach":
            attach(model, criterion, **(OPTIONS | options))
        else:
            model = torch.compile(net, backend="aot_eager", dynamic=dynamic)
    for images, targets in batches(sizes):
        losses.append(criterion(model(images), targets))
        losses[-1].backward()
    return counters["stats"]["unique_graphs"], [loss.item() for loss in losses]


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("order", ORDERS[:2])
def test_as_many_graphs_as_the_stock_network_makes(dynamic, order):
    """Over ten sizes, beside a stock network that gets as many rows; eager losses.

    Of rows, because torch's own convolutions tell some numbers of them apart.
    """
    views = 2 if order.startswith("attach") else 3
    draw = torch.Generator().manual_seed(views + bool(dynamic))
    sizes = (torch.randperm(19, generator=draw)[:10] + 2).tolist()
    stock, _ = graphs_and_losses([views * size for size in sizes], dynamic)
    graphs, losses = graphs_and_losses(sizes, dynamic, order, num_views=views)
    assert graphs == stock
    with torch.compiler.set_stance("force_eager"):
        _, expected = graphs_and_losses(sizes, dynamic, order, num_views=views)
    assert losses == pytest.approx(expected, abs=1e-5)


class Written(nn.Module):
    """Convolutions, each with an activation written into its output, or beside it."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        depth = int(torch.randint(3, 6, (), generator=generator))
        self.written = torch.randint(3, (depth,), generator=generator).tolist()
        self.written[seed % depth] = 0  # one is left for "auto"
        self.layers = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 5, 5, 3, padding=1) for i in range(depth)
        )

    def forward(self, x):
        for layer, how in zip(self.layers, self.written, strict=True):
            x = layer(x)
            x = torch.relu_(x) if how == 2 else nn.functional.relu(x, inplace=how == 1)
        return x.mean((2, 3))


@pytest.mark.parametrize("seed", range(4))
def test_auto_takes_the_same_layers_in_a_graph(seed):
    """What functional in-place activations overwrite is left out; losses agree."""
    seen = []
    for backend in (None, "eager", "aot_eager"):
        torch._dynamo.reset()
        torch.manual_seed(seed)
        net = Written(seed)
        criterion = nn.CrossEntropyLoss()
        attach(net, criterion, **OPTIONS)
        model = torch.compile(net, backend=backend) if backend else net
        losses = []
        for images, targets in batches([4, 4, 3]):
            losses.append(criterion(model(images), targets))
            losses[-1].backward()
        seen.append((attached(net).layers, [loss.item() for loss in losses]))
    (layers, expected), *compiled_runs = seen
    assert len(layers) == net.written.count(0)
    for same, losses in compiled_runs:
        assert same == layers
        assert losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", ["whole", "in place"])
@pytest.mark.parametrize("second", [["features.0"], ["features.4", "classifier"]])
def test_other_layers_after_remove_are_trained_or_refused(order, second, batch):
    """A compiled network that is attached anew: the eager losses, or what to do."""
    images, targets = batch
    seen = []
    for compile_it in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = SmallNet()
        net.features[2].inplace = net.features[4].inplace = False
        model, losses = net, []
        if compile_it and order == "whole":
            model = torch.compile(net, backend="aot_eager")
        elif compile_it:
            net.compile(backend="aot_eager")
        for layers in (["features.2"], second, ["features.3"]):
            criterion = nn.CrossEntropyLoss()
            with attach(model, criterion, layers=layers, **OPTIONS):
                for _ in range(2):
                    try:
                        losses.append(criterion(model(images), targets))
                    except RuntimeError as error:
                        assert compile_it, error  # noqa: PT017
                        assert "compile it afterwards" in str(error)  # noqa: PT017
                        losses.append(None)
                        continue
                    losses[-1].backward()
        seen.append([None if loss is None else loss.item() for loss in losses])
    for loss, expected in zip(seen[1], seen[0], strict=True):
        assert loss is None or loss == pytest.approx(expected, abs=1e-5)
