"""Wrappers are known by their types, in names, patterns, classes and "auto"."""

import sys
import types

import pytest
import torch
import torch.distributed as dist
from test_automatic import Around, Block, random_network
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    checkpoint_wrapper,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from dai_plugin.layers import resolve, select_layers, unwrap
from dai_plugin.wrappers import check_hookable


@pytest.mark.parametrize("name", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_a_block_with_a_lone_child_of_any_name_is_a_block(name):
    """Found by class, by name and by "auto"; what is resolved is the block itself."""
    inside = [nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(2)]
    net = nn.Sequential(nn.Conv2d(3, 8, 1), *(Around(b, name) for b in inside))
    assert select_layers(net) == select_layers(net, Around) == ["1", "2"]
    assert select_layers(net, ["1"]) == ["1"]
    assert resolve(net, "1") is net[1]
    assert select_layers(net, [f"1.{name}"]) == [f"1.{name}"]
    assert select_layers(net, f"1.{name}.*") == [f"1.{name}.0", f"1.{name}.1"]
    root = Around(net, name)
    assert unwrap(root) is root
    assert select_layers(root) == [f"{name}.1", f"{name}.2"]


JIT = "ignore:.torch.jit"  # torch 2.14, about itself


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class DeepSpeedEngine(nn.Module):
    """Holds its network as the engine of that name does."""

    def __init__(self, model):
        super().__init__()
        self.module = model


WRAPPERS = {
    "compile": torch.compile,
    "DataParallel": lambda m: with_devices(m, []),
    "DataParallel of one": lambda m: with_devices(m, [0]),
    "DistributedDataParallel": DistributedDataParallel,
    "DeepSpeed": DeepSpeedEngine,
    "both": lambda m: DistributedDataParallel(torch.compile(m)),
}


def with_devices(model, devices):
    parallel = nn.DataParallel(model)
    parallel.device_ids = devices
    return parallel


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrappers_of_a_known_type_are_looked_through(wrap, seed, monkeypatch):
    """Around the network and around modules inside: names, blocks, full names."""
    deepspeed = types.ModuleType("deepspeed")
    deepspeed.DeepSpeedEngine = DeepSpeedEngine
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    net = random_network(seed)
    before, everything = select_layers(net), select_layers(net, "*")
    assert unwrap(wrap(net)) is net
    assert select_layers(wrap(net)) == before
    part = everything[0].split(".")[0]
    inner = net.get_submodule(part)
    net.add_module(part, wrap(inner))
    assert select_layers(net) == before
    assert select_layers(net, "*") == everything
    assert resolve(net, part) is inner
    wrapped = wrap(net)
    assert select_layers(wrapped) == before
    for name, module in wrapped.named_modules():
        if unwrap(module) is module is not net:
            (chosen,) = select_layers(wrapped, [name])
            assert resolve(net, chosen) is module


def test_names_of_wrapped_networks_fit_the_plain_one():
    """Names from a run with wrappers are understood without them, and in patterns."""
    net = nn.Sequential(nn.Sequential(Block(4, 1), Block(4, 3)), Around(nn.ReLU()))
    assert select_layers(net, "module._orig_mod.0.1") == ["0.1"]
    assert select_layers(net, "0._orig_mod.?") == ["0.0", "0.1"]
    assert select_layers(net, "module.1.module") == ["1.module"]
    net[0] = torch.compile(net[0])
    assert select_layers(net, "0._orig_mod.*.first") == ["0.0.first", "0.1.first"]
    with pytest.raises(KeyError, match=r"nearest: .*1\.module"):
        select_layers(net, "2.module")


def test_an_averaged_model_is_a_network_of_its_own():
    """Its copy is another network than the one that is trained."""
    net = nn.Sequential(Block(4, 1), Block(4, 3))
    averaged = AveragedModel(net)
    assert unwrap(averaged) is averaged
    assert select_layers(averaged) == ["module.0", "module.1"]


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_sharded_and_checkpointed_blocks_keep_their_names():
    """On some of the blocks alone; a checkpointed block fires around its recompute."""
    blocks = [Block(4, 1), Block(4, 3), Block(4, 1), Block(4, 3)]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(*blocks), nn.Flatten())
    everything = select_layers(net, "*")
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(net[1][0], mesh=mesh)
    net[1][1] = checkpoint_wrapper(net[1][1])
    net[1][2] = FullyShardedDataParallel(net[1][2], device_id=torch.device("cpu"))
    assert select_layers(net) == select_layers(net, Block)
    assert select_layers(net) == ["1.0", "1.1", "1.2", "1.3"]
    assert select_layers(net, "*") == everything
    assert select_layers(net, "1.1._checkpoint_wrapped_module.first") == ["1.1.first"]
    assert resolve(net, "1.1") is net[1][1]
    assert resolve(net, "1.2") is blocks[2]


def test_names_with_a_colon():
    """A colon in a name is a letter like others."""
    net = nn.ModuleDict({"a:1": nn.Conv2d(3, 4, 1), "a:2": nn.ReLU(), "a": nn.Tanh()})
    assert select_layers(net) == ["a:2"]
    assert select_layers(net, ["a", "a:1"]) == ["a:1", "a"]
    assert resolve(net, "a:1") is net["a:1"]


@pytest.mark.filterwarnings(JIT)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("trace", [False, True])
def test_scripted_networks_are_refused(inside, trace):
    """As a whole or in part, with the advice to attach before scripting."""
    net, images = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.rand(1, 3, 4, 4)
    check_hookable(net)
    scripted = torch.jit.trace(net, images) if trace else torch.jit.script(net)
    where = "its module '1'" if inside else "the network"
    scripted = nn.Sequential(nn.Identity(), scripted) if inside else scripted
    with pytest.raises(TypeError, match=f"^{where} is a .*attach to the eager module"):
        check_hookable(scripted)


@pytest.mark.parametrize("inside", [False, True])
def test_data_parallel_over_devices_is_refused(inside):
    """Over none or one it is looked through; over more it is left, and refused."""
    for devices in ([], [0]):
        check_hookable(with_devices(nn.ReLU(), devices))
    parallel = with_devices(nn.Sequential(nn.Conv2d(3, 4, 1)), [0, 1])
    assert unwrap(parallel) is parallel
    net = nn.Sequential(parallel) if inside else parallel
    with pytest.raises(
        TypeError, match=r"use attach\(model.module, criterion\) inside"
    ):
        check_hookable(net)


def test_lazy_modules_are_refused_until_they_have_weights():
    """Without weights there is nothing to choose layers by; after a batch there is."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(ValueError, match="run the network once on a batch"):
        check_hookable(net)
    net(torch.rand(2, 3, 8, 8))
    check_hookable(net)
