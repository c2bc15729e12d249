"""A run's folder: one run at a time, and nothing in it is overwritten unasked."""

import importlib
import random
import shutil
import signal

import pytest
import torch
from conftest import REFERENCE
from launches import QUICK, assert_same_end, finish, launch, read, start, wait_for


@pytest.fixture
def output(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module("output")


@pytest.fixture
def used(finished, tmp_path):
    """A copy of a finished run's folder."""
    return shutil.copytree(finished, tmp_path / "used")


@pytest.mark.parametrize("seed", range(20))
def test_any_result_is_protected(output, tmp_path, seed):
    """Whichever files lie there, and whatever else; all are named, none is touched."""
    draw = random.Random(seed)
    there = draw.sample(output.RESULTS, draw.randrange(1, len(output.RESULTS)))
    for name in [*there, "notes.txt", "run.json"]:
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds the results of a run") as caught:
        output.check(tmp_path, None, "", overwrite=False)
    told = str(caught.value)
    assert all(name in told for name in there)
    assert ("--resume auto" in told) == bool({output.NAME, output.PREVIOUS} & {*there})
    assert len(list(tmp_path.iterdir())) == len(there) + 2
    output.check(tmp_path, None, "", overwrite=True)
    output.check(tmp_path, tmp_path / output.NAME, "auto", overwrite=False)
    # The checkpoint of another folder does not make this one's results its own.
    with pytest.raises(ValueError, match="holds the results of a run"):
        output.check(tmp_path, tmp_path.parent / output.NAME, "other", overwrite=False)
    (tmp_path / "dai_plugin" / "then").mkdir(parents=True)
    (tmp_path / "dai_plugin" / "then" / "events.out").write_text("a step of before")
    output.clear(tmp_path)
    assert not list(tmp_path.rglob("events*"))
    shutil.rmtree(tmp_path / "dai_plugin")
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "run.json"}


def test_a_folder_in_which_nothing_was_trained_is_free(output, tmp_path):
    """New, empty, or left by a run that ended before its first epoch."""
    output.check(tmp_path / "new", None, "", overwrite=False)
    (tmp_path / "run.json").write_text("{}")
    output.check(tmp_path, None, "", overwrite=False)


def test_a_finished_run_says_what_it_is(train, used):
    """The message has its network, data, and epochs; nothing changes."""
    before = {path.name: path.read_bytes() for path in used.iterdir()}
    before.pop(".lock")
    with pytest.raises(ValueError, match=r"allcnn on digits, 2 of 2 epochs, begun 20"):
        train(*QUICK, "--output-dir", used)
    assert {n: (used / n).read_bytes() for n in before} == before


def test_overwrite_replaces_it(train, used):
    """By what a run in a new folder writes; nothing of before is left."""
    train(*QUICK, "--epochs", 1, "--seed", 5, "--output-dir", used, "--overwrite")
    fresh = used.with_name("fresh")
    train(*QUICK, "--epochs", 1, "--seed", 5, "--output-dir", fresh)
    assert_same_end(used, fresh)
    assert len(read(used)) == 1
    assert not (used / "previous.pth").exists()  # one checkpoint, at the end


def test_overwrite_of_what_is_resumed_is_refused(train, used):
    """It would take away what it goes on from."""
    with pytest.raises(ValueError, match=r"--overwrite would take .*checkpoint.pth aw"):
        train(*QUICK, "--resume", "auto", "--output-dir", used, "--overwrite")
    assert (used / "checkpoint.pth").exists()


def test_a_flag_that_is_wrong_takes_nothing_away(train, used):
    """--overwrite waits until the run can begin."""
    with pytest.raises(ValueError, match="nothing has no width factor"):
        train(*QUICK, "--model", "nothing", "--output-dir", used, "--overwrite")
    assert len(read(used)) == 2


