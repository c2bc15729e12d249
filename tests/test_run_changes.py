"""What may change when a run is resumed: told a line a flag, or refused by name."""

import argparse
import importlib
import random
import warnings

import pytest
import torch
from conftest import REFERENCE
from launches import QUICK, read

OTHERS = {
    "model": ["resnet18"],
    "width": [0.5, 0.1],
    "seed": [1, 2],
    "model_ema": [True],
    "opt": ["adamw", "rmsprop"],
    "momentum": [0.5, 0.95, 0.0],
    "batch_size": [8, 16],
    "train_images": [10, None],
    "dataset": ["fake"],
    "gradient_accumulation_steps": [2],
    "lr": [0.5, 9.0],
    "weight_decay": [0.0, 0.1],
    "alpha": [0.0, 0.9],
    "num_views": [3, 4],
    "lr_scheduler": ["cosineannealinglr"],
    "lr_milestones": [[3, 4]],
    "scheme": ["light"],
    "label_smoothing": [0.1],
    "epochs": [7, 30],
    "workers": [0, 2],
    "print_freq": [3],
    "output_dir": ["elsewhere"],
}
NEVER = {"model", "width", "seed", "model_ema", "opt"}
IN_AN_EPOCH = {"batch_size", "train_images", "dataset", "gradient_accumulation_steps"}
SILENT = {"workers", "print_freq", "output_dir"}


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module


@pytest.mark.parametrize("step", [0, 3])
def test_random_changes_are_told_or_refused(reference, step):
    """Each of them, whatever the others are, by what the table says of it."""
    changes, parse = reference("changes"), reference("flags").parse
    draw = random.Random(step)
    was = changes.facts(parse(list(QUICK)), 10, 1, 5)
    for _ in range(300):
        chosen = draw.sample(sorted(OTHERS), draw.randrange(5))
        others = {name: draw.choice(OTHERS[name]) for name in chosen}
        args = argparse.Namespace(**(vars(parse(list(QUICK))) | others))
        now = changes.facts(args, 10, 1, 5)
        refused = NEVER & set(chosen)
        if others.get("momentum") == 0:
            refused.add("momentum")
        if not refused and step:
            refused = IN_AN_EPOCH & set(chosen)
        if refused:
            with pytest.raises(ValueError, match="give it what it was, or start") as e:
                changes.check(was, now, step)
            assert all(changes.flag(name) in str(e.value) for name in refused)
            continue
        lines = [
            f"{changes.flag(name)} was {was[name]}, is {others[name]}"
            for name in set(chosen) - SILENT
        ]
        assert sorted(changes.check(was, now, step)) == sorted(lines)


def test_what_the_data_and_the_launch_give_is_compared_too(reference):
    """Classes and processes in any case, the length of an epoch in its middle."""
    changes = reference("changes")
    args = reference("flags").parse([])
    was = changes.facts(args, 10, 2, 5)
    with pytest.raises(ValueError, match="the number of classes was 10, is 11"):
        changes.check(was, changes.facts(args, 11, 2, 5), 0)
    with pytest.raises(ValueError, match="the number of processes was 2, is 1"):
        changes.check(was, changes.facts(args, 10, 1, 5), 0)
    longer = changes.facts(args, 10, 2, 9)
    with pytest.raises(
        ValueError, match=r"in an epoch was 5, is 9.*epoch's images, batch 3 of 5"
    ):
        changes.check(was, longer, 3)
    assert changes.check(was, longer, 0) == []
    with pytest.raises(ValueError, match=r"number of classes was 10, is 11.*weights"):
        changes.check_network(was, changes.facts(args, 11, 2, 5))
    assert changes.check_network(was, longer) is None


def test_a_flag_that_the_checkpoint_does_not_know(reference):
    """Of a later version of the script: nothing is said of it."""
    changes = reference("changes")
    was = changes.facts(reference("flags").parse([]), 10, 1, 5)
    now = was | {"new_flag": 3}
    assert changes.check(was, now, 3) == []


@pytest.mark.parametrize("seed", range(12))
def test_the_schedule_is_brought_to_its_place(reference, seed):
    """To the bit where steps one after the other had brought it."""
    draw = random.Random(seed)
    kinds = ["steplr", "multisteplr", "cosineannealinglr", "exponentiallr"]
    flags = [
        "--lr-scheduler", draw.choice(kinds), "--lr", draw.uniform(0.01, 2),
        "--lr-milestones", 4, 7, "--lr-step-size", draw.randrange(1, 5),
        "--lr-gamma", draw.uniform(0.1, 1), "--epochs", draw.randrange(9, 20),
        "--lr-warmup-epochs", draw.choice([0, 2]), "--lr-min", draw.choice([0, 0.001]),
        "--lr-warmup-method", draw.choice(["linear", "constant"]),
    ]  # fmt: skip
    args = reference("flags").parse([str(x) for x in flags])
    epoch, trained = draw.randrange(9), draw.random() < 0.5

    def begin():
        optimization = reference("optimization")
        optimizer = optimization.build_optimizer(torch.nn.Linear(2, 2), args)
        return optimizer, optimization.build_scheduler(optimizer, args)

    optimizer, scheduler = begin()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the order of steps
        for _ in range(epoch + trained):
            optimizer.step()
            scheduler.step()
    resumed, own = begin()
    reference("optimization").advance(own, epoch + trained)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert own.last_epoch == epoch + trained


def test_a_resumed_run_has_the_values_of_its_flags(train, finished, tmp_path, capsys):
    """Another learning rate and decay are used, and said."""
    train(*QUICK, "--resume", finished, "--output-dir", tmp_path, "--epochs", 3,
          "--lr", 0.02, "--wd", 0.3, "--momentum", 0.5, "--print-freq", 1)  # fmt: skip
    told = [x for x in capsys.readouterr().out.splitlines() if x.startswith("--resume")]
    assert told == [
        "--resume: --epochs was 2, is 3",
        "--resume: --lr was 0.1, is 0.02",
        "--resume: --momentum was 0.9, is 0.5",
        "--resume: --weight-decay was 0.0001, is 0.3",
    ]
    assert [float(row["lr"]) for row in read(tmp_path)] == [0.1, 0.1, 0.02]
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    (group,) = content["optimizer"]["param_groups"]
    used = (group["lr"], group["weight_decay"], group["momentum"])
    assert used == (0.02, 0.3, 0.5)


def test_a_change_that_cannot_hold_ends_the_run(train, finished, tmp_path):
    """Before anything is written."""
    with pytest.raises(ValueError, match=r"--opt was sgd, is adamw.*optimizer's state"):
        train(*QUICK, "--opt", "adamw", "--resume", finished, "--output-dir", tmp_path)
    assert not list(tmp_path.iterdir())
