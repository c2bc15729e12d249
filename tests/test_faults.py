"""What ends a run before its time is named, and leaves what was saved whole."""

import os
import shutil
import signal
import time

import pytest
import torch
from launches import (
    QUICK,
    assert_same_end,
    finish,
    launch,
    picture_folder,
    read,
    start,
    wait_for,
    workers,
)

SAVING = (*QUICK, "--checkpoint-freq", 1)


def load(folder):
    return torch.load(folder / "checkpoint.pth", weights_only=True)


def error(result):
    """The one line that tells it."""
    assert result.returncode == 1, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    (line,) = [x for x in result.stderr.splitlines() if "train.py: error: " in x]
    return line


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, status):
    """At the next step; what is resumed ends like a run that nobody stopped."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    process = start(*SAVING, "--epochs", 30, "--output-dir", parts)
    wait_for(parts / "checkpoint.pth", process)
    process.send_signal(number)
    result = finish(process)
    assert result.returncode == status
    assert result.stderr.count("Traceback") == 0
    path = parts / "checkpoint.pth"
    assert f"train.py: {number.name}: saved in epoch 0, batch " in result.stdout
    assert f"--resume {path} goes on" in result.stdout
    progress = load(parts)["progress"]
    assert f"batch {progress['step']} of 5;" in result.stdout
    for folder in (parts, whole):
        again = launch(*QUICK, "--output-dir", folder, "--resume", "auto")
        assert again.returncode == 0, again.stderr[-2000:]
    assert_same_end(parts, whole)


def test_a_signal_to_one_of_two_processes_ends_both_at_the_same_step(tmp_path):
    """They agree, save together, and what is resumed goes on."""
    arguments = (*SAVING, "--epochs", 30, "--output-dir", tmp_path)
    process = start(*arguments, processes=2)
    wait_for(tmp_path / "checkpoint.pth", process)
    os.kill(workers(process)[1], signal.SIGTERM)
    result = finish(process, timeout=60)
    assert result.returncode != 0
    assert result.stdout.count("train.py: SIGTERM: saved in epoch") == 1
    epochs = load(tmp_path)["progress"]["epoch"] + 1
    again = launch(*arguments, "--epochs", epochs, "--resume", "auto", processes=2)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "goes on in epoch" in again.stdout


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.all)]
)
def test_a_signal_to_the_launcher_and_its_processes(tmp_path, number):
    """As a cluster sends it to all; processes get it twice, torchrun hands it on."""
    slow = ("--width", 0.75)  # both come within a step
    arguments = (*SAVING, *slow, "--epochs", 30, "--output-dir", tmp_path)
    process = start(*arguments, processes=2)
    wait_for(tmp_path / "checkpoint.pth", process)
    for pid in (process.pid, *workers(process)):
        os.kill(pid, number)
    result = finish(process, timeout=60)
    assert result.returncode != 0
    saved = f"train.py: {number.name}: saved in epoch"
    assert result.stdout.count(saved) == 1, result.stderr[-2000:]
    assert load(tmp_path)["progress"]["updates"] > 0


@pytest.mark.all
def test_a_signal_to_the_launcher(tmp_path):
    """As a cluster sends it before it takes the machine away."""
    process = start(*SAVING, "--epochs", 30, "--output-dir", tmp_path, processes=2)
    wait_for(tmp_path / "checkpoint.pth", process)
    process.terminate()
    result = finish(process, timeout=60)
    assert result.stdout.count("train.py: SIGTERM: saved in epoch") == 1


def test_a_process_that_dies_ends_the_launch(tmp_path):
    """Within a minute, and with what was saved."""
    process = start(*SAVING, "--epochs", 30, "--output-dir", tmp_path, processes=2)
    wait_for(tmp_path / "checkpoint.pth", process)
    os.kill(workers(process)[1], signal.SIGKILL)
    result = finish(process, timeout=60)
    assert result.returncode != 0
    assert "Signal 9 (SIGKILL)" in result.stderr
    assert load(tmp_path)["progress"]["updates"] > 0


@pytest.mark.all
def test_a_process_that_hangs_ends_the_launch(tmp_path):
    """After --timeout seconds."""
    process = start(
        *SAVING, "--epochs", 30, "--timeout", 5, "--output-dir", tmp_path, processes=2
    )
    wait_for(tmp_path / "checkpoint.pth", process)
    hanging = workers(process)[1]
    os.kill(hanging, signal.SIGSTOP)
    try:
        result = finish(process, timeout=60)
    finally:
        if process.poll() is None:
            os.kill(hanging, signal.SIGKILL)
    assert result.returncode != 0
    assert load(tmp_path)["progress"]["updates"] > 0


def test_a_restarted_launch_goes_on_from_the_last_checkpoint(tmp_path):
    """`torchrun --max-restarts 1 ... --resume auto`."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    arguments = (*SAVING, "--resume", "auto")
    process = start(
        *arguments, "--output-dir", parts, processes=2, launcher=("--max-restarts", 1)
    )
    wait_for(parts / "checkpoint.pth", process)
    os.kill(workers(process)[0], signal.SIGKILL)
    result = finish(process)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "goes on in epoch" in result.stdout
    assert launch(*arguments, "--output-dir", whole, processes=2).returncode == 0
    assert_same_end(parts, whole)