def test_one_run_at_a_time_and_a_killed_one_is_resumed_at_once(tmp_path):
    """Workers that a killed process leaves behind do not keep its folder."""
    arguments = (
        *QUICK, "--dataset", "fake", "--workers", 2, "--checkpoint-freq", 1,
        "--output-dir", tmp_path, "--resume", "auto",
    )  # fmt: skip
    first = start(*arguments, "--epochs", 500)
    wait_for(tmp_path / "checkpoint.pth", first)
    second = launch(*arguments)
    first.send_signal(signal.SIGKILL)
    first.wait()
    progress = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["progress"]
    again = launch(*arguments, "--epochs", progress["epoch"] + 1)
    finish(first)
    assert second.returncode == 1
    told = f"--output-dir {tmp_path} is in use by another run (process {first.pid} on"
    assert told in second.stderr
    assert "wait until it has ended, or choose another" in second.stderr
    assert "Epoch" not in second.stdout
    assert again.returncode == 0, again.stderr[-3000:]
    assert "goes on in epoch" in again.stdout


def test_a_lock_goes_back_when_a_run_fails(train, tmp_path):
    """The next one in this folder begins."""
    (tmp_path / "checkpoint.pth").write_text("")
    with pytest.raises(ValueError, match="is damaged or no checkpoint"):
        train(*QUICK, "--resume", "auto", "--output-dir", tmp_path)
    (tmp_path / "checkpoint.pth").unlink()
    train(*QUICK, "--epochs", 1, "--output-dir", tmp_path)
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize("name", ["checkpoint.pth", "model.pth", "best.pth"])
def test_files_of_weights_are_tested(train, finished, tmp_path, capsys, name):
    """By themselves, with the numbers that they had; nothing is written."""
    train(*QUICK, "--test-only", "--resume", finished / name, "--output-dir", tmp_path)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Test:")]
    rows = read(finished)
    row = rows[-1] if name != "best.pth" else max(rows, key=lambda r: float(r["acc1"]))
    assert f"Acc@1 {float(row['acc1']):.3f}  Acc@5 {float(row['acc5']):.3f}" in line
    assert f"loss {float(row['test_loss']):.4f}" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resume", [(), ("--resume", "auto")])
def test_an_untrained_network_is_not_tested(train, tmp_path, resume):
    """It says which files hold weights."""
    with pytest.raises(ValueError, match=r"untrained network: add --resume FILE, the"):
        train(*QUICK, "--test-only", *resume, "--output-dir", tmp_path)


def test_a_network_is_no_run_to_go_on_with(train, finished, tmp_path):
    """model.pth has no optimizer, and no place in an epoch."""
    with pytest.raises(ValueError, match=r"holds a network and no run to go on with"):
        train(*QUICK, "--resume", finished / "model.pth", "--output-dir", tmp_path)


def test_a_network_of_another_shape(train, finished, tmp_path):
    """model.pth knows no flags: its shapes tell."""
    with pytest.raises(ValueError, match="weights of another network than --model"):
        train(*QUICK, "--width", 0.1, "--test-only", "--resume", finished / "model.pth")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_checkpoint_and_the_one_before(train, used, seed):
    """A byte anywhere: the error names the other, which then ends the same run."""
    draw, path = random.Random(seed), used / "checkpoint.pth"
    changed = bytearray(path.read_bytes())
    changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
    path.write_bytes(changed)
    older = used / "previous.pth"
    with pytest.raises(ValueError, match="is damaged or no checkpoint") as caught:
        train(*QUICK, "--resume", "auto", "--output-dir", used)
    assert str(path) in str(caught.value)
    content = torch.load(older, weights_only=True)["progress"]
    place = f"epoch {content['epoch']}, batch {content['step']}: --resume {older}"
    assert str(caught.value).endswith(place)
    if seed:
        return
    whole = read(used)
    train(*QUICK, "--resume", older, "--output-dir", used)
    assert torch.load(older, weights_only=True)["progress"] == content
    for name in whole[1].keys() - {"images_per_second"}:
        assert read(used)[1][name] == whole[1][name]


def test_nothing_intact_is_left(train, used):
    """Neither of the two: it says how to start anew."""
    for name in ("checkpoint.pth", "previous.pth"):
        (used / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match="no intact one lies beside it: start anew wi"):
        train(*QUICK, "--resume", used, "--output-dir", used)


def test_auto_takes_the_one_before_where_there_is_no_other(train, used, capsys):
    """And not a new start, which would cost what has been trained."""
    (used / "checkpoint.pth").unlink()
    train(*QUICK, "--resume", "auto", "--output-dir", used)
    assert "goes on in epoch" in capsys.readouterr().out
