"""What the README shows is what the package does."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import SmallNet
from torch import nn

import dai_plugin
from dai_plugin.cli.parser import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [p for p in (ROOT / "docs").glob("*.md") if "```python" in p.read_text()]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(start):
    text = "\n".join(blocks("bash"))
    return [line for line in text.splitlines() if line.startswith(start)]


def test_python_snippets_run(loader):
    """In the order of the page, each that attaches on a fresh model of the reader's."""
    names = {"torch": torch, "loader": loader}
    for snippet in blocks("python"):
        if "attach(" in snippet or "DataAugmentationInvariance(" in snippet:
            names["model"], names["criterion"] = SmallNet(), nn.CrossEntropyLoss()
            parameters = names["model"].parameters()
            names["optimizer"] = torch.optim.SGD(parameters, lr=0.01)
        exec(snippet, names)
        if "for images, targets in loader:" in snippet:
            trained = names.get("dai") or dai_plugin.attached(names["model"])
            assert trained.stats()["criterion_calls"] == len(loader)
    assert names["layers"] == [f"features.{i}" for i in range(6)]
    assert list(names["scores"]) == ["input", "features.2", "features.4"]
    assert names["attachment"].settings.scheme is names["pipeline"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_of_the_pages_run(page, loader, tmp_path, monkeypatch):
    """In the order of a page, each that attaches on a fresh model of the reader's."""
    monkeypatch.chdir(tmp_path)
    names = {"dai_plugin": dai_plugin, "attach": dai_plugin.attach}
    images, targets = next(iter(loader))
    names["loader_of_views"] = [((images, images), targets)]
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        names["model"], names["criterion"] = SmallNet(), nn.CrossEntropyLoss()
        exec(snippet, names)
        if "attach(" in snippet:
            stats = dai_plugin.attached(names["model"]).stats
            if not stats()["forwards"]:  # the loop is the reader's
                names["criterion"](names["model"](images), targets).backward()
            assert stats()["criterion_calls"] == stats()["forwards"] == 1


@pytest.mark.parametrize("line", commands("dai-plugin"))
def test_commands_parse(line):
    """Every flag of the command line in the README exists."""
    parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize(
    "line", [*commands("python reference"), *commands("accelerate launch reference")]
)
def test_training_commands_parse(line, monkeypatch):
    """Every flag of the training script in the README exists."""
    monkeypatch.syspath_prepend(str(ROOT / "reference"))
    import train

    arguments = line.split("train.py", 1)[1]
    assert train.parse(shlex.split(arguments)).num_views >= 2


def test_pictures_and_files_exist():
    """Links to files of the repository lead somewhere."""
    for path in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
