"""A run that is killed at any step and resumed ends where an uninterrupted one does."""

import os
import shutil
import signal

import pytest
import torch
from conftest import script
from launches import (
    QUICK,
    assert_same_end,
    finish,
    launch,
    read,
    start,
    wait_for,
    weights,
    workers,
)

EVERYTHING = (
    "--model-ema", "--model-ema-steps", 1, "--model-ema-decay", 0.9, "--mixup-alpha",
    0.4, "--gradient-accumulation-steps", 2, "--checkpoint-freq", 1,
    "--lr-scheduler", "multisteplr", "--lr-milestones", 1,
)  # fmt: skip


def run_killed(saves, *arguments, processes=1, folder):
    """Starts a run and kills its processes after so many checkpoints."""
    process = start(*arguments, "--output-dir", folder, processes=processes)
    version = None
    for _ in range(saves):
        version = wait_for(folder / "checkpoint.pth", process, version)
    for pid in workers(process) if processes > 1 else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.kill()
    finish(process)
    content = torch.load(folder / "checkpoint.pth", weights_only=True)
    return content["progress"]


def compare(tmp_path, saves, *arguments, processes=1, tolerance=0.0):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    progress = run_killed(saves, *arguments, processes=processes, folder=parts)
    assert progress["epoch"] < 2
    for folder in (whole, parts):
        result = launch(
            *arguments, "--output-dir", folder, "--resume", "auto", processes=processes
        )
        assert result.returncode == 0, result.stderr[-3000:]
    assert "goes on in epoch" in result.stdout
    assert_same_end(parts, whole, tolerance)
    return progress


def test_killed_in_mid_epoch_with_workers_average_and_accumulation(tmp_path):
    """One process: files from a folder-like data set, everything switched on."""
    progress = compare(
        tmp_path, 2, *QUICK, "--dataset", "fake", "--workers", 2, *EVERYTHING
    )
    assert progress["step"] > 0


def test_killed_in_mid_epoch_on_two_processes(tmp_path):
    """Each process goes on with its own random numbers and its own images."""
    progress = compare(tmp_path, 1, *QUICK, *EVERYTHING, processes=2)
    assert progress["step"] > 0


@pytest.mark.all
@pytest.mark.parametrize("saves", [1, 4])
def test_killed_on_four_processes(tmp_path, saves):
    """Sums over four processes may be taken in another order."""
    arguments = (*QUICK, *EVERYTHING, "--batch-size", 4)
    compare(tmp_path, saves, *arguments, processes=4, tolerance=1e-6)


@pytest.mark.all
@pytest.mark.parametrize("saves", [3, 12, 19, 23])  # 19 an epoch
def test_killed_later(tmp_path, saves):
    """At the end of an epoch, and in the second."""
    compare(tmp_path, saves, *QUICK, *EVERYTHING, "--batch-size", 4)


def test_one_epoch_after_the_other(train, tmp_path):
    """A longer run goes on from a shorter one; auto starts where there is nothing."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = [*QUICK, "--lr-scheduler", "exponentiallr", "--lr-gamma", 0.5]
    train(*common, "--output-dir", whole)
    train(*common, "--epochs", 1, "--output-dir", parts, "--resume", "auto")
    assert len(read(parts)) == 1
    train(*common, "--output-dir", parts, "--resume", "auto")
    assert_same_end(parts, whole)


def test_a_checkpoint_goes_to_another_folder(train, tmp_path):
    """The metrics so far go with it, and the old folder stays as it is."""
    old, new = tmp_path / "old", tmp_path / "new"
    train(*QUICK, "--epochs", 1, "--output-dir", old)
    before = weights(old)
    train(*QUICK, "--output-dir", new, "--resume", old / "checkpoint.pth")
    assert [row["epoch"] for row in read(new)] == ["0", "1"]
    assert len(read(old)) == 1
    assert all(torch.equal(value, before[k]) for k, value in weights(old).items())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_optimizers_without_state_resume(train, tmp_path, momentum):
    """SGD without momentum keeps nothing for its parameters."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = [*QUICK, "--momentum", momentum]
    train(*common, "--output-dir", whole)
    train(*common, "--epochs", 1, "--output-dir", parts)
    train(*common, "--output-dir", parts, "--resume", parts)
    assert_same_end(parts, whole)


@pytest.fixture(scope="module")
def seldom(tmp_path_factory):
    """Folders of runs with views in each k-th step, with a checkpoint of every step."""
    with pytest.MonkeyPatch.context() as patch:
        train, folders = script(patch), {}
        import checkpoints

        save = checkpoints.save

        def keep(run):
            save(run)
            step = run.progress.epoch * run.batches + run.progress.step
            shutil.copy(run.output / checkpoints.NAME, run.output / f"{step}.pth")

        patch.setattr(checkpoints, "save", keep)

        def folder(every):
            if every not in folders:
                folders[every] = tmp_path_factory.mktemp("seldom")
                seldom = ("--checkpoint-freq", 1, "--every", every)
                train(*QUICK, *seldom, "--output-dir", folders[every])
            return folders[every]

        yield folder


# Of the two epochs' ten steps.
STOPS = [
    pytest.param(every, step, marks=[] if step in (1, 4) else [pytest.mark.all])
    for every in range(2, 6)
    for step in range(1, 10)
]


@pytest.mark.parametrize(("every", "step"), STOPS)
def test_steps_without_views_resume(train, seldom, tmp_path, every, step):
    """Their row shows the parts of the last loss with views, before the checkpoint."""
    whole = seldom(every)
    arguments = (*QUICK, "--every", every, "--resume", whole / f"{step}.pth")
    train(*arguments, "--output-dir", tmp_path / "parts")
    assert_same_end(tmp_path / "parts", whole)


def test_another_number_of_processes_is_refused(train, tmp_path):
    """Its shards and its random numbers would be others."""
    train(*QUICK, "--epochs", 1, "--output-dir", tmp_path)
    path = tmp_path / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    content["arguments"]["processes"] = 2
    import files

    files.write_sealed(path, content)
    with pytest.raises(ValueError, match="the number of processes was 2, is 1"):
        train(*QUICK, "--output-dir", tmp_path, "--resume", path)
