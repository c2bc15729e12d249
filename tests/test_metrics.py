"""What loops do with the output beside the criterion: they see B rows of it."""

import copy

import pytest
import torch
from torch import nn

from dai_plugin import attach, attached

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def accuracy(output, target, topk=(1, 3)):
    """Top-k counts, as torchvision's reference script takes them."""
    _, prediction = output.topk(max(topk), 1, True, True)
    correct = prediction.t().eq(target[None])
    return [correct[:k].flatten().sum().item() for k in topk]


def test_metrics_count_the_loops_images(net, loader):
    """Accuracy after the criterion counts each image once, whatever the views."""
    _, criterion = attach(net, nn.CrossEntropyLoss(), num_views=4, **AS_THEY_ARE)
    seen = 0
    for images, targets in loader:
        output = net(images)
        criterion(output, targets).backward()
        top1, top3 = accuracy(output, targets)
        assert 0 <= top1 <= top3 <= len(targets)
        seen += len(output)
    assert seen == 10


def test_metrics_are_those_of_the_clean_batch(net, batch):
    """With first_view="clean", accuracy is what the stock network would get."""
    images, targets = batch
    net.features[1].eval()
    stock = copy.deepcopy(net)(images)
    _, criterion = attach(net, nn.CrossEntropyLoss(), num_views=3, **AS_THEY_ARE)
    output = net(images)
    criterion(output, targets)
    assert accuracy(output, targets) == accuracy(stock, targets)


@pytest.mark.parametrize("order", ["before", "after"])
def test_output_changed_in_place(net, batch, order):
    """A loop may write into its output: after the criterion it is free to."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    output = net(images)
    if order == "after":
        criterion(output, targets).backward()
        output.detach().clamp_(min=0)
        assert attached(net).stats()["missed"] == 0
        return
    # Scaled in place before the criterion, the output is no longer the network's.
    output /= 2
    criterion(output, targets).backward()
    net.eval()(images)
    assert attached(net).stats()["missed"] == 1


def test_channels_last_stays(net, batch):
    """Images and network in channels_last keep their memory format through the rows."""
    images, targets = batch
    net = net.to(memory_format=torch.channels_last)
    formats = []
    net.features[3].register_forward_hook(
        lambda _, rows, out: formats.extend(
            t.is_contiguous(memory_format=torch.channels_last) for t in (rows[0], out)
        )
    )
    _, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    images = images.to(memory_format=torch.channels_last)
    criterion(net(images), targets).backward()
    assert formats == [True, True]
