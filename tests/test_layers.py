"""Which layers are chosen, by rule, by name, by class."""

import pytest
import torch
import torchvision
from conftest import SmallNet
from torch import nn

from dai_plugin import attach
from dai_plugin.layers import select_layers, why_not

FIXED = {
    "resnet18": 8,
    "resnet50": 16,
    "densenet121": 5,
    "vgg16": 13,
    "vgg16_bn": 13,
    "alexnet": 5,
    "mobilenet_v2": 17,
    "efficientnet_b0": 16,
    "efficientnet_v2_s": 40,
    "convnext_tiny": 18,
    "vit_b_16": 12,
    "swin_t": 12,
    "googlenet": 9,
}


def network(name):
    with torch.device("meta"):
        options = {"init_weights": False} if name == "googlenet" else {}
        return torchvision.models.get_model(name, weights=None, **options)


@pytest.mark.parametrize(("name", "count"), FIXED.items())
def test_auto_takes_the_blocks_or_the_activations(name, count):
    """The number of layers that "auto" takes is fixed for well-known networks."""
    assert len(select_layers(network(name))) == count


def test_auto_follows_the_paper_on_densenet_and_vgg():
    """First convolution and dense blocks; the ReLU after each convolution."""
    dense = ["features.conv0", *(f"features.denseblock{i}" for i in (1, 2, 3, 4))]
    assert select_layers(network("densenet121")) == dense
    vgg = network("vgg16")
    modules = dict(vgg.named_modules())
    assert {type(modules[n]) for n in select_layers(vgg)} == {nn.ReLU}


class Functional(nn.Module):
    """Convolutions whose activations are functions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv2(self.bn1(self.conv1(x)).relu_()).relu_()
        return self.fc(x.mean((2, 3)))


def test_auto_without_activation_modules_takes_the_convolutions():
    """What an in-place function would overwrite is not chosen."""
    assert select_layers(Functional()) == ["conv1", "conv2"]


def test_auto_on_a_perceptron_takes_the_hidden_activations():
    """Without convolutions, the activation after each linear layer."""
    net = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
    )
    assert select_layers(net) == ["1", "3"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["layer4", "layer1"], ["layer1", "layer4"]),
        ("layer?.1", [f"layer{i}.1" for i in (1, 2, 3, 4)]),
        (["conv1", "layer4.*.conv1"], ["conv1", "layer4.0.conv1", "layer4.1.conv1"]),
        (nn.MaxPool2d, ["maxpool"]),
        ((nn.MaxPool2d, nn.AdaptiveAvgPool2d), ["maxpool", "avgpool"]),
        (lambda name, module: name.endswith("fc"), ["fc"]),
    ],
    ids=["names", "glob", "mixed", "class", "classes", "callable"],
)
def test_layers_by_name_pattern_class_and_callable(layers, expected):
    """Whatever the order asked for, layers come in the network's order."""
    assert select_layers(network("resnet18"), layers) == expected


def test_a_wrapped_stage_is_looked_through():
    """A network with one stage compiled by itself has the names that it had."""
    net = network("resnet18")
    expected = select_layers(net)
    net.layer1 = torch.compile(net.layer1)
    assert select_layers(net) == select_layers(torch.compile(net)) == expected
    assert select_layers(net, "module.layer1._orig_mod.0") == ["layer1.0"]
    attach(net, nn.CrossEntropyLoss()).remove()


def test_an_example_gives_the_order_of_firing():
    """Layers come as they fire; those that never fire are left out."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.never = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.first = nn.Conv2d(3, 4, 1)
            self.drop = nn.Dropout()

        def forward(self, x):
            return self.drop(self.second(self.first(x)))

    net = Net()
    net.drop.eval()
    assert select_layers(net, nn.Conv2d) == ["second", "never", "first"]
    in_order = select_layers(net, nn.Conv2d, torch.rand(1, 3, 4, 4))
    assert in_order == ["first", "second"]
    assert (net.training, net.drop.training) == (True, False)
    assert not any(m._forward_hooks for m in net.modules())


def test_why_not_says_why_each_candidate_was_left():
    """Every layer of these kinds and every block is chosen or has a reason."""
    net = network("resnet18")
    reasons = why_not(net)
    assert reasons["conv1"] == "not a block of the repeated kind"
    assert reasons["layer1.0.conv1"] == "inside the chosen layer 'layer1.0'"
    assert reasons["fc"].startswith("the last linear layer")
    kinds = (nn.Conv2d, nn.Linear, nn.ReLU)
    looked_at = set(select_layers(net, kinds)) | set(select_layers(net))
    assert set(reasons) | set(select_layers(net)) == looked_at
    assert not set(reasons) & set(select_layers(net))


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "googlenet", "vit_b_16"])
@pytest.mark.parametrize("layers", ["auto", ["*.*1"], nn.Conv2d])
def test_why_not_of_other_networks_and_choices(name, layers):
    """The chosen are not in it, all others of these kinds are, as names say, too."""
    net = network(name)
    chosen, reasons = select_layers(net, layers), why_not(net, layers)
    expected = set(select_layers(net, (nn.Conv2d, nn.Linear))) - set(chosen)
    assert expected <= set(reasons)
    assert not set(chosen) & set(reasons)
    assert why_not(net, chosen) == reasons
    if layers == "auto":
        assert "not among the layers asked for" not in reasons.values()


def test_why_not_after_convolutions():
    """Without blocks, the linear layers of the classifier are no convolutions."""
    reasons = why_not(network("vgg11"))
    assert reasons["features.0"].startswith("not the activation after a convolution")
    assert reasons["classifier.1"].startswith("not the activation after a convolution")


def test_an_unknown_word_lists_the_words():
    """A word that is nearly one of ours names no module: both are told."""
    for name in ("penultimat", "lst", "Auto"):
        with pytest.raises(
            KeyError, match=r"nearest: .*; or one of the words auto, last"
        ):
            select_layers(SmallNet(), name)
