"""MONAI's networks, losses, tensors with metadata and trainer, in two dimensions."""

import pytest
import torch
from test_trainers_loop import OPTIONS, trained
from torch import nn

from dai_plugin import attach

monai = pytest.importorskip("monai", reason="needs --group integrations")
nets, losses, engines, data = (
    pytest.importorskip(f"monai.{name}", reason="needs --group integrations")
    for name in ("networks.nets", "losses", "engines", "data")
)
pytest.importorskip("ignite", reason="needs --group integrations")
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


def samples(dense):
    """Eight images of one channel, with a class or with a mask each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": data.MetaTensor(torch.rand(1, 32, 32, generator=generator)),
            "label": (
                data.MetaTensor(torch.randint(2, (1, 32, 32), generator=generator))
                if dense
                else index % 3
            ),
        }
        for index in range(8)
    ]


def run(net, criterion, dense, **options):
    """Two epochs of two batches; returns the trainer."""
    torch.manual_seed(0)
    trainer = engines.SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=data.DataLoader(data.Dataset(samples(dense)), batch_size=4),
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.01),
        loss_function=criterion,
        decollate=False,
        **options,
    )
    trainer.run()
    return trainer


def test_monai_classification():
    """DenseNet121 of two dimensions, made small."""
    net = nets.DenseNet121(
        2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2, 2)
    )
    attachment = attach(net, criterion := nn.CrossEntropyLoss(), **OPTIONS)
    trainer = run(net, criterion, dense=False)
    stats = trained(attachment, 4)
    assert trainer.state.output["loss"].item() == pytest.approx(stats["total_loss"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_monai_segmentation(accumulation):
    """A U-Net with Dice and cross entropy: views that keep each pixel in its place."""
    net = nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4))
    criterion = losses.DiceCELoss(to_onehot_y=True, softmax=True)
    attachment = attach(net, criterion, scheme="photometric", **OPTIONS)
    trainer = run(net, criterion, dense=True, accumulation_steps=accumulation)
    stats = trained(attachment, 4)
    assert trainer.state.output["pred"].shape == (4, 2, 32, 32)
    if accumulation == 1:
        loss = trainer.state.output["loss"].item()
        assert loss == pytest.approx(stats["total_loss"])


def test_monai_masks_follow_their_pixels():
    """Its losses ignore no label: what lies outside the image becomes background."""
    net = nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4))
    criterion = losses.DiceCELoss(to_onehot_y=True, softmax=True)
    attachment = attach(net, criterion, ignore_index=0, **OPTIONS)
    run(net, criterion, dense=True)
    trained(attachment, 4)
