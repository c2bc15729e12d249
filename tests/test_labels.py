"""What a term takes for the targets, and which of them it leaves out."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Plain

from dai_plugin import attach, class_invariance_loss

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "layers": ["features"]}
SEEDS = range(4)


def batch_of(seed):
    """Images, labels of which some occur more than once, and which images count."""
    torch.manual_seed(seed)
    images = int(torch.randint(3, 7, ()))
    return (
        torch.rand(images, 3, 6, 6),
        torch.randint(3, (images,)),
        torch.rand(images) < 0.5,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("soft", [False, True])
def test_bools_say_which_images_count(seed, soft):
    """Beside labels of any kind, before or behind them, they are no classes."""
    images, labels, counts = batch_of(seed)
    targets = F.one_hot(labels, 5).float() if soft else labels
    seen = []

    def criterion(output, *others):
        first, second = others if others[0] is targets else others[::-1]
        return (F.cross_entropy(output, first, reduction="none") * second).mean()

    def own(activations, targets):
        seen.append(targets)
        return activations.var()

    net = Plain()
    _, watched = attach(net, criterion, term=own, **OPTIONS)
    order = (targets, counts) if soft or seed % 2 else (counts, targets)
    watched(net(images), *order).backward()
    assert torch.equal(seen[0], targets)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_classes_need_labels_of_an_integer_dtype(dtype):
    with pytest.raises(TypeError, match=f"hard labels .* got {dtype}"):
        class_invariance_loss(torch.rand(4, 3), torch.tensor([1, 0, 1, 0]).to(dtype))
