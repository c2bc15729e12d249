"""FSDP2 on two gloo processes: each rank's own loss, mean gradients."""

import logging

import processes
import pytest
from test_ddp import OPTIONS, check, mirror, network, rows_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dai_plugin import attach, attached


def fsdp(rank, order, blocks):
    logging.disable()
    net, criterion = network(), nn.CrossEntropyLoss()
    if order == "before":
        attach(net, criterion, scheme=mirror, **OPTIONS)
    mesh = init_device_mesh("cpu", (2,))
    if blocks:
        fully_shard(net.features, mesh=mesh)
    fully_shard(net, mesh=mesh)
    if order == "after":
        attach(net, criterion, scheme=mirror, **OPTIONS)
    images, targets = rows_of(rank)
    losses = []
    for _ in range(3):
        net.zero_grad()
        loss = criterion(net(images), targets)
        loss.backward()
        losses.append(loss.item())
    assert attached(net).stats()["missed"] == 0
    grads = [p.grad for p in net.parameters()]
    assert all(isinstance(g, DTensor) for g in grads)
    return losses, [g.full_tensor() for g in grads]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks"])
def test_each_rank_is_one_process_given_its_rows(order, blocks):
    """`fully_shard` before or after attach, on the network and on its blocks."""
    check(processes.run(fsdp, 2, order, blocks))
