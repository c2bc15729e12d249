"""The paper's networks: sizes, shapes, the layers that "auto" takes, their start."""

import math
import sys

import pytest
import torch
from conftest import REFERENCE
from torch import nn

import dai_plugin
from dai_plugin.cli.models import load_model

LAYERS = {
    "allcnn": [f"features.{i}" for i in range(2, 24, 3)],
    "allcnn_tiny": [f"features.{i}" for i in range(2, 33, 3)],
    "wrn28_10": [f"blocks.{i}" for i in range(12)],
    "densenet_bc": [f"features.{i}" for i in (0, 1, 6, 11)],
}
PARAMETERS = {  # with 10 classes
    "allcnn": 1_370_986,
    "allcnn_tiny": 2_367_466,  # three times 192 * 192 * 9 + 2 * 192 more
    "wrn28_10": 36_479_194,  # 36.5 M in table 5 of arXiv:1605.07146
    "densenet_bc": 769_162,  # 0.8 M in table 2 of arXiv:1608.06993
}


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import models

    return models


def test_every_own_network_is_checked_here(models):
    """A network without its layers and its size below would go untested."""
    assert set(models.OWN) == set(LAYERS) == set(PARAMETERS)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items(), ids=PARAMETERS)
def test_number_of_parameters(models, name, count):
    """At width 1 the networks are the published ones, to the parameter."""
    with torch.device("meta"):
        model = models.build(name, **models.arguments(name, 10, 1.0))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("name", "layers"), LAYERS.items(), ids=LAYERS)
def test_auto_takes_the_layers_of_the_paper(models, name, layers):
    """Each ReLU; each residual block; the first convolution and the dense blocks."""
    model = models.build(name, num_classes=10, width=0.1)
    assert dai_plugin.select_layers(model) == layers
    example = torch.rand(2, 3, 32, 32)
    assert dai_plugin.select_layers(model, example=example) == layers


@pytest.mark.parametrize("name", LAYERS)
def test_a_step_reaches_every_parameter(models, name):
    """No chosen output is overwritten, every layer has its loss, all parts learn."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=7, width=0.1)
    model, criterion = dai_plugin.attach(
        model, nn.CrossEntropyLoss(), num_views=2, mean=0.0, std=1.0
    )
    outputs = model(torch.rand(4, 3, 32, 32))
    assert outputs.shape == (4, 7)
    criterion(outputs, torch.arange(4)).backward()
    stats = dai_plugin.attached(model).stats()
    assert list(stats["layers"]) == LAYERS[name]
    assert all(math.isfinite(v) and v > 0 for v in stats["layers"].values())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


SHAPES = {  # of the last chosen layer at full width: channels, side
    "allcnn": (32, (192, 6)),
    "allcnn_tiny": (64, (192, 6)),
    "wrn28_10": (32, (640, 8)),
    "densenet_bc": (32, (342, 8)),
}


@pytest.mark.parametrize(("name", "expected"), SHAPES.items(), ids=SHAPES)
def test_features_end_at_the_published_size(models, name, expected):
    """Tiny ImageNet's All-CNN ends where All-CNN-C does on half the side."""
    size, (channels, side) = expected
    shapes = []
    with torch.device("meta"):
        model = models.build(name)
        model.get_submodule(LAYERS[name][-1]).register_forward_hook(
            lambda module, inputs, output: shapes.append(output.shape)
        )
        model(torch.empty(2, 3, size, size))
    assert shapes == [(2, channels, side, side)]


@pytest.mark.parametrize(
    ("name", "width", "mode"),
    [("wrn28_10", 0.5, 0), ("densenet_bc", 1, 1)],
    ids=["fan_out", "fan_in"],
)
def test_he_initialisation(models, name, width, mode):
    """Each convolution's deviation is that of its fan, the classifier has no bias."""
    torch.manual_seed(0)
    model = models.build(name, width=width)
    ratios = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            weight = module.weight
            fan = weight.shape[mode] * weight.shape[2] * weight.shape[3]
            ratios.append(weight.std().item() / math.sqrt(2 / fan))
    assert len(ratios) > 10
    assert all(abs(ratio - 1) < 0.06 for ratio in ratios)
    assert not model.classifier.bias.any()


def test_the_residual_shortcut_is_the_input_or_a_projection_of_it(models):
    """Identity where the shape stays, elsewhere a projection behind BN and ReLU."""
    torch.manual_seed(0)
    model = models.build("wrn28_10", width=0.1).eval()
    features = torch.randn(2, 16, 8, 8)
    shapes = [b.shortcut is not None for b in model.blocks]
    assert shapes == [i in (4, 8) for i in range(12)]  # 16 channels stay at width 0.1
    for block in (model.blocks[0], model.blocks[4]):
        nn.init.zeros_(block.residual[-1].weight)
        before = features.clone()
        expected = features
        if block.shortcut is not None:
            expected = block.shortcut(block.activate[0](features).relu())
        assert torch.equal(block(features), expected)
        assert torch.equal(features, before)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_a_width_that_is_none(models, width):
    """Refused with the flag's name, before a network of one channel is trained."""
    with pytest.raises(ValueError, match=f"--width {width}: give a number above 0"):
        models.arguments("wrn28_10", 10, width)


def test_no_width_names_those_that_have_one(models):
    """Networks of torchvision have a fixed size."""
    with pytest.raises(ValueError, match="resnet18 has no width factor; allcnn, "):
        models.arguments("resnet18", 10, 0.5)


def test_the_file_loads_by_its_path_alone(monkeypatch):
    """The command line opens it so, with no such folder to import from."""
    elsewhere = [folder for folder in sys.path if folder != str(REFERENCE)]
    monkeypatch.setattr(sys, "path", elsewhere)
    for name in ("models", "allcnn", "wideresnet", "densenet"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    source = f"{REFERENCE / 'models.py'}:wrn28_10"
    loaded = load_model(source, options={"width": 0.05})
    assert type(loaded.model).__name__ == "WideResNet"
