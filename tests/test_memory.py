"""The plugin keeps nothing of a step, and adds next to nothing while it runs."""

import gc
import weakref

import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"num_views": 4, "mean": 0.0, "std": 1.0}


def saved_bytes(step):
    """Bytes of the distinct storages that a step saves for its backward."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = step()
    del loss
    return sum(storages.values())


def test_saved_tensors_beyond_the_rows_are_under_five_per_cent():
    """Compared with the same rows through the same network without the plugin."""
    torch.manual_seed(0)
    net = SmallNet().train()
    images, targets = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    rows, labels = images.repeat(4, 1, 1, 1), targets.repeat(4)
    stock = saved_bytes(lambda: nn.functional.cross_entropy(net(rows), labels))
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    ours = saved_bytes(lambda: criterion(net(images), targets))
    assert ours <= 1.05 * stock


@pytest.mark.parametrize("last", ["criterion", "backward"])
def test_steps_do_not_pile_up(net, batch, last):
    """Whether or not the loop goes on to the backward, one step is held at most."""
    images, targets = batch
    alive = []
    net.features[3].register_forward_hook(lambda *a: alive.append(weakref.ref(a[2])))
    options = {**OPTIONS, "strict": False}
    _, criterion = attach(net, nn.CrossEntropyLoss(), beta=0.1, **options)
    for _ in range(5):
        loss = criterion(net(images), targets)
        if last == "backward":
            loss.backward()
        del loss
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= (last == "criterion")


def test_a_thousand_steps_do_not_grow():
    """Neither tensors nor Python objects accumulate."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    images, targets = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    _, criterion = attach(net, nn.CrossEntropyLoss(), layers="1", **OPTIONS)

    def count():
        gc.collect()
        objects = gc.get_objects()
        return sum(issubclass(type(o), torch.Tensor) for o in objects), len(objects)

    for step in range(1000):
        criterion(net(images), targets).backward()
        if step == 20:
            before = count()
    after = count()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 50
    assert attached(net).stats()["criterion_calls"] == 1000


def test_removed_attachments_let_go(batch):
    """After remove() the network can be collected."""
    net = SmallNet()
    with attach(net, nn.CrossEntropyLoss(), **OPTIONS) as attachment:
        attachment.criterion(net(batch[0]), batch[1]).backward()
    reference = weakref.ref(net)
    del net, attachment
    gc.collect()
    assert reference() is None
