"""The table of several runs: seeds of a setting are brought together."""

import importlib
import json
import subprocess
import sys

import pytest
from conftest import REFERENCE

EPOCH = 100  # images


def run(folder, accuracies, score=None, views=4, alpha=0.1):
    """What training leaves of so many epochs."""
    folder.mkdir()
    lines = ["epoch,images,rows,task_loss,images_per_second,acc1,test_loss,"
             "acc1_augmented"]  # fmt: skip
    for i, accuracy in enumerate(accuracies):
        seen = EPOCH * (i + 1)
        lines += [f"{i},{seen},{seen * views},1,8,{accuracy},2,{accuracy - 10}"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    arguments = {
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_views": views,
        "alpha": alpha,
    }
    (folder / "run.json").write_text(
        json.dumps({"arguments": arguments, "processes": 1})
    )
    if score is not None:
        layers = {"input": {"50%": 0.5}, "features.1": {"50%": score}}
        (folder / "summary.json").write_text(json.dumps({folder.name: layers}))
    return folder


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module("compare")


@pytest.fixture
def folders(tmp_path):
    return [
        run(tmp_path / "baseline-0", [10, 60], 0.2, alpha=0),
        run(tmp_path / "baseline-1", [70, 62], 0.4, alpha=0),
        run(tmp_path / "method-0", [10, 58], 0.9),
    ]


def read(compare, folders):
    """Cells by the head of their line."""
    lines = [line.strip("| ").split(" | ") for line in compare.table(folders)]
    return {line[0]: line[1:] for line in lines[2:]}


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({"num_views": 1, "alpha": 0.1}, "plain loop"),
        ({"num_views": 1, "alpha": 0.1, "term": "class"}, "method"),
        ({"num_views": 1, "alpha": 0, "term": "class"}, "plain loop"),
        ({"num_views": 1, "alpha": 0.1, "beta": 0.1}, "method"),
        ({"num_views": 2, "alpha": 0.1, "term": "jsd"}, "method"),
        ({"num_views": 2, "alpha": 0}, "baseline"),
    ],
)
def test_what_a_run_is(compare, flags, kind):
    """By the terms that it is trained with."""
    assert compare.kind(compare.Finished([], {"arguments": flags}, {})) == kind


def test_mean_and_deviation_over_seeds(compare, folders):
    """Of the last epoch; a setting with one seed has no deviation."""
    first, *_ = compare.table(folders)
    assert first == "| | baseline (n = 2) | method (n = 1) |"
    cells = read(compare, folders)
    assert cells["training"] == ["baseline", "method"]
    assert cells["accuracy, %"] == ["61 ± 1.4", "58"]
    assert cells["accuracy on augmented images, %"] == ["51 ± 1.4", "48"]
    assert cells["best accuracy, %"] == ["65 ± 7.1", "58"]
    assert cells["epoch of the best"] == ["0.5 ± 0.71", "1"]
    assert cells["seconds a step"] == ["1 ± 0", "1"]
    assert cells["rows a step"] == ["32 ± 0", "32"]
    assert cells["test loss"] == ["2 ± 0", "2"]
    assert cells["median score, layer 1 (`features.1`)"] == ["0.3 ± 0.14", "0.9"]


def test_the_plain_loop_at_equal_images_and_at_equal_rows(compare, folders, tmp_path):
    """Of one view: eight epochs have the rows of two, and two have their images."""
    plain = run(tmp_path / "plain-0", range(20, 100, 10), views=1)
    cells = read(compare, [plain, *folders])
    assert cells["training"] == ["plain loop", "baseline", "method"]
    assert cells["accuracy, %"][0] == "90"
    assert cells["accuracy at 200 images, %"] == ["30", "61 ± 1.4", "58"]
    assert cells["accuracy at 800 rows, %"] == ["90", "61 ± 1.4", "58"]
    assert cells["rows in all"] == ["800", "800 ± 0", "800"]


def test_an_epoch_that_takes_more_than_the_others_have_had(compare, folders, tmp_path):
    """A short plain run: nothing of the others is as cheap."""
    plain = run(tmp_path / "plain-0", [20, 40, 50], views=1)
    cells = read(compare, [plain, *folders])
    assert cells["accuracy at 300 rows, %"] == ["50", "-", "-"]


def test_runs_that_differ_in_what_they_hold(compare, folders):
    """A score that one of them lacks is the mean of the others', or a dash."""
    for folder in folders[1:]:
        (folder / "summary.json").unlink()
    cells = read(compare, folders)
    assert cells["median score, layer 1 (`features.1`)"] == ["0.2", "-"]
    assert cells["accuracy, %"] == ["61 ± 1.4", "58"]


def test_a_folder_without_a_run(tmp_path):
    """Said in one line."""
    command = [sys.executable, str(REFERENCE / "compare.py"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        f"compare.py: error: {tmp_path} holds no run to compare: metrics.csv is "
        "missing\n"
    )
