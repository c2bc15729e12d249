"""What a run says of itself: accuracies, loss, the best epoch."""

import importlib
import json
import random
import shutil

import pytest
import torch
from conftest import REFERENCE
from launches import QUICK, read
from torch.nn.functional import cross_entropy


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module


@pytest.mark.parametrize("classes", [2, 5, 6, 40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hits_and_losses_of_images(reference, classes, smoothing):
    """As counted one by one; of no more classes than five, all are hits."""
    outputs = torch.randn(50, classes, dtype=torch.bfloat16)
    targets = torch.randint(classes, (50,))
    found = reference("evaluation").of_images(outputs, targets, smoothing)
    for row, logits, target in zip(found, outputs.float(), targets, strict=True):
        better = (logits > logits[target]).sum().item()
        equal = (logits == logits[target]).sum().item()
        if equal == 1:  # which of equal ones counts is torch's business
            assert row[0] == 100 * (better == 0)
            assert row[1] == 100 * (better < 5)
        loss = cross_entropy(logits[None], target[None], label_smoothing=smoothing)
        torch.testing.assert_close(row[2], loss)


def test_the_metrics_are_those_of_the_network(reference, finished):
    """Of model.pth, and of best.pth, on all held-out images at once."""
    test = reference("data").load("digits", "", test_images=32).test
    preset = reference("data").load("digits", "").preset
    images = preset.normalize(torch.stack([test[i][0] for i in range(32)]))
    targets = torch.tensor([test[i][1] for i in range(32)])
    rows = read(finished)
    for name in ("model.pth", "best.pth"):
        content = torch.load(finished / name, weights_only=True)
        network = reference("models").build("allcnn", **content["model_args"])
        network.load_state_dict(content["model"])
        with torch.no_grad():
            outputs = network.eval()(images)
        row = {k: float(v) for k, v in rows[content["epoch"]].items()}
        hits = outputs.topk(5).indices.eq(targets[:, None])
        assert row["acc1"] == pytest.approx(100 * hits[:, 0].float().mean().item())
        assert row["acc5"] == pytest.approx(100 * hits.any(1).float().mean().item())
        loss = cross_entropy(outputs, targets).item()
        assert row["test_loss"] == pytest.approx(loss, rel=1e-4)


def test_two_classes_have_no_top_five(train, tmp_path):
    """The column is left out."""
    from launches import picture_folder

    folder = picture_folder(tmp_path / "pictures")
    train("--dataset", "imagefolder", "--data-path", folder, "--model", "allcnn",
          "--width", 0.04, "--batch-size", 6, "--epochs", 1, "--workers", 0,
          "--output-dir", tmp_path / "run")  # fmt: skip
    (row,) = read(tmp_path / "run")
    assert "acc1" in row
    assert "test_loss" in row
    assert "acc5" not in row


@pytest.mark.parametrize("seed", range(10))
def test_the_best_epoch_is_the_first_of_the_highest(reference, seed):
    """Among random accuracies with many equals; it is what run.json and a line say."""
    best, draw = reference("best"), random.Random(seed)
    rows = [
        {"epoch": i, "acc1": draw.choice([10.0, 20.0, 30.0])}
        for i in range(draw.randrange(1, 9))
    ]
    accuracies = [row["acc1"] for row in rows]
    expected = accuracies.index(max(accuracies))
    assert best.best_of(rows)["epoch"] == expected
    assert f"best.pth: epoch {expected}, the highest Acc@1 (" in best.told(rows)
    found = best.results(rows, len(rows), 8)
    assert found["best"]["epoch"] == expected
    assert found["last"] == rows[-1]
    assert found["finished"] == (len(rows) == 8)


def test_run_json_has_the_results(finished):
    """The last epoch and the best, and why."""
    about = json.loads((finished / "run.json").read_text())
    assert about["resumed"] is None
    results, rows = about["results"], read(finished)
    assert (results["epochs_done"], results["finished"]) == (2, True)
    for name in ("acc1", "acc5", "test_loss"):
        assert f"{results['last'][name]:.6g}" == rows[-1][name]
    best = max(rows, key=lambda row: float(row["acc1"]))
    assert results["best"]["epoch"] == int(best["epoch"])
    assert results["best"]["why"] == "highest acc1, the first of equals"
    assert [row["images"] for row in rows] == ["150", "300"]
    assert [row["rows"] for row in rows] == ["300", "600"]


def test_a_resumed_run_keeps_its_best(train, finished, tmp_path, capsys):
    """With a rate that spoils the network: best.pth goes along, to the bit."""
    train(*QUICK, "--epochs", 3, "--lr", 1e-12, "--momentum", 0.1, "--resume",
          finished, "--output-dir", tmp_path)  # fmt: skip
    ours, theirs = (
        torch.load(folder / "best.pth", weights_only=True)
        for folder in (tmp_path, finished)
    )
    rows = read(tmp_path)
    accuracies = [float(row["acc1"]) for row in rows]
    assert ours["epoch"] == accuracies.index(max(accuracies))
    if ours["epoch"] < 2:
        for name, value in ours["model"].items():
            assert torch.equal(value, theirs["model"][name])
    assert f"best.pth: epoch {ours['epoch']}, the high" in capsys.readouterr().out
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["resumed"] == str(finished / "checkpoint.pth")
    assert about["results"]["epochs_done"] == 3


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another epoch"])
def test_a_best_that_is_lost_is_told(reference, train, finished, tmp_path, fault,
                                     capsys):  # fmt: skip
    """Training goes on; the next better epoch is kept."""
    old = shutil.copytree(finished, tmp_path / "old")
    path = old / "best.pth"
    if fault == "missing":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        content = torch.load(path, weights_only=True) | {"epoch": 7}
        reference("files").write_sealed(path, content)
    train(*QUICK, "--resume", old, "--output-dir", tmp_path / "new")
    printed = capsys.readouterr().out
    rows = read(finished)
    best = max(rows, key=lambda row: float(row["acc1"]))
    assert f"{path} is not the network of epoch {best['epoch']}, the best" in printed
    assert "best.pth is written again after an epoch better than its" in printed
    assert not (tmp_path / "new" / "best.pth").exists()
