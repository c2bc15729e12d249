"""sync=True: the loss of the global batch, on any number of processes."""

import logging

import processes
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dai_plugin import attach, attached

VIEWS = 3
MEANS = ["jsd", "cosine"]  # over images: they add up by their number
OPTIONS = {"num_views": VIEWS, "mean": 0.0, "std": 1.0, "seed": 0}


class Net(nn.Module):
    """Without batch norm, whose statistics are each rank's own."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Linear(32, 5)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def network():
    torch.manual_seed(0)
    return Net()


def darker(images):
    """A scheme without random numbers: the second view mirrored, the third dark."""
    second, third = images.chunk(VIEWS - 1)
    return torch.cat([second.flip(3), 0.3 * third])


def batch(count):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, 8, 8, generator=generator)
    images += 2 * torch.rand(count, 1, 1, 1, generator=generator)  # ranks differ
    return images, torch.randint(5, (count,), generator=generator)


def step(net, model, images, targets, **options):
    """Loss, layers' losses and whole gradients of one step."""
    criterion = nn.CrossEntropyLoss()
    attach(model, criterion, scheme=darker, **OPTIONS, **options)
    loss = criterion(model(images), targets)
    loss.backward()
    grads = [p.grad for p in net.parameters()]
    whole = [g.full_tensor() if isinstance(g, DTensor) else g for g in grads]
    return loss.item(), list(attached(model).stats()["layers"].values()), whole


def on_ranks(rank, sizes, wrapper, options):
    logging.disable()
    images, targets = (part.split(sizes)[rank] for part in batch(sum(sizes)))
    net = model = network()
    if wrapper == "ddp":
        model = DistributedDataParallel(net)
    elif wrapper == "compiled":
        model = torch.compile(DistributedDataParallel(net), backend="aot_eager")
    else:
        mesh = init_device_mesh("cpu", (len(sizes),))
        fully_shard(net.features, mesh=mesh)
        fully_shard(net, mesh=mesh)
    return step(net, model, images, targets, sync=True, **options)


def every(rank, cases):
    return [on_ranks(rank, *case) for case in cases]


def check(cases, results):
    """Results of every rank, case by case, against one process with all rows."""
    for number, (sizes, wrapper, options) in enumerate(cases):
        net = network()
        loss, layers, gradients = step(net, net, *batch(sum(sizes)), **options)
        ranks = [result[number] for result in results]
        for _, ours, ours_gradients in ranks:
            assert ours == pytest.approx(layers, abs=1e-5), wrapper
            for got, expected in zip(ours_gradients, gradients, strict=True):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        mean = sum(rank[0] for rank in ranks) / len(ranks)
        assert mean == pytest.approx(loss, abs=1e-5), wrapper


@pytest.mark.parametrize(
    "world_size", [2, pytest.param(4, marks=pytest.mark.all)], ids="{} processes".format
)
def test_all_processes_are_one_with_their_rows(world_size):
    """Loss and every gradient, with task loss and invariance losses."""
    sizes = [8 // world_size] * world_size
    cases = [
        (sizes, wrapper, {"alpha": 0.4, "correction": correction})
        for wrapper in ("ddp", "fsdp", "compiled")
        for correction in (0, 1)
    ]
    check(cases, processes.run(every, world_size, cases))


@pytest.mark.parametrize(
    "sizes", [[5, 2], pytest.param([1, 3, 2, 4], marks=pytest.mark.all)], ids=str
)
def test_unequal_batches(sizes):
    """The invariance terms are the global batch's whatever each rank holds."""
    cases = [
        (sizes, "ddp", {"alpha": 1.0, "correction": correction})
        for correction in (0, 1)
    ]
    cases += [(sizes, "ddp", {"alpha": 1.0, "term": name}) for name in MEANS]
    check(cases, processes.run(every, len(sizes), cases))


def without_sync(rank):
    images, targets = (part.split([4, 4])[rank] for part in batch(8))
    net = network()
    model = DistributedDataParallel(net)
    return step(net, model, images, targets, alpha=1.0)


def test_without_sync_the_losses_are_others():
    """So that the tests above cannot pass by chance."""
    first, second = processes.run(without_sync, 2)
    net = network()
    loss, *_ = step(net, net, *batch(8), alpha=1.0)
    assert abs((first[0] + second[0]) / 2 - loss) > 1e-3


def dead(rank):
    logging.disable()
    net = network()
    nn.init.constant_(net.features[0].bias, -100.0)  # a layer of zeros
    nn.init.constant_(net.features[2].bias, 0.1)  # and one of equal rows
    _, layers, gradients = step(net, net, *batch(4), alpha=1.0, sync=True)
    return layers, all(not g.any() for g in gradients)


def test_dead_layers_stay_without_gradient():
    """Rows that are equal on all ranks: loss 0, gradient 0."""
    for layers, zero in processes.run(dead, 2):
        assert layers == [0, 0]
        assert zero


def different(rank):
    logging.disable()
    net = network()
    criterion = nn.CrossEntropyLoss()
    layers = ["features.1", "features.3"][: rank + 1]
    attach(net, criterion, layers=layers, sync=True, **OPTIONS)
    try:
        net(batch(2)[0])
    except RuntimeError as error:
        return str(error)


def test_ranks_with_different_layers_are_told():
    """All-reduces of different lengths would mix layers up or never end."""
    for said in processes.run(different, 2):
        assert "same layers" in said
        assert "rank 1" in said


def test_class_terms_are_refused():
    """Classes are not brought together over ranks."""
    with pytest.raises(
        ValueError, match=r"sync=True takes terms that add up over ranks"
    ):
        attach(network(), nn.CrossEntropyLoss(), sync=True, beta=0.1)


def test_one_process_needs_no_group():
    """sync=True on one process is the plain loss."""
    results = []
    for sync in (False, True):
        net = network()
        results.append(step(net, net, *batch(4), alpha=0.5, sync=sync))
    (loss, layers, gradients), (other, others, theirs) = results
    assert (loss, layers) == (other, others)
    assert all(torch.equal(a, b) for a, b in zip(gradients, theirs, strict=True))


def counted(rank):
    logging.disable()
    calls = []
    original = torch.distributed.all_reduce

    def counting(tensor, *args, **kwargs):
        calls.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    net = network()
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, sync=True, **OPTIONS)
    criterion(net(batch(4)[0]), batch(4)[1]).backward()  # layers are compared once
    torch.distributed.all_reduce = counting
    loss = criterion(net(batch(4)[0]), batch(4)[1])
    forward = len(calls)
    loss.backward()
    return calls, forward


def test_two_reductions_forward_none_backward():
    """Counts, squares and means of all layers at once; then one number a layer."""
    features = 2 * 8 * 8 * 8
    for calls, forward in processes.run(counted, 2):
        assert calls == [2 + 2 + features, 2]
        assert forward == 2


def uneven(rank):
    """A kept term at a module that one rank calls more often."""
    logging.disable()
    net = network()
    again = net.features[1].forward
    if rank:
        net.features[1].forward = lambda x: again(x)
        net.features.insert(2, net.features[1])
    images, targets = batch(4)
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, sync=True, term="cosine", layers="features.1",
           scheme=darker, **OPTIONS)  # fmt: skip
    try:
        criterion(net(images), targets)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_kept_terms_need_the_same_layers_on_all_ranks():
    """Before anything is summed."""
    for said in processes.run(uneven, 2):
        assert "same layers" in said
