"""timm's training task, its averaged weights, and its checkpointing."""

import pytest
import torch
from test_trainers_loop import OPTIONS, trained
from torch import nn

from dai_plugin import attach, attached

timm = pytest.importorskip("timm", reason="needs --group integrations")
timm_utils, timm_task = (
    pytest.importorskip(f"timm.{name}", reason="needs --group integrations")
    for name in ("utils", "task")
)
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own

NETWORKS = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3, "embed_dim": 48},
    "resnet10t": {},
}


def network(name, checkpointing=False):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5, **NETWORKS[name])
    net.set_grad_checkpointing(checkpointing)
    return net


def batches(count):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 4, 3, 32, 32, generator=generator)
    return zip(images, torch.arange(count * 4).view(count, 4) % 5, strict=True)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_timm_task_with_ema(name, checkpointing):
    """The loop of its script: task, loss, step, average; the average stays stock."""
    net, criterion = network(name, checkpointing), nn.CrossEntropyLoss()
    task = timm_task.ClassificationTask(net, criterion, verbose=False)
    keys = list(net.state_dict())
    attachment = attach(net, criterion, **OPTIONS)
    ema = task.setup_ema(decay=0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for images, targets in batches(3):
        optimizer.zero_grad()
        result = task(images, targets)
        assert result["output"].shape == (4, 5)
        result["loss"].backward()
        optimizer.step()
        task.update_ema()
    assert trained(attachment, 3)["total_loss"] == pytest.approx(result["loss"].item())
    assert attached(ema.module) is None
    assert list(ema.module.state_dict()) == keys
    first, average = next(net.parameters()), next(ema.module.parameters())
    assert not torch.equal(first, average)
    with torch.no_grad():
        ema.module.eval()(images)
    assert attachment.stats()["forwards"] == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_timm_checkpointing_keeps_the_gradient(name):
    """Recomputed in the backward or kept: the same loss and the same gradient."""
    found = []
    for checkpointing in (False, True):
        net, criterion = network(name, checkpointing), nn.CrossEntropyLoss()
        attachment = attach(net, criterion, **OPTIONS)
        for images, targets in batches(1):
            criterion(net(images), targets).backward()
        trained(attachment, 1)
        found.append([p.grad.clone() for p in net.parameters()])
    for kept, recomputed in zip(*found, strict=True):
        assert torch.allclose(kept, recomputed, rtol=1e-5, atol=1e-7)


def test_timm_average_taken_before_attaching():
    """An average of stock weights follows the attached network's."""
    net, criterion = network("resnet10t"), nn.CrossEntropyLoss()
    ema = timm_utils.ModelEmaV3(net, decay=0.0)
    attachment = attach(net, criterion, **OPTIONS)
    for images, targets in batches(1):
        criterion(net(images), targets).backward()
    torch.optim.SGD(net.parameters(), lr=0.05).step()
    ema.update(net)
    trained(attachment, 1)
    for ours, averaged in zip(net.parameters(), ema.module.parameters(), strict=True):
        assert torch.equal(ours, averaged)
