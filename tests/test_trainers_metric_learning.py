"""Losses of pytorch-metric-learning, their miners, and its trainer."""

import pytest
import torch
from conftest import SmallNet
from test_trainers_loop import OPTIONS, trained
from torch.utils.data import TensorDataset

from dai_plugin import attach

losses, miners, trainers = (
    pytest.importorskip(
        f"pytorch_metric_learning.{name}", reason="needs --group integrations"
    )
    for name in ("losses", "miners", "trainers")
)
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own

LOSSES = {
    "triplet": lambda: losses.TripletMarginLoss(margin=0.5),
    "contrastive": losses.ContrastiveLoss,
    "arcface": lambda: losses.ArcFaceLoss(num_classes=3, embedding_size=6),
}


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(12, 3, 12, 12, generator=generator)
    return TensorDataset(images, torch.arange(12) // 2 % 3)


@pytest.mark.parametrize("kind", LOSSES)
def test_metric_learning_losses(pictures, kind):
    """Per view the stock loss on its rows; a margin head's own weights learn too."""
    torch.manual_seed(0)
    net, criterion = SmallNet(classes=6), LOSSES[kind]()
    rows = []
    attachment = attach(net, criterion, **OPTIONS)
    net.classifier.register_forward_hook(lambda *a: rows.append(a[2].detach()))
    images, labels = pictures[:6]
    loss = criterion(net(images), labels)
    loss.backward()
    stats = trained(attachment, 1)
    assert loss.item() == pytest.approx(stats["total_loss"])
    stock = LOSSES[kind]()
    stock.load_state_dict(criterion.state_dict())
    views = [stock(view, labels).item() for view in rows[0].chunk(2)]
    assert stats["task_loss"] == pytest.approx(sum(views) / 2, rel=1e-5)
    assert all(p.grad.abs().sum() > 0 for p in criterion.parameters())


@pytest.mark.parametrize("kind", ["triplet", "arcface"])
def test_metric_learning_trainer(pictures, kind):
    """Its MetricLossOnly, with a miner that picks from the first view."""
    torch.manual_seed(0)
    net, criterion = SmallNet(classes=6), LOSSES[kind]()
    attachment = attach(net, criterion, **OPTIONS)
    parameters = [*net.parameters(), *criterion.parameters()]
    mined = {"tuple_miner": miners.BatchHardMiner()} if kind == "triplet" else {}
    trainers.MetricLossOnly(
        models={"trunk": net},
        optimizers={"trunk_optimizer": torch.optim.SGD(parameters, lr=0.01)},
        batch_size=6,
        loss_funcs={"metric_loss": criterion},
        mining_funcs=mined,
        dataset=pictures,
        dataloader_num_workers=0,
    ).train(num_epochs=2)
    trained(attachment, 4)
