"""run.json, metrics.csv and the trackers."""

import importlib.util
import json

import pytest
from launches import QUICK, read


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


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="it is here")
def test_a_missing_tracker_is_named(train, tmp_path):
    """With what to install."""
    with pytest.raises(ImportError, match="needs wandb: pip install wandb"):
        train(*QUICK, "--report-to", "wandb", "--output-dir", tmp_path)
