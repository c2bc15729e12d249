"""docs/schemes.md: every name, its strengths, and snippets that run."""

import re
import shlex
from pathlib import Path

import torch
from conftest import SmallNet
from torch import nn

import dai_plugin
from dai_plugin.cli.parser import parser
from dai_plugin.views.named import NAMED
from dai_plugin.views.schemes import _WORDS, Scheme, find_scheme

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "schemes.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_table_lists_every_name_with_its_object():
    """In the order of the messages, and equal to what the name stands for."""
    rows = dict(
        re.findall(r'^\| "(\w+)" \| `?([^|`]*?)`? \|', PAGE, flags=re.MULTILINE)
    )
    assert set(rows) == set(_WORDS)
    for name, shown in rows.items():
        if name != "given":
            names = {kind.__name__: kind for kind in (Scheme, *NAMED.values())}
            assert eval(shown, names) == find_scheme(name)


def test_snippets_run():
    """In the order of the page, on models of the reader's."""
    views = [torch.rand(4, 3, 12, 12) for _ in range(2)]
    names = {"loader_of_views": [(views, torch.tensor([0, 1, 2, 3]))]}
    for snippet in blocks("python"):
        names |= {"dai_plugin": dai_plugin, "model": SmallNet()}
        names["criterion"] = nn.CrossEntropyLoss()
        exec(snippet, names)
    assert dai_plugin.attached(names["model"]).stats()["criterion_calls"] == 1


def test_commands_parse(monkeypatch):
    """Every flag exists."""
    monkeypatch.syspath_prepend(str(ROOT / "reference"))
    import train

    score, script = "".join(blocks("bash")).splitlines()
    parser().parse_args(shlex.split(score)[1:])
    train.parse(shlex.split(script.split("train.py", 1)[1]))
