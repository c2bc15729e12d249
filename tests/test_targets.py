"""Targets and class weights of any kind, once a view, as the loop passes them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import SmallNet
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}

CALLS = {
    "labels": lambda c, o: c(o, torch.tensor([0, 1, 4, 1])),
    "soft": lambda c, o: c(o, torch.rand(4, 5).softmax(1)),
    "keywords": lambda c, o: c(input=o, target=torch.tensor([0, 1, 4, 1])),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_targets_reach_the_criterion_unchanged(net, batch, call):
    """[B], soft [B, K], by position or by keyword."""
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    call(criterion, net(batch[0])).backward()
    assert attached(net).stats()["criterion_calls"] == 1


def test_class_weights_as_many_as_images(net, batch):
    """Weights of length K == B are weights, not rows."""
    images = torch.cat([batch[0], batch[0][:1]])
    targets, weight = torch.tensor([0, 1, 4, 1, 2]), torch.rand(5)
    with attach(net, F.cross_entropy, **OPTIONS) as attachment:
        loss = F.cross_entropy(net(images), targets, weight)
        loss.backward()
        stats = attachment.stats()
    assert stats["criterion_calls"] == 1
    assert stats["task_loss"] != stats["total_loss"]


def test_binary_targets_of_a_single_output(batch):
    """BCE on a squeezed output: the views are squeezed alike."""
    images, _ = batch
    net = SmallNet(classes=1)
    _, criterion = attach(net, nn.BCEWithLogitsLoss(), **OPTIONS)
    criterion(net(images).squeeze(1), torch.tensor([0.0, 1.0, 1.0, 0.0])).backward()
    assert attached(net).stats()["missed"] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_masks_with_a_photometric_scheme(batch, reduction):
    """Segmentation: [B, H, W] targets, every reduction, pixels stay in place."""
    images, _ = batch
    masks = torch.randint(2, (4, 12, 12))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    _, criterion = attach(
        net, nn.CrossEntropyLoss(reduction=reduction), scheme="photometric", **OPTIONS
    )
    loss = criterion(net(images), masks)
    assert loss.shape == ((4, 12, 12) if reduction == "none" else ())
    loss.sum().backward()
    assert attached(net).stats()["criterion_calls"] == 1


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvision_segmentation(name):
    """Its networks and the criterion of its own reference script, aux head included."""
    options = {"num_classes": 3, "weights": None, "weights_backbone": None}
    if name.startswith("fcn"):
        options["aux_loss"] = True
    net = torchvision.models.get_model(name, **options)
    images, masks = torch.rand(2, 3, 32, 32), torch.randint(3, (2, 32, 32))

    def criterion(inputs, target):
        losses = {
            k: F.cross_entropy(v, target, ignore_index=255) for k, v in inputs.items()
        }
        if len(losses) == 1:
            return losses["out"]
        return losses["out"] + 0.5 * losses["aux"]

    _, criterion = attach(net, criterion, ignore_index=255, **OPTIONS)
    output = net(images)
    assert output["out"].shape == (2, 3, 32, 32)
    criterion(output, masks).backward()
    stats = attached(net).stats()
    assert stats["criterion_calls"] == 1
    assert len(stats["layers"]) >= 2
