"""The package's files form one line, and importing it stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dai_plugin

PACKAGE = Path(dai_plugin.__file__).parent
# Folders, and files in them, in the order in which they can be read.
ORDER = [
    "schedules",
    "wrappers",
    "automatic",
    "layers",
    "files",
    "views.pipelines",
    "views.composed",
    "views.operations",
    "views.policies",
    "views.named",
    "views.schemes",
    "views.statistics",
    "views.normalization",
    "views.pixels",
    "views.warp",
    "views.calls",
    "views.targets",
    "views.motion",
    "views.rows",
    "views.expand",
    "losses.groups",
    "losses.classes",
    "losses.tap",
    "losses.ratio",
    "losses.ranks",
    "losses.weights",
    "losses.consistency",
    "losses.literal",
    "losses.terms",
    "settings",
    "training.arguments",
    "training.given",
    "training.graph",
    "training.outputs",
    "training.step",
    "training.inert",
    "training.paths",
    "training.hooks",
    "training.untouched",
    "training.look",
    "training.growth",
    "training.follow",
    "training.criterion",
    "training.standins",
    "training.watch",
    "training.ledger",
    "training.objective",
    "training.placed",
    "training.predictions",
    "training.terms",
    "training.record",
    "training.notice",
    "training.draws",
    "training.usage",
    "training.observe",
    "training.steps",
    "training.past",
    "training.loss",
    "training.forward",
    "training.attachment",
    "training.explicit",
    "training.literal",
    "training.check",
    "measures.seen",
    "measures.contents",
    "measures.data",
    "measures.versions",
    "measures.taps",
    "measures.passes",
    "measures.columns",
    "measures.units",
    "measures.scores",
    "measures.classes",
    "measures.layer_measures",
    "measures.output_measures",
    "measures.archive",
    "measures.results",
    "measures.progress",
    "measures.series",
    "measures.worst",
    "measures.pictures",
    "measures.looking",
    "measures.strengths",
    "measures.balls",
    "measures.adversary",
    "measures.search",
    "measures.attacks",
    "measures.spatial",
    "measures.attacked",
    "measures.dissimilarity",
    "measures.matrix_files",
    "measures.rankings",
    "measures.similarity",
    "measures.compared",
    "measures.constants",
    "measures.counts",
    "measures.fields",
    "measures.filters",
    "measures.shuffles",
    "measures.liquid",
    "measures.weather",
    "measures.effects",
    "measures.corruptions",
    "measures.stored",
    "measures.corrupted",
    "measures.measure",
    "measures.watch",
    "report.bootstrap",
    "report.runs",
    "report.colours",
    "report.canvas",
    "report.pooled",
    "report.boxes",
    "report.lines",
    "report.dots",
    "report.grids",
    "report.maps",
    "report.dynamics",
    "report.figures",
    "report.quantities",
    "report.naming",
    "report.compare",
    "report.parts",
    "report.summary",
    "report.thumbnails",
    "report.words",
    "report.series_sections",
    "report.sections",
    "report.page",
    "cli.failures",
    "cli.values",
    "cli.sources",
    "cli.groups",
    "cli.parser",
    "cli.checkpoints",
    "cli.networks",
    "cli.starts",
    "cli.states",
    "cli.zoo",
    "cli.huggingface",
    "cli.saved",
    "cli.models",
    "cli.decoding",
    "cli.folders",
    "cli.datasets",
    "cli.collecting",
    "cli.checking",
    "cli.images",
    "cli.labels",
    "cli.output",
    "cli.tables",
    "cli.extras",
    "cli.chosen",
    "cli.layers",
    "cli.trial",
    "cli.measuring",
    "cli.measure",
    "cli.scores",
    "cli.score",
    "cli.report",
    "cli.compare",
    "cli.main",
]


def imported(path):
    """Modules of the package that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parent, _, rest = node.module.partition(".")
            if parent != "dai_plugin":
                continue
            if rest in ORDER:
                yield rest
            else:
                inside = [f"{rest}.{alias.name}".strip(".") for alias in node.names]
                yield from (name for name in inside if name != "__version__")


def place(name):
    return PACKAGE / (name.replace(".", "/") + ".py")


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_from_files_above_it(name):
    """The order of the list is the order in which the files can be read."""
    above = {n for n in ORDER[: ORDER.index(name)] if not n.startswith("report.")}
    drawing = {n for n in ORDER if n.startswith("report.")}
    allowed = above | (drawing if name.startswith(("cli.", "report.")) else set())
    assert set(imported(place(name))) <= allowed


def test_the_list_is_complete():
    """No file stands outside the order, and folders are not mixed."""
    files = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")}
    names = {".".join(p.with_suffix("").parts) for p in files}
    assert {n for n in names if not n.split(".")[-1].startswith("__")} == set(ORDER)
    folders = [n.split(".")[0] for n in ORDER if "." in n]
    runs = [f for i, f in enumerate(folders) if i == 0 or folders[i - 1] != f]
    assert len(runs) == len(set(runs))


def test_the_readme_lists_the_same_files():
    """The architecture section names every file, in this order."""
    section = (PACKAGE.parent / "README.md").read_text().split("## Architecture")[1]
    listed = re.findall(r"^ {6,8}(\w+)\.py  ", section, flags=re.MULTILINE)
    assert listed == [name.split(".")[-1] for name in ORDER]


def test_importing_the_package_stays_light():
    """Neither plotting nor launching nor kornia is loaded until it is used."""
    heavy = ["matplotlib", "seaborn", "pandas", "accelerate", "kornia", "torchvision"]
    code = f"import dai_plugin, sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
