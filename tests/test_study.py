"""A study: it goes on, tunes without a look at test images, and changes little."""

import csv
import importlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import REFERENCE
from PIL import Image

SCHEME = {"kind": "heavier", "flip": 0.0}
TOY = {
    "question": "Does it run?",
    "small": "All of it.",
    "seeds": 2,
    "data": {"name": "digits", "size": 12, "train": 60, "validation": 40, "test": 50},
    "network": {"name": "small", "channels": [3, 4]},
    "training": {"rows": 32, "epochs": 2},
    "measures": {"num_transforms": 1},
    "tune": {"training.lr": [0.05, 0.3]},
    "arms": {
        "plain": {"training": {"augment": SCHEME}},
        "method": {"attach": {"alpha": 0.3, "layers": "last", "scheme": SCHEME}},
    },
}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module("study")


def write(folder, told=TOY, **changes):
    folder.mkdir(exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**told, **changes}, sort_keys=False))
    return path


def run(study, folder, *flags, **changes):
    path = write(folder, **changes)
    return study.main([str(path), "--output-dir", str(folder), "--jobs", "1", *flags])


def table(folder, name="study.csv"):
    """Lines of a table, but for the time that it took."""
    with (folder / name).open() as file:
        return [
            row for row in csv.DictReader(file) if "cpu" not in row.get("quantity", "")
        ]


def results(folder):
    """When each result of a folder was written, by its path."""
    found = (folder / "trials").rglob("*.*")
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a study that ran from its beginning to its end: read it."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REFERENCE))
        assert run(importlib.import_module("study"), folder) == 0
    return folder


@pytest.fixture
def whole(ended, tmp_path):
    """A copy of it."""
    return shutil.copytree(ended, tmp_path / "whole")


def test_a_study_that_was_killed_goes_on(study, whole, tmp_path, capsys):
    """Its table is that of the study that was not, and nothing is done again.

    While it runs, another one stays out of its folder.
    """
    folder = tmp_path / "killed"
    command = [sys.executable, str(REFERENCE / "study.py"), str(write(folder))]
    with subprocess.Popen(
        [*command, "--output-dir", str(folder), "--jobs", "2"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(2)]
        assert run(study, folder) == 1
        process.send_signal(signal.SIGKILL)
    assert heard[1].startswith("[1/4"), heard
    assert "is in use by another run" in capsys.readouterr().err
    time.sleep(1)  # its trials end with it
    before = results(folder)
    assert 1 <= len(before) < len(results(whole))
    assert run(study, folder) == 0
    assert table(folder) == table(whole)
    assert table(folder, "tuning.csv") == table(whole, "tuning.csv")
    assert before.items() <= results(folder).items()


def test_ctrl_c_leaves_a_table_of_what_is_there(study, whole, tmp_path, monkeypatch):
    """And the status of an interrupt; the same command ends the study."""
    said = []

    def say(text):
        said.append(text)
        if "seed 1:" in text:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    monkeypatch.setattr(study, "say", say)
    assert run(study, folder) == 130
    (plain, *_) = (row for row in table(folder) if row["arm"] == "method")
    assert plain["n"] == "1"
    assert plain["low"] == ""
    monkeypatch.setattr(study, "say", said.append)
    assert run(study, folder) == 0
    assert table(folder) == table(whole)


def test_the_tuning_never_sees_a_test_image(study, whole, tmp_path):
    """With other images and labels in the test part, the same settings are chosen."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    (file,) = whole.glob("digits-*.pt")
    content = torch.load(file)
    images, labels = content["test"]
    content["test"] = torch.randint_like(images, 256), labels.roll(7)
    content["test hash"] = "poisoned"
    torch.save(content, folder / file.name)
    assert run(study, folder) == 0
    assert table(folder, "tuning.csv") == table(whole, "tuning.csv")
    chosen = [[row["chosen"] for row in table(f)] for f in (folder, whole)]
    assert chosen[0] == chosen[1]
    assert table(folder) != table(whole)


def test_a_changed_file_runs_what_changed_alone(study, whole, capsys):
    """Another measure trains nothing; a third arm is all that is trained for it."""
    before = results(whole)
    weights = {p: when for p, when in before.items() if p.suffix == ".pth"}
    assert run(study, whole, measures={"num_transforms": 2}) == 0
    after = results(whole)
    assert weights.items() <= after.items()
    assert {p.name for p in after.keys() - before.keys()} == {
        next(p.name for p in after.keys() - before.keys())
    }
    third = {"third": {"training": {"augment": "light"}}}
    assert run(study, whole, arms=TOY["arms"] | third) == 0
    assert after.items() <= results(whole).items() | after.items()
    new = {p.parts[1] for p in results(whole)} - {p.parts[1] for p in after}
    assert len(new) == 2 + 2  # of the tuning, and the seeds


def test_what_diverges_is_a_result(study, tmp_path, capsys):
    """It is told, is not chosen, and stands in the tables."""
    arms = {
        "plain": {"training": {"augment": SCHEME}},
        "wild": {"training": {"momentum": 0.0}},
    }
    folder, grid = tmp_path, {"training.lr": [1.0e30, 0.05]}
    assert run(study, folder, arms=arms, tune=grid) == 0
    lost = [row for row in table(folder, "tuning.csv") if "e+30" in row["setting"]]
    assert len(lost) == 2
    assert all(row["accuracy"] == "" and row["diverged"] for row in lost)
    assert {row["chosen"] for row in table(folder)} == {"training.lr 0.05"}
    assert run(study, folder, arms=arms, tune={"training.lr": [1.0e30, 1.0e31]}) == 0
    text = (folder / "study.md").read_text()
    assert text.count("diverged, whatever was tried") == 2
    alone = {"training.lr": [1.0e30]}
    assert run(study, folder, arms=arms, tune=alone) == 0
    assert "0, 2 diverged" in (folder / "study.md").read_text()


def test_the_table_has_every_arm_and_the_figure_is_a_picture(whole):
    """Losing arms too; what was tried, and what it took."""
    text = (whole / "study.md").read_text()
    heads, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines] == ["| plain", "| method"]
    assert all(" | 2: lr " in line for line in lines)
    assert "accuracy transformed" in heads
    assert re.search(r"tuning 4 trials, .*; reported 4 trials, ", text)
    with Image.open(whole / "study.png") as picture:
        picture.verify()


def test_the_measures_are_kept_for_reports(study, whole):
    """Each reported trial is a folder that `dai-plugin report` reads."""
    from dai_plugin import Measures

    found = [Measures.load(p.parent) for p in whole.rglob("measures.npz")]
    assert sorted(m.about["name"] for m in found) == ["method"] * 2 + ["plain"] * 2
    mean = torch.stack(
        [
            m.tables["output"]["accuracy"]["output"].double().mean()
            for m in found
            if m.about["name"] == "plain"
        ]
    ).mean()
    (row,) = (
        r for r in table(whole) if (r["arm"], r["quantity"]) == ("plain", "accuracy")
    )
    assert float(row["mean"]) == pytest.approx(mean.item(), rel=1e-5)
