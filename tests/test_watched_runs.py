"""`--watch` of the training script: more columns, and nothing else changes."""

import pytest
import torch
from launches import QUICK, assert_same_end, launch, read, weights

import dai_plugin

WATCHED = (*QUICK, "--epochs", "1", "--watch", "12")


def is_watched(name):
    return name.startswith("watch:")


def assert_same_training(ours, theirs):
    """The same weights to the bit, and the same columns but for those of the watch."""
    for name, value in weights(theirs).items():
        assert torch.equal(weights(ours)[name], value), name
    for row, reference in zip(read(ours), read(theirs), strict=True):
        own = {name for name in row if not is_watched(name)}
        assert own == set(reference)
        for name in own - {"images_per_second"}:
            assert row[name] == reference[name], name


def test_a_watched_run_trains_the_same(train, tmp_path, capsys):
    """Weights to the bit; the columns are what `measure` finds of model.pth."""
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    train(*WATCHED, "--watch", 0, "--output-dir", plain)
    assert "Watch:" not in capsys.readouterr().out
    train(*WATCHED, "--output-dir", watched)
    printed = capsys.readouterr().out
    assert printed.count("Watch: last layer's score ") == 2  # before the first, too
    assert_same_training(watched, plain)
    (row,) = read(watched)
    import data
    import models

    content = torch.load(watched / "model.pth", weights_only=True)
    net = models.build("allcnn", **content["model_args"])
    net.load_state_dict(content["model"])
    test = data.load("digits", "", test_images=32).test
    places = torch.linspace(0, 31, 12).long().tolist()
    images = torch.stack([test[i][0] for i in places])
    found = dai_plugin.measure(
        net,
        [(images, torch.tensor([test[i][1] for i in places]))],
        scheme=dai_plugin.Scheme.halved(flip=0.0),
        mean=content["mean"],
        std=content["std"],
    )
    means = {(r["measure"], r["place"]): r["mean"] for r in found.rows()}
    columns = [name for name in row if is_watched(name)]
    for name in columns:
        _, measure, *layer = name.split(":")
        expected = means[measure, layer[0] if layer else "output"]
        assert float(row[name]) == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert len(columns) == 3 * 9 + 4


def test_a_watched_run_resumes_where_it_was(train, tmp_path):
    """One epoch, then a second: the rows of the run that was never interrupted."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*WATCHED, "--epochs", 2, "--output-dir", whole)
    train(*WATCHED, "--epochs", 1, "--output-dir", parts)
    train(*WATCHED, "--epochs", 2, "--resume", "auto", "--output-dir", parts)
    assert_same_end(parts, whole)


def test_two_processes_train_the_same(tmp_path):
    """Every process measures, the first one writes."""
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    for folder, flags in ((plain, ("--watch", 0)), (watched, ())):
        result = launch(*WATCHED, *flags, "--output-dir", folder, processes=2)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_same_training(watched, plain)
    assert 0 <= float(read(watched)[0]["watch:consistency"]) <= 1


def test_one_image_is_nothing_to_compare(train):
    """Said before anything is loaded."""
    with pytest.raises(ValueError, match="--watch 1: measures compare images"):
        train("--watch", 1)
    with pytest.raises(ValueError, match=r"--watch -2 must be a number of at least 0"):
        train("--watch", -2)
