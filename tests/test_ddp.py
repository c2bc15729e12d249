"""DistributedDataParallel on two gloo processes: each rank's loss, mean gradients."""

import logging
import logging.handlers

import processes
import pytest
import torch
from accelerate import Accelerator
from conftest import SmallNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dai_plugin import attach, attached

OPTIONS = {"num_views": 2, "alpha": 0.4, "mean": 0.0, "std": 1.0}
WRAPPERS = {
    "plain": {},
    "find unused": {"find_unused_parameters": True},
    "static graph": {"static_graph": True},
}


def mirror(images):
    """A scheme without random numbers, the same on every rank."""
    return images.flip(3)


def rows_of(rank):
    generator = torch.Generator().manual_seed(10 + rank)
    images = torch.rand(4, 3, 12, 12, generator=generator)
    return images, torch.randint(5, (4,), generator=generator)


def network():
    torch.manual_seed(0)
    return SmallNet()


def steps(net, model, criterion, rank, count=3):
    """Losses and gradients of some steps, without an optimizer between them."""
    images, targets = rows_of(rank)
    losses = []
    for _ in range(count):
        net.zero_grad()
        loss = criterion(model(images), targets)
        loss.backward()
        losses.append(loss.item())
    return losses, [p.grad.clone() for p in net.parameters()]


def ddp(rank, wrapper, order):
    logging.disable()
    net, criterion = network(), nn.CrossEntropyLoss()
    if order == "before":
        attach(net, criterion, scheme=mirror, **OPTIONS)
    model = DistributedDataParallel(net, **wrapper)
    if order == "after":
        attach(model, criterion, scheme=mirror, **OPTIONS)
    result = steps(net, model, criterion, rank)
    stats = attached(model).stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (3, 3, 0)
    return result


def prepared(rank, order):
    logging.disable()
    net, criterion = network(), nn.CrossEntropyLoss()
    accelerator = Accelerator(cpu=True)
    if order == "before":
        attach(net, criterion, scheme=mirror, **OPTIONS)
    model = accelerator.prepare(net)
    if order == "after":
        attach(model, criterion, scheme=mirror, **OPTIONS)
    assert isinstance(model, DistributedDataParallel)
    return steps(net, model, criterion, rank)


def single(rank):
    """One process that is given the rows of that rank."""
    net, criterion = network(), nn.CrossEntropyLoss()
    attach(net, criterion, scheme=mirror, **OPTIONS)
    return steps(net, net, criterion, rank)


def check(results):
    expected = [single(rank) for rank in range(2)]
    for (losses, _), (reference, _) in zip(results, expected, strict=True):
        assert losses == pytest.approx(reference, abs=1e-5)
    means = [sum(pair) / 2 for pair in zip(*(g for _, g in expected), strict=True)]
    for _, gradients in results:
        for got, mean in zip(gradients, means, strict=True):
            torch.testing.assert_close(got, mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_each_rank_is_one_process_given_its_rows(wrapper, order):
    """Whatever DDP's options, and on whichever side of it attach is called."""
    check(processes.run(ddp, 2, wrapper, order))


@pytest.mark.parametrize("order", ["before", "after"])
def test_accelerator_prepare(order):
    """On either side of `accelerator.prepare`, the same losses and gradients."""
    check(processes.run(prepared, 2, order))


def draws(rank):
    notices = logging.handlers.BufferingHandler(100)
    logging.getLogger("dai_plugin").addHandler(notices)
    net = SmallNet().train()
    attach(net, nn.CrossEntropyLoss(), seed=1)
    rows = []
    net.features[0].register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # Only the first rank's images tell their range: all ranks take its guess.
    net(images * 2 - 1 if rank == 0 else images)
    said = [record.getMessage() for record in notices.buffer]
    return rows[0][2:], attached(net).state_dict(), said


def test_ranks_draw_their_own_views_and_share_the_input_range():
    """Equal seeds, different views; the normalisation is the first rank's guess."""
    (first, state, said), (second, other, silence) = processes.run(draws, 2)
    assert not torch.equal(first, second)
    assert state == other
    assert state["mean"] == [0.5]
    assert any("statistics are local to each of 2 ranks" in text for text in said)
    assert silence == []


def joined(rank):
    net, criterion = SmallNet().train(), nn.CrossEntropyLoss()
    parallel = DistributedDataParallel(net)
    attach(parallel, criterion, sync=True, mean=0.0, std=1.0)
    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    criterion(parallel(images), targets).backward()
    try:
        with parallel.join():
            parallel(images)
    except RuntimeError as error:
        return str(error)
    return "trained"


def test_statistics_over_ranks_are_refused_where_ranks_may_leave():
    """Inside ddp.join() the others would wait for a rank without data for ever."""
    for said in processes.run(joined, 2):
        assert "set sync=False, or give all ranks as many batches" in said
