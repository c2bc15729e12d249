"""Networks with auxiliary heads train as their authors trained them, with attach."""

from types import SimpleNamespace

import pytest
import torch
from launches import read
from torch import nn
from torch.nn.functional import cross_entropy

import dai_plugin


@pytest.mark.parametrize(("name", "heads"), [("googlenet", 2), ("inception_v3", 1)])
def test_heads_count_by_their_weight(train, name, heads):
    """Literally: every head's loss on the rows of all views, and the terms once."""
    import models
    from train import loss_of

    options = models.arguments(name, 4, 1.0) | {"init_weights": False}
    torch.manual_seed(0)
    model = models.build(name, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    criterion = nn.CrossEntropyLoss()
    attachment = dai_plugin.attach(
        model, criterion, num_views=2, alpha=0.2, layers="fc", mean=0.0, std=1.0
    )
    seen = []
    first = model.get_submodule("conv1" if name == "googlenet" else "Conv2d_1a_3x3")
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    side = 32 if name == "googlenet" else 299
    images, targets = torch.rand(3, 3, side, side), torch.tensor([0, 3, 1])
    run = SimpleNamespace(criterion=criterion, args=SimpleNamespace(model=name))
    loss, outputs = loss_of(run, model(images), targets)
    handle.remove()
    assert outputs.shape == (3, 4)
    (term,) = attachment.stats()["layers"].values()
    attachment.remove()
    whole = model(seen[0])
    assert len(whole) == 1 + heads
    weights = [1.0, *[{"googlenet": 0.3, "inception_v3": 0.4}[name]] * heads]
    task = sum(
        weight * cross_entropy(output, targets.repeat(2))
        for weight, output in zip(weights, whole, strict=True)
    )
    assert loss.item() == pytest.approx(0.8 * task.item() + 0.2 * term, rel=1e-4)


def test_a_run_with_auxiliary_heads(train, tmp_path):
    """They are trained, and no part of what is tested."""
    flags = (
        "--dataset", "fake", "--model", "googlenet", "--train-images", 16,
        "--test-images", 8, "--batch-size", 8, "--epochs", 1, "--workers", 0,
        "--output-dir", tmp_path, "--seed", 3,
    )  # fmt: skip
    train(*flags)
    (row,) = read(tmp_path)
    assert float(row["loss"]) > 0
    assert float(row["acc1"]) >= 0
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    heads = [n for n in saved["model"] if n.startswith("aux") and "weight" in n]
    train(*flags, "--freeze", "aux*", "--lr", 0, "--overwrite")
    still = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    assert all(not torch.equal(saved["model"][n], still[n]) for n in heads)


SIZES = [
    ("inception_v3", 224, r"Kernel size can't be greater than actual input size"),
    ("vit_b_16", 16, r"Wrong image height! Expected 224 but got 16!"),
    ("alexnet", 20, r"Output size is too small"),
]


@pytest.mark.parametrize(("name", "side", "message"), SIZES)
def test_images_that_a_network_does_not_take(train, name, side, message):
    """Told before anything trains, in its own words and with the flag that helps."""
    import models

    with torch.device("meta"):
        model = models.build(name, **models.arguments(name, 5, 1.0))
    told = rf"--model {name} does not run on images of {side} x {side} .*{message}"
    with pytest.raises(ValueError, match=rf"{told}.*another --train-crop-size"):
        models.try_size(model, name, side, "--train-crop-size")


def test_trying_a_size_leaves_no_trace(train):
    """Neither in batch norm's statistics nor in the random stream."""
    import models

    model = models.build("allcnn", num_classes=5, width=0.05)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    models.try_size(model, "allcnn", 32, "--train-crop-size")
    assert torch.equal(torch.rand(3), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
