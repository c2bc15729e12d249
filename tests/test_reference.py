"""The reference script trains, tests, and launches."""

import torch
from launches import QUICK, launch, picture_folder, read

ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")


def test_a_run_writes_its_metrics_and_its_network(train, tmp_path, capsys):
    """Meter lines, a row of layer losses an epoch, metrics.csv, model.pth."""
    train(*QUICK, "--epochs", 2, "--num_views", 2, "--output-dir", tmp_path)
    printed = capsys.readouterr().out
    assert "32 images x 2 views = 64 rows a step" in printed
    assert "Epoch: [1]  [4/5]" in printed
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


def test_alpha_zero_is_the_baseline_on_the_same_views(train, tmp_path):
    """Same data, same views, no invariance in the loss; its layers are measured."""
    train(*QUICK, "--epochs", 1, "--alpha", 0, "--output-dir", tmp_path)
    (row,) = read(tmp_path)
    assert row["loss"] == row["task_loss"]
    assert 0 < float(row["layer:features.23"]) < 1


def test_test_only_scores_a_checkpoint(train, tmp_path, capsys):
    """--test-only prints the accuracies that the run ended with."""
    train(*QUICK, "--epochs", 1, "--output-dir", tmp_path)
    expected = capsys.readouterr().out.splitlines()
    train(*QUICK, "--test-only", "--resume", tmp_path)
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
        "--workers", "1", "--output-dir", tmp_path / "run", launcher=ACCELERATE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "12 training images, 4 held out, 2 classes, 12 x 12 pixels" in result.stdout
    assert "mixed precision bf16" in result.stdout
    assert "4 images x 4 views = 16 rows" in result.stdout
    assert len(read(tmp_path / "run")) == 1


def test_a_slow_loader_is_said_to_be_the_bottleneck(train, tmp_path, capsys):
    """Large files for a small network, which has to wait for them."""
    folder = picture_folder(tmp_path / "pictures", size=(700, 700))
    train(
        "--dataset", "imagefolder", "--data-path", folder, "--val-resize-size", 16,
        "--train-crop-size", 16, "--model", "allcnn", "--width", 0.04,
        "--batch-size", 6, "--epochs", 1, "--workers", 0, "--output-dir", tmp_path,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "the loader is the bottleneck: give it more --workers than 0" in printed


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
