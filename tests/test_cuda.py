"""What can only be seen on a GPU: no synchronisation, capture in a graph, agreement."""

import copy

import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach, measure

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs an NVIDIA GPU"
)
OPTIONS = {"num_views": 4, "mean": 0.5, "std": 0.5, "seed": 3}


@pytest.fixture
def gpu():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16, device="cuda")
    return SmallNet().cuda(), images, torch.tensor([0, 1, 4, 1], device="cuda")


@pytest.mark.parametrize("integers", [False, True])
def test_no_step_synchronises(gpu, integers):
    """With attach, on float and on uint8 images."""
    net, images, targets = gpu
    images = (images * 255).to(torch.uint8) if integers else images
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    for step in range(5):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")
        try:
            criterion(net(images), targets).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_profiler_sees_no_synchronisation(gpu):
    """Copies from pageable memory, which the debug mode misses, included."""
    net, images, targets = gpu
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    for _ in range(2):
        criterion(net(images), targets).backward()
    torch.cuda.synchronize()
    with torch.profiler.profile() as profile:
        criterion(net(images), targets).backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    waits = {k: v for k, v in calls.items() if "Synchronize" in k or "Memcpy HtoD" in k}
    # The profiler itself waits once when it ends.
    assert sum(waits.values()) <= 1, waits


def test_the_loss_agrees_with_the_cpu(gpu):
    """The same rows on both: loss and gradients."""
    net, images, targets = gpu
    results = []
    for device in ("cpu", "cuda"):
        twin = copy.deepcopy(net).to(device)
        photometric = {**OPTIONS, "first_view": "clean", "num_views": 2}
        dai = DataAugmentationInvariance(twin, scheme=lambda x: 1 - x, **photometric)
        rows, labels = dai.views(images.to(device), targets.to(device))
        loss = dai.loss(nn.functional.cross_entropy(twin(rows), labels))
        loss.backward()
        results.append([loss.cpu(), *(p.grad.cpu() for p in twin.parameters())])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-2, atol=1e-4)


def test_network_loss_and_backward_are_captured_in_a_graph(gpu):
    """A replay gives the loss of an eager step on the same rows."""
    net, images, targets = gpu
    dai = DataAugmentationInvariance(net, **OPTIONS)
    rows, labels = dai.views(images, targets)

    def step():
        loss = dai.loss(nn.functional.cross_entropy(net(rows), labels))
        loss.backward()
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = step()
            dai.views(images, targets)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.testing.assert_close(captured, expected, rtol=1e-3, atol=1e-4)


def test_measures_agree_with_the_cpu(gpu):
    """Tables of both groups, on the same images."""
    net, images, targets = gpu
    images = torch.cat([images, images.flip(3), 1 - images])
    data = list(zip(images.split(5), targets.repeat(3).split(5), strict=True))
    options = {"mean": 0.0, "std": 1.0}
    one = measure(net, data, **options).tables
    cpu = [(x.cpu(), y.cpu()) for x, y in data]
    other = measure(copy.deepcopy(net).cpu(), cpu, **options).tables
    for group, tables in one.items():
        for name, places in tables.items():
            for place, table in places.items():
                expected = other[group][name][place].double()
                torch.testing.assert_close(
                    table.double(), expected, atol=1e-3, rtol=1e-3, equal_nan=True
                )
