"""Invariance alone as a recipe, and what its frozen features are good for."""

import json

import pytest
import torch
from conftest import REFERENCE, SmallNet
from launches import QUICK, read
from sklearn.linear_model import LogisticRegression

from dai_plugin import attach, attached, layer_weights


@pytest.fixture
def probe(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import probe

    return probe


def blobs(seed, classes=4, count=120, features=6):
    """Overlapping clouds of points, one feature of which is always the same."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, features, generator=generator)
    noise = torch.randn(count, features, generator=generator)
    rows = (centres[labels] + noise) * torch.linspace(0.1, 30, features)
    rows[:, 2] = 5.0
    return rows.double(), labels


@pytest.mark.parametrize("seed", range(4))
def test_the_linear_probe_is_logistic_regression(probe, seed):
    """Of scikit-learn, on features that it is given standardised."""
    rows, labels = blobs(seed)
    others, _ = blobs(seed + 100)
    std = rows.std(0)
    scale = torch.where(std > 0, std, 1)
    strength = 1 / (probe.DECAY * len(rows))
    expected = LogisticRegression(C=strength, max_iter=2000, tol=1e-9)
    expected.fit(((rows - rows.mean(0)) / scale).numpy(), labels.numpy())
    found = probe.linear_probe(rows, labels, 4)(others).softmax(1)
    theirs = expected.predict_proba(((others - rows.mean(0)) / scale).numpy())
    torch.testing.assert_close(found, torch.from_numpy(theirs), atol=2e-3, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_class_mean(probe, seed):
    """Point by point; a class that no image has is never chosen."""
    rows, labels = blobs(seed)
    others, _ = blobs(seed + 100)
    labels[labels == 1] = 0
    chosen = probe.class_means(rows, labels, 4)(others).argmax(1)
    means = {c: rows[labels == c].mean(0) for c in (0, 2, 3)}
    for row, found in zip(others, chosen.tolist(), strict=True):
        assert found == min(means, key=lambda c: (row - means[c]).norm())


@pytest.mark.parametrize("share", [(1.0, 0.0), (0.0, 1.0), (0.75, 0.25)])
def test_the_task_loss_has_no_part_in_it(share, batch):
    """Weights that sum to 1: whatever the criterion says, the gradient is the same."""
    alpha, beta = share
    images, targets = batch
    found = []
    for smoothing in (0.0, 0.7):
        torch.manual_seed(0)
        net = SmallNet()
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        attach(net, criterion, alpha=alpha, beta=beta, mean=0.0, std=1.0, seed=1)
        criterion(net(images), targets).backward()
        assert attached(net).stats()["missed"] == 0
        assert not net.classifier.weight.grad.any()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert found[0][0].any()


def test_the_recipe_from_its_command_to_the_probe(train, probe, tmp_path, capsys):
    """Trained without labels, watched, probed: the head is as it began."""
    run = tmp_path / "run"
    train(
        *QUICK, "--recipe", "allcnn-cifar10-invariance", "--dataset", "digits",
        "--num-views", 2, "--epochs", 1, "--watch", 12, "--output-dir", run,
    )  # fmt: skip
    (row,) = read(run)
    losses = [float(v) for k, v in row.items() if k.startswith("layer:")]
    weights = layer_weights(len(losses), alpha=1.0)
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)
    assert 0 < float(row["watch:first_component:features.23"]) <= 1
    capsys.readouterr()
    probe.main([str(run)])
    printed = capsys.readouterr().out
    found = json.loads((run / "probe.json").read_text())
    assert list(found) == ["trained", "untrained"]
    assert f"run, trained: linear_probe {found['trained']['linear_probe']:.4g}" in (
        printed
    )
    for each in found.values():
        assert 10 < each["linear_probe"] <= 100
        assert 0 <= each["class_mean"] <= 100
        assert 0 < each["first_component"] <= 1 <= each["effective_rank"]
        assert each["effective_rank"] <= each["features"] == 8
    assert found["trained"] != found["untrained"]


def test_folders_that_hold_no_network_are_refused(probe, finished, tmp_path):
    """What is missing is named, and which file to give."""
    with pytest.raises(ValueError, match=r"holds no run.json: give the folder of a"):
        probe.main([str(tmp_path)])
    (tmp_path / "run.json").write_text((finished / "run.json").read_text())
    with pytest.raises(ValueError, match=r"model.pth holds no network .*first epoch"):
        probe.main([str(tmp_path)])
    with pytest.raises(ValueError, match=r"checkpoint, which .*model.pth or best.pth"):
        probe.main([str(finished), "--weights", "checkpoint.pth"])
