"""Small networks and a plain training loop, as many tests use them."""

import logging
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

REFERENCE = Path(__file__).parents[1] / "reference"
TINY = ["--model", "allcnn", "--width", "0.04", "--batch-size", "128", "--flip", "0"]


class SmallNet(nn.Module):
    """Two convolutions with activations, a classifier; the shape of most networks."""

    def __init__(self, classes=5, channels=3):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Linear(32, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Plain(nn.Module):
    """One layer whose activations the test keeps; no batch norm."""

    def __init__(self, classes=5):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 7, 2), nn.ReLU())
        self.head, self.seen = nn.Linear(7, classes), None

    def forward(self, x):
        activation = self.features(x)
        logits = self.head(activation.mean((2, 3)))
        if torch.is_grad_enabled():  # a look at the network is none of the test's
            self.seen = activation, logits
        return logits


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 12, 12, generator=generator)
    return images, torch.tensor([0, 1, 4, 1])


@pytest.fixture
def loader():
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(10, 3, 12, 12, generator=generator)
    labels = torch.randint(5, (10,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=4)


@pytest.fixture
def train(monkeypatch):
    """The script's `main` on a command line, in this process."""
    return script(monkeypatch)


def script(patch):
    """The same for fixtures that live longer than a test."""
    patch.syspath_prepend(str(REFERENCE))
    import train

    def run(*arguments):
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        train.main(train.parse(["--device", "cpu", *map(str, arguments)]))

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run of two epochs, trained once: read it, or copy it."""
    from launches import QUICK, launch

    folder = tmp_path_factory.mktemp("finished") / "run"
    result = launch(*QUICK, "--checkpoint-freq", 2, "--output-dir", folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


@pytest.fixture(autouse=True)
def _quiet(caplog, request):
    """Notices are kept for `caplog` at every level.

    Attachments that other tests left unused say so when they are collected, which may
    be during this one: only a test that asks for `unused` hears it.
    """
    caplog.set_level(logging.INFO, "dai_plugin")
    heard = "unused" in request.fixturenames
    logger = logging.getLogger("dai_plugin")

    def keep(record):
        return heard or "never called" not in record.getMessage()

    logger.addFilter(keep)
    yield
    logger.removeFilter(keep)


@pytest.fixture
def unused():
    """The test hears of attachments that were never called."""


def named(value):
    """A parameter's name, the same in every process: without places in memory."""
    return re.sub(r" at 0x\w+", "", str(value))


def pytest_terminal_summary(terminalreporter):
    """Says how many of torchvision's networks were trained a step."""
    from networks import NAMES

    passed = [
        report
        for report in terminalreporter.stats.get("passed", [])
        if "test_one_step_on_every_classifier" in report.nodeid
        and report.when == "call"
    ]
    if passed:
        terminalreporter.write_line(
            f"networks of torchvision trained: {len(passed)} of {len(NAMES)} listed"
        )