def test_a_full_disk(tmp_path):
    """The checkpoint of before stays, and no half of another beside it."""
    assert launch(*QUICK, "--epochs", 1, "--output-dir", tmp_path).returncode == 0
    before = load(tmp_path)["progress"]["updates"]
    size = (tmp_path / "checkpoint.pth").stat().st_size
    result = launch(
        *QUICK, "--output-dir", tmp_path, "--resume", "auto", largest=size // 2
    )
    assert "cannot be written ([Errno 27] File too large)" in error(result)
    assert "what was saved before is whole" in result.stderr
    assert load(tmp_path)["progress"]["updates"] == before
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))


@pytest.mark.all
def test_a_full_disk_on_two_processes(tmp_path):
    """The first process tells it, and the other ends too."""
    result = launch(
        *QUICK, "--epochs", 1, "--output-dir", tmp_path, processes=2, largest=20_000
    )
    assert result.returncode != 0
    assert result.stderr.count("train.py: error: ") == 1
    assert "File too large" in result.stderr


def test_an_unwritable_folder_is_found_before_training(tmp_path):
    """Here a file stands in its place."""
    (tmp_path / "taken").write_text("")
    result = launch(*QUICK, "--output-dir", tmp_path / "taken" / "run")
    assert "--output-dir" in error(result)
    assert "cannot be written" in result.stderr
    assert "Epoch" not in result.stdout


def test_a_truncated_checkpoint(finished, tmp_path):
    """Named; it is not overwritten either."""
    folder = shutil.copytree(finished, tmp_path / "run")
    path = folder / "checkpoint.pth"
    content = path.read_bytes()[:-1000]
    path.write_bytes(content)
    result = launch(*QUICK, "--output-dir", folder, "--resume", "auto")
    assert f"{path} is damaged or no checkpoint" in error(result)
    assert f"--resume {folder / 'previous.pth'}" in error(result)
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_network(finished, tmp_path):
    """Told apart from a damaged one: the flag is named."""
    result = launch(
        *QUICK, "--width", 0.1, "--resume", finished, "--output-dir", tmp_path
    )
    assert "--width was 0.04, is 0.1. What was saved depends on that" in error(result)


def test_a_missing_checkpoint(tmp_path):
    """`--resume PATH` does not start afresh, `--resume auto` does."""
    result = launch(*QUICK, "--resume", tmp_path / "none.pth", "--output-dir", tmp_path)
    assert "there is no file" in error(result)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.all)])
def test_a_loss_that_is_no_number(tmp_path, processes):
    """The last good checkpoint stays, and can be resumed."""
    common = (*QUICK, "--output-dir", tmp_path)
    first = launch(*common, "--epochs", 1, processes=processes)
    assert first.returncode == 0, first.stderr[-2000:]
    before = load(tmp_path)
    result = launch(*common, "--resume", "auto", "--lr", 1e38, processes=processes)
    assert "--resume: --lr was 0.1, is 1e+38" in result.stdout
    assert result.returncode == 1
    assert result.stderr.count("train.py: error: the loss is nan") >= 1
    assert load(tmp_path)["progress"] == before["progress"]
    assert len(read(tmp_path)) == 1


def test_a_second_ctrl_c_ends_a_run_that_waits(tmp_path):
    """For views that never come: the first one waits for the end of the step."""
    waits, asked = tmp_path / "waits.py", tmp_path / "asked"
    waits.write_text(
        "import pathlib, time\n"
        "def forever(images):\n"
        f"    pathlib.Path({str(asked)!r}).touch()\n"
        "    time.sleep(600)\n"
    )
    pictures = picture_folder(tmp_path / "pictures")
    process = start(
        "--dataset", "imagefolder", "--data-path", pictures, "--model", "allcnn",
        "--width", "0.04", "--train-crop-size", 12,
        "--val-resize-size", 12, "--workers", 0, "--scheme", f"{waits}:forever",
        "--output-dir", tmp_path / "run",
    )  # fmt: skip
    wait_for(asked, process)
    for seconds in (1, 5):  # within these it may be the echo of the first
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=30).returncode == -signal.SIGINT
