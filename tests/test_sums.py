"""A loss that is a sum over images means B times the mean, whoever takes it."""

import math

import oracle
import pytest
import torch
from conftest import Plain

from dai_plugin import attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "layers": ["features"]}
SEEDS = range(4)


def hinge(output, target):
    """A sum that does not say so; zero where every image has its margin."""
    return (1 - target * output.squeeze(1)).relu().sum()


@pytest.mark.parametrize("first", [50.0, math.inf, math.nan, 0.0])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_was_seen_is_kept(first, share, seed):
    """A first step of zeros or of no numbers does not tell a sum from a mean."""
    torch.manual_seed(seed)
    size, views, alpha = int(torch.randint(4, 21, ())), 2 + seed % 2, 0.3
    images, net = torch.rand(size, 3, 6, 6), Plain(1)
    attachment = attach(
        net, hinge, num_views=views, alpha=alpha, share=share, **OPTIONS
    )
    net.head.bias.data.fill_(first)
    attachment.criterion(net(images), torch.ones(size))
    net.head.bias.data.fill_(0.0)
    targets = torch.randn(size).sign()
    loss = attachment.criterion(net(images), targets)
    activation, output = net.seen
    viewed = max(1, round(share * size))
    rows = [targets, *[targets[:viewed]] * (views - 1)]
    each = (1 - torch.cat(rows) * output.squeeze(1)).relu()
    in_groups = torch.cat([activation[:viewed], activation[size:]])
    term = oracle.invariance_loss(in_groups, views)
    expected = size * ((1 - alpha) * each.mean() + alpha * term)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
