"""The reference script trains, resumes, launches, and says what is wrong."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from conftest import REFERENCE, TINY
from PIL import Image


def launch(*arguments, launcher=("accelerate.commands.launch", "--cpu")):
    command = [sys.executable, "-m", *launcher, str(REFERENCE / "train.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env=environment
    )


def read(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def picture_folder(root, classes=("cat", "dog"), size=(14, 12)):
    """Six coloured squares of each class in train/, two in val/."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(120, (*size, 3), generator=generator)
                pixels = (noise + 100 * label).byte().numpy()
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_a_run_writes_its_metrics_and_its_network(train, tmp_path, capsys):
    """Meter lines, a row of layer losses an epoch, metrics.csv, model.pth."""
    train(*TINY, "--epochs", 2, "--num_views", 2, "--output-dir", tmp_path)
    printed = capsys.readouterr().out
    assert "128 images x 2 views = 256 rows a step" in printed
    assert "Epoch: [1]  [11/12]" in printed
    assert printed.count("inv[features.2 ") == 2
    rows = read(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert sum(name.startswith("layer:") for name in rows[0]) == 8
    for name in (
        "lr",
        "loss",
        "task_loss",
        "invariance_loss",
        "acc1",
        "acc1_augmented",
    ):
        assert float(rows[1][name]) >= 0
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert saved["model_args"] == {"num_classes": 10, "width": 0.04}


@pytest.mark.parametrize(
    "data", [[], ["--dataset", "fake", "--workers", 1]], ids=["in memory", "worker"]
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(train, tmp_path, data):
    """Two epochs at once and one after the other: the same weights, bit for bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = [*TINY, *data, "--lr-scheduler", "exponentiallr", "--lr-gamma", 0.5]
    train(*common, "--epochs", 2, "--output-dir", whole)
    train(*common, "--epochs", 1, "--output-dir", parts)
    train(*common, "--epochs", 2, "--output-dir", parts, "--resume", parts)
    expected, got = (
        torch.load(folder / "model.pth", weights_only=True)["model"]
        for folder in (whole, parts)
    )
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    skip = "images_per_second"
    for ours, theirs in zip(read(parts), read(whole), strict=True):
        assert {k: v for k, v in ours.items() if k != skip} == {
            k: v for k, v in theirs.items() if k != skip
        }


def test_alpha_zero_is_the_baseline_on_the_same_views(train, tmp_path):
    """Same data, same views, no invariance in the loss; its layers are measured."""
    train(*TINY, "--epochs", 1, "--alpha", 0, "--output-dir", tmp_path)
    (row,) = read(tmp_path)
    assert row["loss"] == row["task_loss"]
    assert 0 < float(row["layer:features.23"]) < 1


def test_test_only_scores_a_checkpoint(train, tmp_path, capsys):
    """--test-only prints the accuracies that the run ended with."""
    train(*TINY, "--epochs", 1, "--output-dir", tmp_path)
    expected = capsys.readouterr().out.splitlines()
    train(*TINY, "--test-only", "--resume", tmp_path / "checkpoint")
    line = next(x for x in expected if x.startswith("Test:"))
    assert line in capsys.readouterr().out
    assert len(read(tmp_path)) == 1


def test_accelerate_launch_on_an_image_folder(tmp_path):
    """A real launch: image folder, bf16, accumulation, small images at their size."""
    folder = picture_folder(tmp_path / "pictures")
    result = launch(
        "--dataset", "imagefolder", "--data-path", folder, "--model", "allcnn",
        "--width", "0.05", "--num-views", "4", "--batch-size", "4", "--epochs", "1",
        "--gradient-accumulation-steps", "2", "--mixed-precision", "bf16",
        "--workers", "1", "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "12 training images, 4 held out, 2 classes, 12 x 12 pixels" in result.stdout
    assert "mixed precision bf16" in result.stdout
    assert "4 images x 4 views = 16 rows" in result.stdout
    assert len(read(tmp_path / "run")) == 1


def test_a_torchvision_model_on_noise(train, tmp_path):
    """Any classifier of torchvision, with the paper's beta and a list of layers."""
    train(
        "--dataset", "fake", "--model", "resnet18", "--batch-size", 64, "--epochs", 1,
        "--beta", 0.1, "--layers", "layer1.?", "layer4", "--workers", 0,
        "--opt", "adamw", "--lr-warmup-epochs", 1, "--lr-warmup-method", "linear",
        "--output-dir", tmp_path,
    )  # fmt: skip
    (row,) = read(tmp_path)
    assert "layer:layer4" in row
