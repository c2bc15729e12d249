"""What "auto" takes is the same before and after layers are parametrised or adapted."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from dai_plugin.layers import resolve, select_layers

SEEDS = range(12)
OLD_WEIGHT_NORM = "ignore:.*weight_norm:FutureWarning"


class Around(nn.Module):
    """A block, or network, of somebody's own whose only child has any name."""

    def __init__(self, child, name="module"):
        super().__init__()
        self.name = name
        self.add_module(name, child)

    def forward(self, x):
        return x + self.get_submodule(self.name)(x)


class Block(nn.Module):
    """A residual block whose activations are functions."""

    def __init__(self, width, kernel):
        super().__init__()
        layer = layers_of(kernel)
        self.first, self.second = layer(width, width), layer(width, width)

    def forward(self, x):
        return x + self.second(F.gelu(self.first(x)))


class Functional(nn.Module):
    """Weights as direct children, without modules for activations."""

    def __init__(self, width, kernel, depth):
        super().__init__()
        for i in range(depth):
            self.add_module(f"layer:{i}", layers_of(kernel)(width, width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        for layer in list(self.children())[:-1]:
            x = layer(x).relu()
        return self.head(x if x.dim() == 2 else x.mean((2, 3)))


def layers_of(kernel):
    def layer(inputs, outputs):
        if kernel is None:
            return nn.Linear(inputs, outputs)
        return nn.Conv2d(inputs, outputs, kernel, padding="same")

    return layer


def random_network(seed):
    """Convolutions or linear layers; modules, functions, blocks or blocks in stages."""
    draw = random.Random(seed)
    kernel, width = draw.choice([None, 1, 3]), draw.choice([4, 6])
    depth, layer = draw.randint(2, 4), layers_of(kernel)
    style = draw.choice(["modules", "functional", "blocks", "stages", "around"])
    end = [nn.Linear(width, 3)]
    if kernel is not None:
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *end]
    if style == "functional":
        return Functional(width, kernel, depth)
    if style == "modules":
        between = [nn.Identity(), draw.choice([nn.ReLU(), nn.Tanh(), nn.SiLU(True)])]
        steps = [m for _ in range(depth) for m in (layer(width, width), *between)]
        return nn.Sequential(*steps, *end)
    if style == "around":
        steps = [
            Around(nn.Sequential(layer(width, width), nn.ReLU())) for _ in range(depth)
        ]
        return nn.Sequential(*steps, *end)
    blocks = [Block(width, kernel) for _ in range(depth)]
    if style == "blocks":
        return nn.Sequential(layer(width, width), *blocks, *end)
    return nn.Sequential(nn.Sequential(*blocks), nn.Sequential(layer(width, width)))


def weighted(net):
    return [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def parents(net):
    """Each weight layer as (module that holds it, name there)."""
    return [
        (holder, part)
        for holder in list(net.modules())
        for part, child in holder.named_children()
        if isinstance(child, (nn.Conv2d, nn.Linear))
    ]


class LowRank(nn.Module):
    """LoRA as a parametrisation, its factors in modules of their own."""

    def __init__(self, shape):
        super().__init__()
        self.down = nn.Linear(shape[1:].numel(), 2, bias=False)
        self.up = nn.Linear(2, shape[0], bias=False)

    def forward(self, weight):
        return weight + (self.up.weight @ self.down.weight).reshape(weight.shape)


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "lora": lambda m: parametrize.register_parametrization(
        m, "weight", LowRank(m.weight.shape)
    ),
    "old weight_norm": weight_norm,
    "old spectral_norm": spectral_norm,
}


@pytest.mark.filterwarnings(OLD_WEIGHT_NORM)
@pytest.mark.parametrize("way", [*PARAMETRIZATIONS, "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_auto_sees_parametrised_layers_as_they_were(seed, way):
    """The same names whichever layers are parametrised, nothing inside them by name."""
    net, draw = random_network(seed), random.Random(seed)
    before = select_layers(net), select_layers(net, (nn.Conv2d, nn.Linear))
    modules = weighted(net)
    for module in draw.sample(modules, draw.randint(1, len(modules))):
        kind = draw.choice(list(PARAMETRIZATIONS)) if way == "mixed" else way
        PARAMETRIZATIONS[kind](module)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    after = select_layers(net), select_layers(net, (nn.Conv2d, nn.Linear))
    assert after == before
    assert not [n for n in select_layers(net, "*") if "parametrizations" in n]
    assert all(torch.equal(v, state[n]) for n, v in net.state_dict().items())


def test_blocks_with_parametrised_weights_of_their_own_stay_one_kind():
    """Parametrising gives each module a class of its own, which splits no kind."""

    class Own(Block):
        def __init__(self):
            super().__init__(4, 3)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

    net = nn.Sequential(*(Own() for _ in range(3)))
    for block in net[:2]:
        parametrizations.weight_norm(block, "scale")
    assert select_layers(net) == ["0", "1", "2"]
    assert select_layers(net, Own) == ["0", "1", "2"]


class Adapter(nn.Module):
    """A low-rank adapter with the structure of those of peft."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        linear = isinstance(base, nn.Linear)
        layer = layers_of(None if linear else 1)
        inputs = base.in_features if linear else base.in_channels
        outputs = base.out_features if linear else base.out_channels
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": layer(inputs, 2)})
        self.lora_B = nn.ModuleDict({"default": layer(2, outputs)})

    def forward(self, x):
        low = self.lora_A["default"](self.lora_dropout["default"](x))
        return self.base_layer(x) + self.lora_B["default"](low)


class Tuner(nn.Module):
    """As `LoraModel` holds its network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args):
        return self.model(*args)


class Tuned(nn.Module):
    """As `PeftModel` holds its tuner."""

    def __init__(self, model):
        super().__init__()
        self.base_model = Tuner(model)

    def forward(self, *args):
        return self.base_model(*args)


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_sees_adapted_layers_as_they_were(seed):
    """An adapter is the layer it adapts; a root around the network adds its prefix."""
    net, draw = random_network(seed), random.Random(seed)
    before, weights = select_layers(net), select_layers(net, (nn.Conv2d, nn.Linear))
    places = parents(net)
    for holder, part in draw.sample(places, draw.randint(1, len(places))):
        holder.add_module(part, Adapter(holder.get_submodule(part)))
    assert select_layers(net) == before
    assert select_layers(net, (nn.Conv2d, nn.Linear)) == weights
    assert not [n for n in select_layers(net, "*") if "lora" in n or "base" in n]
    tuned = Tuned(net)
    assert select_layers(tuned) == [f"base_model.model.{name}" for name in before]
    assert resolve(tuned, f"base_model.model.{before[0]}") is resolve(net, before[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_on_networks_of_peft(seed):
    """What the stand-ins of the test above say holds for peft itself."""
    peft = pytest.importorskip("peft")
    net = nn.Sequential(random_network(seed), nn.Identity())
    before = select_layers(net)
    targets = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    targets = targets or [n for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    chosen = random.Random(seed).sample(targets, len(targets) // 2 + 1)
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=chosen))
    assert select_layers(tuned) == [f"base_model.model.{name}" for name in before]
    assert select_layers(net) == before


class Scaled(nn.Module):
    """A network of somebody's own around another."""

    def __init__(self, module):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.net = module

    def forward(self, x):
        return self.net(x) * self.scale


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_looks_into_a_module_around_the_whole_network(seed):
    """A network inside another has the layers that it has by itself."""
    net = random_network(seed)
    assert select_layers(Scaled(net)) == [f"net.{name}" for name in select_layers(net)]


@pytest.mark.parametrize("seed", SEEDS)
def test_auto_on_networks_compiled_in_place(seed):
    """`module.compile()` on any of the modules changes no choice."""
    net, draw = random_network(seed), random.Random(seed)
    before, modules = select_layers(net), list(net.modules())
    for module in draw.sample(modules, draw.randint(1, len(modules))):
        module.compile()
    assert select_layers(net) == before


def test_auto_takes_what_overwrites_a_block_in_a_sequence():
    """A later in-place activation is the output; the modules tell so, not a forward."""
    blocks = [
        nn.Sequential(Block(4, 3), nn.ReLU(True)),
        Block(4, 1),
        nn.Hardswish(True),
    ]
    net = nn.Sequential(*blocks, Block(4, 3), nn.ReLU(), nn.Flatten())
    assert select_layers(net) == ["0.1", "2", "3"]
    assert select_layers(nn.Sequential(net[0][0], net[1], nn.ReLU(True))) == ["0", "2"]
