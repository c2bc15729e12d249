"""The package's files form one line, and importing it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dai_plugin

PACKAGE = Path(dai_plugin.__file__).parent
ORDER = [
    "schemes",
    "normalization",
    "views",
    "groups",
    "classes",
    "variance",
    "loss",
    "ranks",
    "weights",
    "schedules",
    "layers",
    "hooks",
    "outputs",
    "criterion",
    "settings",
    "objective",
    "explicit",
    "attachment",
    "batches",
    "scores",
    "report",
    "loading",
    "cli",
]


def imported(path):
    """Modules of the package that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("dai_plugin."):
                yield node.module.split(".")[1]
            elif node.module == "dai_plugin":
                yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_from_files_above_it(name):
    """The order of the list is the order in which the files can be read."""
    above = set(ORDER[: ORDER.index(name)]) - {"report"}
    allowed = above | ({"report"} if name == "cli" else set()) | {"__version__"}
    assert set(imported(PACKAGE / f"{name}.py")) <= allowed


def test_the_list_is_complete():
    """No file stands outside the order."""
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files - {"__init__", "__main__"} == set(ORDER)


def test_importing_the_package_stays_light():
    """Neither plotting nor launching nor kornia is loaded until it is used."""
    heavy = ["matplotlib", "seaborn", "pandas", "accelerate", "kornia", "torchvision"]
    code = f"import dai_plugin, sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
