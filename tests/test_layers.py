"""Which layers are chosen, by rule, by name, by class."""

import pytest
import torch
import torchvision
from torch import nn

from dai_plugin import attach, select_layers

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


def test_wrappers_are_looked_through():
    """Compiled and wrapped networks have the names of the network inside."""
    net = network("resnet18")

    class Wrapper(nn.Module):  # as DistributedDataParallel keeps its network
        def __init__(self, module):
            super().__init__()
            self.module = module

    expected = select_layers(net)
    for wrapped in (torch.compile(net), Wrapper(net), Wrapper(torch.compile(net))):
        assert select_layers(wrapped) == expected
    net.layer1 = torch.compile(net.layer1)  # one stage by itself
    net.layer2 = Wrapper(net.layer2)
    assert select_layers(net) == expected
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
