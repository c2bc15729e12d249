"""The table of several runs: seeds of a setting are brought together."""

import importlib
import json

import pytest
from conftest import REFERENCE


def run(folder, accuracy, score):
    folder.mkdir()
    (folder / "metrics.csv").write_text(
        "epoch,task_loss,images_per_second,acc1,acc1_augmented\n"
        f"0,2.0,8,10,10\n1,1.0,8,{accuracy},{accuracy - 10}\n"
    )
    arguments = {"batch_size": 4, "gradient_accumulation_steps": 2}
    (folder / "run.json").write_text(
        json.dumps({"arguments": arguments, "processes": 1})
    )
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
        run(tmp_path / "baseline-0", 60, 0.2),
        run(tmp_path / "baseline-1", 62, 0.4),
        run(tmp_path / "method-0", 58, 0.9),
    ]


def test_mean_and_deviation_over_seeds(compare, folders):
    """Of the last epoch; a setting with one seed has no deviation."""
    lines = list(compare.table(folders))
    assert lines[0] == "| | baseline (n = 2) | method (n = 1) |"
    assert lines[2] == "| accuracy, % | 61 ± 1.4 | 58 |"
    assert lines[3] == "| accuracy on augmented images, % | 51 ± 1.4 | 48 |"
    assert lines[5] == "| seconds a step | 1 ± 0 | 1 |"
    assert lines[-1] == "| median score, layer 1 (`features.1`) | 0.3 ± 0.14 | 0.9 |"


def test_a_run_without_scores_still_shows_its_accuracy(compare, folders):
    """`dai-plugin score` may not have run yet."""
    (folders[0] / "summary.json").unlink()
    assert compare.values(folders[0])["accuracy, %"] == pytest.approx(60)


def test_runs_that_differ_in_what_they_hold(compare, folders):
    """A score that one of them lacks is the mean of the others', or a dash."""
    for folder in folders[1:]:
        (folder / "summary.json").unlink()
    lines = list(compare.table(folders))
    assert lines[-1] == "| median score, layer 1 (`features.1`) | 0.2 | - |"
