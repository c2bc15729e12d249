"""Weights are found wherever a trainer puts them, or refused; nothing else runs."""

import argparse
import collections
import os
import pathlib
import random
import types
import warnings

import numpy as np
import pytest
import torch
from conftest import SmallNet
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dai_plugin.cli.checkpoints import open_checkpoint
from dai_plugin.cli.states import load_state


def net(seed=0, **options):
    """A small network with running statistics that are its own, too."""
    torch.manual_seed(seed)
    model = SmallNet(**options)
    for value in model.buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return model


def same(model, state):
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def loaded(content, tmp_path, model=None, **how):
    """A fresh network with the weights of a file that holds this content."""
    torch.save(content, tmp_path / "file.pth")
    model = model or net(99)
    opened = open_checkpoint(tmp_path / "file.pth")
    load_state(model, opened, "file.pth", **how)
    return model


def named(state, prefix):
    return {prefix + name: value for name, value in state.items()}


class Settings:
    """Of the user's own code, which a checkpoint of a script may hold."""

    def __init__(self, value):
        self.value = value


class Dictionary(dict):
    """A dictionary of the user's own kind, with attributes."""


STATE = net().state_dict()
AVERAGE = AveragedModel(net()).state_dict()
LAYOUTS = {
    "alone": STATE,
    "DistributedDataParallel": named(STATE, "module."),
    "torch.compile": named(STATE, "_orig_mod."),
    "both": named(STATE, "module._orig_mod."),
    "torchvision's script": {"model": STATE, "args": argparse.Namespace(lr=0.1)},
    "with a default dictionary": {
        "net": STATE,
        "log": collections.defaultdict(list, a=[1]),
        "more": Dictionary(a=1),
    },
    "Lightning": {
        "state_dict": named(STATE, "model.") | {"loss.weight": torch.ones(4)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"best": torch.tensor(0.3)},
    },
    "Lightning, compiled": {"state_dict": named(STATE, "net._orig_mod.")},
    "AveragedModel": AVERAGE,
    "average alone": {"model_ema": AVERAGE, "epoch": 3},
    "timm": {"state_dict": STATE, "state_dict_ema": STATE, "arch": "small"},
    "nested": {"state": {"ema": {"teacher": named(STATE, "backbone.")}}},
    "in a list": {"models": [1, STATE]},
    "objects of the user's": {
        "weights": STATE,
        "settings": Settings(3),
        "path": pathlib.PurePosixPath("a"),
        "best": np.float64(3.0),
        "curve": np.arange(3.0),
        "space": types.SimpleNamespace(a=1),
    },
    "float16": {k: v.half() if v.is_floating_point() else v for k, v in STATE.items()},
    "without counters": {k: v for k, v in STATE.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_in_the_layouts_of_trainers(layout, tmp_path):
    """No word but the file is needed."""
    model = loaded(LAYOUTS[layout], tmp_path)
    for name, value in model.state_dict().items():
        if layout == "float16":
            assert torch.equal(value, STATE[name].to(LAYOUTS[layout][name]))
        elif layout != "without counters" or "num_batches" not in name:
            assert torch.equal(value, STATE[name]), name


def test_safetensors_and_shared_weights(tmp_path):
    """Of tensors that share their memory `save_model` writes one."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

    save_file(STATE, tmp_path / "plain.safetensors")
    model = net(99)
    load_state(model, open_checkpoint(tmp_path / "plain.safetensors"), "plain")
    assert same(model, STATE)
    torch.manual_seed(1)
    trained, fresh = Tied(), Tied()
    save_model(trained, str(tmp_path / "tied.safetensors"))
    content = open_checkpoint(tmp_path / "tied.safetensors")
    assert len(content) == 3
    load_state(fresh, content, "tied")
    assert same(fresh, trained.state_dict())


def test_a_wrapped_network_takes_bare_weights(tmp_path):
    """And one that is compiled inside."""
    model = net(99)
    model.features = torch.compile(model.features)
    assert any("_orig_mod" in name for name in model.state_dict())
    loaded(STATE, tmp_path, model)
    assert same(model.features._orig_mod, {
        k.removeprefix("features."): v for k, v in STATE.items()
    })  # fmt: skip
    assert same(loaded(STATE, tmp_path, nn.DataParallel(net(99))).module, STATE)


def test_the_documented_entry_is_taken_and_the_other_named(tmp_path, caplog):
    """Of torchvision's two, --key names the other."""
    other = net(7).state_dict()
    content = {"model": STATE, "model_ema": named(other, "module.")}
    assert same(loaded(content, tmp_path), STATE)
    (record,) = caplog.records
    assert "took 'model'; 'model_ema.module' beside it would fit" in record.getMessage()
    assert same(loaded(content, tmp_path, key="model_ema"), other)
    assert same(loaded(content, tmp_path, prefix="module."), other)
    assert same(loaded(content, tmp_path, key="model_ema", prefix="module"), other)


def test_several_that_differ_are_refused_and_listed(tmp_path):
    """Which of them would be a guess; where both are the same, it is none."""
    content = {"teacher": STATE, "student": net(7).state_dict()}
    with pytest.raises(
        ValueError, match=r"2 different .* 'teacher', 'student'; say wh"
    ):
        loaded(content, tmp_path)
    assert same(loaded(content, tmp_path, key="teacher"), STATE)
    twice = {"teacher": STATE, "student": {k: v.clone() for k, v in STATE.items()}}
    assert same(loaded(twice, tmp_path), STATE)
    nested = {"state": {"a": STATE, "b": net(7).state_dict()}}
    with pytest.raises(ValueError, match=r"'state.a', 'state.b'"):
        loaded(nested, tmp_path, key="state")
    assert same(loaded(nested, tmp_path, key="state.a"), STATE)


def test_weights_of_another_network_are_told_apart(tmp_path):
    """What lacks, what is too much, what has another shape, and what the file holds."""
    wrong = {
        "epoch": torch.tensor(1),
        "model": dict(net(classes=7).state_dict()),
    }
    del wrong["model"]["features.1.bias"]
    wrong["model"]["extra"] = torch.ones(1)
    with pytest.raises(ValueError, match="weights of another network") as caught:
        loaded(wrong, tmp_path)
    for part in (
        "'model' comes nearest",
        "1 missing (features.1.bias)",
        "1 unexpected (extra)",
        "[7, ",
        "in the file lie 'model' (",
        "the top of the file (1: epoch)",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"none of its \d+ names .* is there"):
        loaded({"a": {"b": torch.ones(2)}}, tmp_path)


def test_whole_networks_among_weights(tmp_path):
    """They are no weights; where there are none beside them, --model is named."""
    advice = (
        r"whole networks \(conftest.SmallNet\): give the file to --model, with --tr"
    )
    for content in (net(), {"model": net()}, {"ema": net(), "step": torch.ones(1)}):
        with pytest.raises(ValueError, match=advice):
            loaded(content, tmp_path)
    assert same(loaded({"model": net(7), "weights": STATE}, tmp_path), STATE)


def test_files_of_old_torch(tmp_path):
    """From before its archives, with the flags of a script."""
    content = {"model": STATE, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = net(99)
    load_state(model, open_checkpoint(tmp_path / "old.pth"), "old.pth")
    assert same(model, STATE)


def test_two_tensors_at_one_path_are_refused(tmp_path):
    """Keys with dots may say the same as keys inside keys."""
    content = {"a.b": STATE, "a": {"b": net(7).state_dict()}}
    with pytest.raises(ValueError, match=r"two different tensors at 'a.b"):
        loaded(content, tmp_path)


@pytest.mark.parametrize("content", [[1, 2, 3], {"a": 1}, "text", None])
def test_files_without_tensors(content, tmp_path):
    """Said with what there is instead."""
    kind = type(content).__name__
    with pytest.raises(ValueError, match=rf"file.pth holds no weights; it is a {kind}"):
        loaded(content, tmp_path)


def test_files_that_are_no_checkpoints(tmp_path):
    """Each is named; whatever damaged bytes lead to is no traceback."""
    torch.save(STATE, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for name, data in {
        "empty.pth": b"",
        "text.pth": b"hello\n",
        "cut.pth": whole[: len(whole) // 2],
        "text.safetensors": b"hello\n",
        "old.pth": b"\x80\x02]q\x00.",
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            ValueError,
            match=rf"{name} holds no weights: it is damaged, or no .* \(\w+: ",
        ):
            open_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match=r"weights file .* is a folder, not a file"):
        open_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"weights file .* does not exist"):
        open_checkpoint(tmp_path / "nothing.pth")


def leave(path):
    pathlib.Path(path).touch()


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


def test_nothing_in_a_file_runs(tmp_path):
    """Neither the system's functions nor those of modules nobody blocks."""
    trace = tmp_path / "trace"
    torch.save({"a": Runs(leave, str(trace)), "model": STATE}, tmp_path / "one.pth")
    torch.load(tmp_path / "one.pth", weights_only=False)
    assert trace.exists()  # the trap works
    trace.unlink()
    model = net(99)
    load_state(model, open_checkpoint(tmp_path / "one.pth"), "one.pth")
    assert same(model, STATE)
    for call, argument in (os.system, f"touch {trace}"), (pathlib.Path.touch, trace):
        torch.save({"a": Runs(call, argument)}, tmp_path / "two.pth")
        with pytest.raises(
            ValueError, match=r"two.pth holds no weights: .*: Trying to"
        ):
            open_checkpoint(tmp_path / "two.pth")
    assert not trace.exists()


def test_quantised_weights_are_refused(tmp_path):
    """Torch's own kind by the tensor, others by integers where floats are needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its own kind
        quantised = torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.qint8)
        torch.save({"w": quantised}, tmp_path / "file.pth")
        content = open_checkpoint(tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"quantised weights \(w\)"):
        load_state(net(), content, "file.pth")
    integers = {k: v.to(torch.int8) if v.dim() > 1 else v for k, v in STATE.items()}
    with pytest.raises(ValueError, match=r"quantised weights \(.* is torch.int8\)"):
        loaded(integers, tmp_path)


WORDS = ["model", "net", "state_dict", "module", "ema", "a", "0", "_orig_mod", "head"]


def decoy(rng, state):
    """Tensors beside the weights that are none: each kind lacks something."""
    kind = rng.randrange(5)
    if kind == 0:  # an optimizer's
        return {"state": {i: {"exp_avg": v} for i, v in enumerate(state.values())}}
    if kind == 1:  # by name
        return {"state": {k: {"step": v.sum()} for k, v in state.items()}}
    if kind == 2:  # half of the network
        return dict(rng.sample(sorted(state.items()), len(state) // 2))
    if kind == 3:  # of other shapes
        return {k: v[None] for k, v in state.items()}
    return state | {"more": torch.ones(2)}


def nest(rng, state):
    """The weights somewhere, under some prefix."""
    prefix = "".join(f"{rng.choice(WORDS)}." for _ in range(rng.randrange(3)))
    content = named(state, prefix)
    for _ in range(rng.randrange(3)):
        content = {rng.choice(WORDS): content}
    return content


@pytest.mark.parametrize("seed", range(40))
def test_drawn_checkpoints_give_the_weights_or_are_refused(seed, tmp_path):
    """Decoys are never taken; a twin that fits is refused or named."""
    rng = random.Random(seed)
    content = {"one": nest(rng, STATE)}
    for i in range(rng.randrange(4)):
        content[f"other{i}"] = decoy(rng, STATE)
    twin = net(7).state_dict()
    with_twin = rng.random() < 0.3
    if with_twin:
        content["two"] = nest(rng, twin)
    content = dict(rng.sample(sorted(content.items()), len(content)))
    if with_twin:
        with pytest.raises(ValueError, match="different weights of this SmallNet"):
            loaded(content, tmp_path)
        assert same(loaded(content, tmp_path, key="two"), twin)
    assert same(loaded(content, tmp_path, key="one"), STATE)
    if not with_twin:
        assert same(loaded(content, tmp_path), STATE)


def test_a_real_checkpoint_of_lightning(tmp_path):
    """With hyperparameters, callbacks, optimizer and loops as it writes them."""
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self, rate=0.1, space=types.SimpleNamespace(a=1)):  # noqa: B008
            super().__init__()
            self.save_hyperparameters()
            self.model, self.ema = net(), net(3)
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(10))

        def training_step(self, batch):
            return self.model(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.model.parameters(), lr=self.hparams.rate)

    module = Module()
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers
        images = torch.utils.data.TensorDataset(torch.rand(4, 3, 12, 12))
        trainer.fit(module, torch.utils.data.DataLoader(images, batch_size=4))
    trainer.save_checkpoint(tmp_path / "real.ckpt")
    content = open_checkpoint(tmp_path / "real.ckpt")
    for part in ("model", "ema"):
        model = net(99)
        load_state(model, content, "real.ckpt", prefix=part)
        assert same(model, getattr(module, part).state_dict())
    with pytest.raises(ValueError, match=r"2 different .*'state_dict.model', 'state_"):
        load_state(net(), content, "real.ckpt")


def test_a_real_checkpoint_of_timm(tmp_path, caplog):
    """Its saver's, with the arguments of the script and an average."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = net()
    average = timm.utils.ModelEmaV3(net(3))
    saver = timm.utils.CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), 0.1), model_ema=average,
        args=argparse.Namespace(model="small", lr=0.1), checkpoint_dir=str(tmp_path),
    )  # fmt: skip
    model.default_cfg = {"architecture": "small"}
    saver.save_checkpoint(0, metric=1.0)
    content = open_checkpoint(tmp_path / "last.pth.tar")
    found = net(99)
    load_state(found, content, "last")
    assert same(found, STATE)
    assert "'state_dict_ema' beside it would fit" in caplog.text
    load_state(found, content, "last", key="state_dict_ema")
    assert same(found, average.module.state_dict())


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_are_named_or_do_no_harm(seed, tmp_path):
    """One error of one kind, whatever was changed or lost."""
    rng = random.Random(seed)
    path = tmp_path / f"file{rng.choice(['.pth', '.safetensors'])}"
    if path.suffix == ".pth":
        torch.save({"model": STATE, "best": np.float64(3)}, path)
    else:
        save_file(STATE, path)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 5)):
        # Heads and ends say what the rest is: half of the changes go there.
        end = rng.choice([500, len(data)])
        data[rng.randrange(-end, end)] = rng.randrange(256)
    path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    said = str(path)
    try:
        load_state(net(99), open_checkpoint(path), str(path))
    except ValueError as error:
        said = str(error)
    assert said.startswith(str(path))
