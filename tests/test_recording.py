"""run.json, metrics.csv and the trackers."""

import csv
import importlib.util
import json
import struct
import time

import pytest
import torch
from launches import QUICK, read

import dai_plugin
from dai_plugin.cli.main import main


def test_the_start_is_recorded(train, tmp_path):
    """What one needs to repeat the run."""
    train(*QUICK, "--epochs", 1, "--seed", 3, "--output-dir", tmp_path)
    recorded = json.loads((tmp_path / "run.json").read_text())
    assert recorded["seed"] == 3
    assert recorded["processes"] == 1
    assert recorded["device"].startswith("cpu")
    assert recorded["arguments"]["num_views"] == 2
    for package in ("torch", "torchvision", "kornia", "accelerate", "dai_plugin"):
        assert recorded["versions"][package]
    assert recorded["date"].startswith("20")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_layers_loss_and_weight(train, tmp_path):
    """One value an epoch, those of metrics.csv."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(*QUICK, "--report-to", "tensorboard", "--output-dir", tmp_path)
    (file,) = (tmp_path / "dai_plugin").glob("events*")
    events = EventAccumulator(str(file)).Reload()
    rows = read(tmp_path)
    layers = [name for name in rows[0] if name.startswith("layer:")]
    assert len(layers) == 8
    for name in ["loss", "acc1", *layers]:
        values = [event.value for event in events.Scalars(name)]
        assert values == pytest.approx([float(row[name]) for row in rows], rel=1e-4)
    weights = [
        events.Scalars(name.replace("layer:", "weight:"))[0].value for name in layers
    ]
    assert sum(weights) == pytest.approx(0.1)
    assert weights[-1] == pytest.approx(10 * weights[0])
    assert events.Tags()["images"] == ["invariance"]
    (picture,) = events.Images("invariance")
    assert (picture.step, picture.width > 600) == (1, True)
    # The folder is one of `score`, too.
    page = tmp_path / "page"
    assert main(["report", str(tmp_path), "--output", str(page)]) == 0
    assert {"report.html", "dynamics.png"} <= {file.name for file in page.iterdir()}
    about = dai_plugin.Measures.load(tmp_path).about
    assert (about["name"], about["images"]) == (tmp_path.name, 32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_scores_of_the_averaged_network_are_drawn(train, tmp_path):
    """Those of the network that model.pth holds, on the held-out images."""
    pytest.importorskip("tensorboard")
    train(*QUICK, "--epochs", 1, "--report-to", "tensorboard", "--model-ema",
          "--output-dir", tmp_path)  # fmt: skip
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    layers = dict.fromkeys(row["layer"] for row in rows)
    assert list(layers)[:2] == ["input", "features.2"]
    assert len(rows) == len(layers) * 32 * 5
    import data
    import models

    content = torch.load(tmp_path / "model.pth", weights_only=True)
    network = models.build("allcnn", **content["model_args"])
    network.load_state_dict(content["model"])
    images = data.load("digits", "", test_images=32).test.images
    scores = dai_plugin.invariance_scores(
        network,
        images,
        scheme=dai_plugin.views.schemes.Scheme.halved(flip=0.0),
        mean=0.5,
        std=0.5,
    )
    for name, values in scores.items():
        found = [float(row["score"]) for row in rows if row["layer"] == name]
        torch.testing.assert_close(
            torch.tensor(found).view(32, 5), values, rtol=1e-3, atol=1e-4
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_ends_well_without_matplotlib(train, tmp_path, capsys, monkeypatch):
    """One line says what is missing, after everything else is written."""
    pytest.importorskip("tensorboard")
    import scoring

    known = importlib.util.find_spec
    monkeypatch.setattr(
        scoring, "find_spec", lambda x: None if x == "matplotlib" else known(x)
    )
    train(*QUICK, "--epochs", 1, "--report-to", "tensorboard", "--output-dir",
          tmp_path)  # fmt: skip
    printed = capsys.readouterr().out
    assert "no picture of invariance scores without matplotlib: pip" in printed
    assert "Training time" in printed
    assert (tmp_path / "model.pth").is_file()
    assert not (tmp_path / "invariance.png").exists()


def whole(file, wait=60):
    """Its bytes once wandb's own process has ended its writing: soon after the run."""
    end, size = time.monotonic() + wait, -1
    while time.monotonic() < end and size != (size := file.stat().st_size):
        time.sleep(1)
    return file.read_bytes()


def history(folder):
    """What an offline run of wandb holds: a dict a step.

    Its file is a log of LevelDB's: blocks of 32 KiB, in them parts of records after
    four bytes of checksum, two of length and one that says whether more is to come.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, record, at = whole(file), b"", 7
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<4xHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            items, record = Record.FromString(record).history.item, b""
            names = [item.key or ".".join(item.nested_key) for item in items]
            values = [json.loads(item.value_json) for item in items]
            yield dict(zip(names, values, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_and_tensorboard_get_the_same(train, tmp_path, monkeypatch):
    """Without a network, too; the scores are a picture among the files."""
    pytest.importorskip("wandb", reason="needs pip install --group integrations")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(*QUICK, "--report-to", "all", "--output-dir", tmp_path)
    rows = read(tmp_path)
    layers = [name for name in rows[0] if name.startswith("layer:")]
    logged = [step for step in history(tmp_path) if "loss" in step]
    for name in ["loss", "acc1", *layers]:
        expected = [float(row[name]) for row in rows]
        assert [step[name] for step in logged] == pytest.approx(expected, rel=1e-4)
    assert sum(logged[0][f"weight:{x[6:]}"] for x in layers) == pytest.approx(0.1)
    pictures = tmp_path.glob("wandb/offline-run-*/files/media/images/*.png")
    assert len(list(pictures)) == 1
    assert list((tmp_path / "dai_plugin").glob("events*"))


def test_a_missing_tracker_is_named(train, tmp_path, monkeypatch):
    """With what to install."""
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda x: None if x == "wandb" else known(x)
    )
    with pytest.raises(ImportError, match="needs wandb: pip install wandb"):
        train(*QUICK, "--report-to", "wandb", "--output-dir", tmp_path)


def test_each_term_has_its_columns(train, tmp_path):
    """Those of the first term are the layers', those of others bear its name."""
    train(*QUICK, "--term", "cosine", "--beta", 0.1, "--layers", "last",
          "--output-dir", tmp_path)  # fmt: skip
    row = read(tmp_path)[0]
    losses = {name: float(row[name]) for name in row if ":" in name}
    assert list(losses) == ["layer:features.23", "class:features.23"]
    assert (
        0
        < losses["layer:features.23"]
        == pytest.approx(float(row["invariance_loss"]), rel=1e-5)
    )
    assert losses["class:features.23"] > 0


def test_a_term_that_weighs_nothing_has_no_columns(train, tmp_path):
    """The class-wise term waits for labels, and is not computed for alpha 0."""
    train(*QUICK, "--term", "class", "--alpha", 0, "--output-dir", tmp_path)
    row = read(tmp_path)[0]
    assert not [name for name in row if ":" in name]
    assert float(row["invariance_loss"]) == 0
