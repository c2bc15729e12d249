"""Device, precision and processes: torchvision's flags on accelerate."""

import json

import pytest
import torch
from launches import QUICK, launch, read

ONE = (*QUICK, "--epochs", 1, "--train-images", 64, "--output-dir")


def test_amp_is_mixed_precision(train, tmp_path, capsys):
    """bf16 on the CPU, and it says so; the weights are those of that flag."""
    for name, flags in (("amp", ("--amp",)), ("bf16", ("--mixed-precision", "bf16"))):
        train(*ONE, tmp_path / name, *flags)
    printed = capsys.readouterr().out
    assert printed.count("--amp: as --mixed-precision bf16") == 1
    assert read(tmp_path / "amp")[0]["loss"] == read(tmp_path / "bf16")[0]["loss"]


def test_deterministic_algorithms(train, tmp_path):
    """As torch has them, and not any more in the run after it."""
    train(*ONE, tmp_path / "one", "--use-deterministic-algorithms")
    assert torch.are_deterministic_algorithms_enabled()
    train(*ONE, tmp_path / "two")
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_flags_of_torchvision_become(train, tmp_path, capsys):
    """One line a flag that means something else here, none without."""
    train(*ONE, tmp_path / "one", "--use-v2", "--backend", "PIL", "--cache-dataset")
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("--")]
    assert [x.split()[0].rstrip(":") for x in lines] == [
        "--backend", "--use-v2", "--cache-dataset",
    ]  # fmt: skip
    train(*ONE, tmp_path / "two")
    assert "\n--" not in capsys.readouterr().out


def test_more_processes_than_were_launched(train, tmp_path):
    """The script of torchvision would train on in one process."""
    message = r"--world-size 4, and 1 process.* --nproc_per_node 4"
    with pytest.raises(ValueError, match=message):
        train(*ONE, tmp_path, "--world-size", 4)


def test_a_meeting_point_without_a_launcher(train, tmp_path):
    """Nobody else would come there."""
    with pytest.raises(ValueError, match=r"--dist-url tcp://\S+ is where several proc"):
        train(*ONE, tmp_path, "--dist-url", "tcp://127.0.0.1:1234")


def test_two_processes_meet_at_a_url(tmp_path):
    """A file that both see; --world-size is what the launcher has."""
    url = f"file://{tmp_path}/place"
    flags = ("--dist-url", url, "--world-size", 2, "--output-dir", tmp_path / "run")
    result = launch(*ONE[:-1], *flags, processes=2)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "--world-size: the launcher's 2 process(es)" in result.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


def test_what_cannot_be_read_is_said_once(tmp_path):
    """One line for two processes, and no traceback of the script."""
    result = launch(*ONE, tmp_path, "--weights", "NONE", processes=2)
    told = [x for x in result.stderr.splitlines() if "train.py: error" in x]
    assert len(told) == 1, result.stderr
    assert 'train.py", line' not in result.stderr
