"""Figures: all text has its room, files stand alone, nothing global is touched."""

import os
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from measured import GROUPS, made_up, runs_of
from PIL import Image

from dai_plugin.measures.compared import between
from dai_plugin.measures.results import Axis, Measures
from dai_plugin.report.bootstrap import interval
from dai_plugin.report.canvas import plain, short, style
from dai_plugin.report.dynamics import read_metrics
from dai_plugin.report.figures import FIGURES, drawings, figures, frame_of, write_figure
from dai_plugin.report.runs import Run

LONG = [
    f"resnet50 invariance alpha=0.1 views=8 batch=16 cosine seed={i}" for i in range(8)
]
RESNET18 = [f"layer{i // 4 + 1}.{i % 4 // 2}.relu#{i % 2}" for i in range(17)]
RESNET50 = [f"layer{i // 13 + 1}.{i % 13 // 3}.relu#{i % 3}" for i in range(53)]
TRANSFORMER = [f"encoder.layers.encoder_layer_{i}.mlp.activation" for i in range(12)]
HOSTILE = [
    "b$x_1^{$",
    "_hidden",
    "two\nlines",
    "\x07\x1b[31m",
    "ünï 漢字",
    "",
    "<&>\"'",
    "%s {0}",
]
NOISES = [
    f"{kind}_{n}" for kind in ("noise", "blur", "jpeg_compression") for n in range(6)
]
CASES = {
    "one": lambda: runs_of(["net"]),
    "seeds": lambda: runs_of(["baseline", "invariance"], seeds=3),
    "8 runs, 54 layers": lambda: runs_of(LONG, layers=RESNET50, corruptions=NOISES),
    "6 runs on resnet18": lambda: runs_of(LONG[:6], layers=RESNET18),
    "long layers": lambda: runs_of(["a", "b"], layers=TRANSFORMER),
    "other layers": lambda: runs_of(["a"]) + runs_of(["b"], layers=RESNET18),
    "hostile names": lambda: runs_of(HOSTILE, layers=[f"{n} 1" for n in HOSTILE]),
    "two images, no labels": lambda: runs_of(["a", "b"], images=2, labels=False),
}  # fmt: skip


def texts(figure):
    """Text that is seen in a file, with its box in pixels."""
    with style():
        figure.draw_without_rendering()
        unseen = {id(text) for axes in figure.findobj(Axes) for text in beyond(axes)}
        return [
            (text, text.get_window_extent())
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and id(text) not in unseen
        ]


def beyond(axes):
    """Labels of ticks that are not drawn: outside the limits, or of hidden axes."""
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        for tick in axis.majorTicks:
            if not (axes.axison and min(limits) <= tick.get_loc() <= max(limits)):
                yield from (tick.label1, tick.label2)


@pytest.fixture(scope="module", params=CASES)
def drawn(request):
    runs = CASES[request.param]()
    return runs, figures(runs)


def test_all_text_lies_in_the_figure_and_none_over_another(drawn):
    for stem, figure in drawn[1].items():
        width, height = figure.bbox.size
        found = texts(figure)
        for text, box in found:
            inside = min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0
            assert inside, (stem, text.get_text())
        for (one, a), (other, b) in combinations(found, 2):
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            along = min(a.y1, b.y1) - max(a.y0, b.y0)
            # A pixel: boxes of letters have a margin.
            assert min(across, along) <= 1, (stem, one.get_text(), other.get_text())


def test_names_do_not_squeeze_the_axes(drawn):
    """However many and long, the axes keep their inches and most of the figure."""
    for stem, figure in drawn[1].items():
        host = figure.axes[0]
        box = host.get_window_extent()
        assert box.width / figure.bbox.width > 0.45, stem
        assert box.width / figure.dpi > 2.3, stem
        assert box.height / figure.bbox.height > 0.3, stem
        across = figure.bbox.width / figure.dpi
        assert across < 13, stem  # wider ones are not read on a screen


def test_names_are_shown_as_they_are(drawn):
    """No formula is made of dollars; newlines and control characters are spaces."""
    runs, made = drawn
    told = " ".join(text.get_text() for text, _ in texts(made["output"]))
    for run in runs:
        assert "".join(plain(run.name).split()) in "".join(told.split())
    for figure in made.values():
        assert not any(text.get_parse_math() for text, _ in texts(figure))


def test_files_are_well_formed_and_stand_alone(drawn, tmp_path):
    """An SVG names its lines, keeps text as text, needs no other file, stays small."""
    runs, made = drawn
    names = {f"run:{plain(run.name)}" for run in runs}
    for stem, figure in made.items():
        (path,) = write_figure(figure, tmp_path, stem, ("svg",))
        svg = path.read_bytes()
        assert len(svg) < 300_000, stem
        root = ElementTree.fromstring(svg)
        ids = {each.get("id", "") for each in root.iter()}
        assert b'href="http' not in svg
        assert root.findall(".//{http://www.w3.org/2000/svg}text")
        if stem in ("invariance", "output", "severities"):
            assert names <= ids
        if stem.endswith("-layers"):
            layers = runs[0].places("layers", "score")
            assert {f"layer:{plain(layer)}" for layer in layers} <= ids


def test_the_same_figures_are_the_same_files(tmp_path):
    """No date and no random name, in any of the formats."""
    for part in ("one", "two"):
        runs = CASES["seeds"]()
        figure = drawings(runs)["strength-zoom-layers"].draw(runs).figure
        write_figure(figure, tmp_path / part, "x", ("png", "svg", "pdf"))
    names = {"x.png", "x.svg", "x.pdf"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "x.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "one" / "x.png") as picture:
        assert picture.size[0] > 500


def test_every_figure_has_its_numbers(drawn):
    """As many runs in the rows as in the figure; plain numbers and words."""
    runs, made = drawn
    for stem in made:
        rows = frame_of(stem, runs)
        of = {row[key] for row in rows for key in ("run", "other_run") if key in row}
        assert of == {run.name for run in runs}, stem
        kinds = {type(value) for row in rows for value in row.values()}
        assert kinds <= {int, float, str}, stem
    with pytest.raises(
        KeyError, match="no figure 'nothing' of these runs, only invariance"
    ):
        frame_of("nothing", runs)


def test_numbers_are_those_of_the_tables():
    """Means and intervals over images; of seeds the deviation between their means."""
    one, two = runs_of(["a"]), runs_of(["b"], seeds=3)
    row = next(r for r in frame_of("strength-zoom", one) if r["at"] == 0.8)
    table = one[0].seeds[0].tables["strength:zoom"]["accuracy_transformed"]["output"]
    expected = [float(each) for each in interval(table[:, 1].numpy())]
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(expected)
    means = []
    for seed in two[0].seeds:
        noises = [v for g, v in seed.tables.items() if g.startswith("corruptions:")]
        hits = [v["accuracy_transformed"]["output"][:, 3] for v in noises]
        means.append(torch.stack(hits).double().mean())
    row = next(r for r in frame_of("severities", two) if r["at"] == 4)
    mean, deviation = np.mean(means), np.std(means, ddof=1)
    found = [row["mean"], row["mean"] - row["low"], row["high"] - row["mean"]]
    assert found == pytest.approx([mean, deviation, deviation])
    rows = [r for r in frame_of("invariance", two) if r["layer"] == "relu2"]
    scores = [seed.scores["relu2"].numpy() for seed in two[0].seeds]
    for row in rows:
        values = np.stack(scores) if row["seed"] == 0 else scores[row["seed"] - 1]
        quartiles = [row["lower"], row["median"], row["upper"]]
        assert quartiles == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))
    values = {r["measure"]: r["mean"] for r in frame_of("output", one)}
    measured = one[0].seeds[0].tables["output"]["consistency"]["output"]
    assert values["consistency"] == pytest.approx(measured.double().mean().item())


def test_what_all_runs_have_is_drawn_and_nothing_else():
    """Without labels consistency; a series that one run lacks is left out."""
    whole = list(drawings(runs_of(["a"])))
    assert whole[:3] == ["invariance", "output", "strength-rotation"]
    assert {"severities", "corruptions", "attacks-eps", "cka"} <= set(whole)
    for group, stems in {
        "layers": ["invariance"],
        "corruptions": ["severities", "corruptions"],
        "similarity": ["dissimilarity", "cka", "rank-correlation", "rdm"],
    }.items():
        rest = [each for each in GROUPS if each != group]
        less = drawings(runs_of(["a"]) + runs_of(["b"], groups=rest))
        assert [s for s in whole if s not in less] == stems
    rows = frame_of("attacks-eps", runs_of(["a"], labels=False))
    assert {row["measure"] for row in rows} == {"consistency"}


def test_missing_numbers_leave_gaps():
    """A layer of NaN alone, a grid with NaN, a matrix of NaN."""
    found = made_up()
    found.tables["layers"]["score"]["relu1"][:] = torch.nan
    found.tables["strength:zoom"]["score"]["relu2"][1] = torch.nan
    found.tables["similarity"]["dissimilarity"]["input"][:] = torch.nan
    runs = [Run("net", [found], [Path("a")])]
    assert all(isinstance(figure, Figure) for figure in figures(runs).values())
    empty = [r for r in frame_of("invariance", runs) if not r["count"]]
    assert {row["layer"] for row in empty} == {"relu1"}
    everywhere = {name: torch.full((3, 2), torch.nan) for name in ("input", "relu")}
    nothing = Measures({"layers": {"score": everywhere}}, {"name": "net"})
    figures([Run("net", [nothing], [])])


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_into_given_axes(name, tmp_path):
    """Of a figure of the user's, which keeps its size; the axes are returned."""
    (tmp_path / "metrics.csv").write_text("epoch,layer:relu1\n0,0.9\n1,0.5\n")
    runs = [Run(name, [made_up()], [tmp_path]) for name in "ab"]
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots(1, 2)
    draw, given = FIGURES[name], {"kind": "zoom"} if "strength" in name else {}
    assert draw(runs, axes=axes[1], **given) is axes[1]
    assert figure.get_size_inches().tolist() == [5, 4]
    assert not axes[0].has_data()
    assert draw(runs, **given).figure is not figure


def test_losses_over_a_training_are_the_means_of_its_seeds(tmp_path):
    """Epochs that all seeds have; runs without a metrics.csv are left out."""
    for i, lines in enumerate(
        ["0,0.8,0.5\n1,0.4,0.3\n2,0.2,0.1\n", "0,0.6,0.5\n1,,0.1\n"]
    ):
        (tmp_path / str(i)).mkdir()
        head = "epoch,layer:relu1,layer:relu2\n"
        (tmp_path / str(i) / "metrics.csv").write_text(head + lines)
    folders = [tmp_path / "0", tmp_path / "1"]
    runs = [Run("net", [made_up(0), made_up(1)], folders), *runs_of(["b"])]
    rows = {(r["layer"], r["epoch"]): r["loss"] for r in frame_of("dynamics", runs)}
    assert rows == pytest.approx(
        {("relu1", 0): 0.7, ("relu2", 0): 0.5, ("relu1", 1): np.nan, ("relu2", 1): 0.2},
        nan_ok=True,
    )
    assert "dynamics" not in drawings(runs_of(["b"]))


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_log_of_training_is_named(tmp_path, seed):
    """Whatever cell it is, with words or numbers too many."""
    draw = random.Random(seed)
    rows = [[str(draw.random()) for _ in range(3)] for _ in range(4)]
    path = tmp_path / "metrics.csv"

    def write():
        lines = ["epoch,acc1,layer:relu1", *map(",".join, rows)]
        path.write_text("\n".join(lines) + "\n")

    write()
    assert [list(row.values()) for row in read_metrics(tmp_path)] == [
        [float(cell) for cell in row] for row in rows
    ]
    if seed:
        draw.choice(rows)[draw.randrange(3)] = draw.choice(["x", "1.2.3", "0x"])
    else:
        draw.choice(rows).append("7")
    write()
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
        read_metrics(tmp_path)


def test_many_images_are_averaged_in_blocks():
    """A mean of neighbours, of a mean over seeds."""
    runs = runs_of(["a"], images=300, layers=["relu"])
    rows = frame_of("dissimilarity", runs)
    side = 1 + max(row["other"] for row in rows)
    assert side <= 96
    whole = runs[0].seeds[0].tables["similarity"]["dissimilarity"]["relu"].double()
    row = rows[-1]
    assert (row["layer"], row["image"], row["other"]) == ("relu", side - 2, side - 1)
    cuts = np.linspace(0, 300, side + 1).astype(int)
    block = whole[cuts[-3] : cuts[-2], cuts[-2] : cuts[-1]]
    assert row["dissimilarity"] == pytest.approx(block.mean().item())


@pytest.mark.parametrize("measure", ["cka", "rank_correlation"])
def test_layers_of_networks_are_compared_with_those_of_the_first(measure):
    """First seed with first seed: rows are the other one's layers."""
    runs = runs_of(["a", "b"], seeds=2) + runs_of(["c"], layers=["one", "two"])
    stem = f"{measure.replace('_', '-')}-between"
    rows = frame_of(stem, runs)
    figure = drawings(runs)[stem].draw(runs).figure
    panes = [axes for axes in figure.findobj(Axes) if axes.images]
    mine = runs[0].seeds[0].tables["similarity"]
    for run, pane in zip(runs[1:], panes, strict=True):
        theirs = run.seeds[0].tables["similarity"]
        expected = between(theirs, mine, measure).numpy()
        assert np.array_equal(pane.images[0].get_array(), expected)
        found = {
            (r["layer"], r["other"]): r[measure]
            for r in rows
            if (r["run"], r["other_run"]) == (run.name, "a")
        }
        assert found == {
            (one, two): expected[i, j]
            for i, one in enumerate(theirs["dissimilarity"])
            for j, two in enumerate(mine["dissimilarity"])
        }
    told = " ".join(text.get_text() for text, _ in texts(figure))
    for words in (
        "layers of a (first seed)",
        "layers of b (first seed)",
        "layers of c",
    ):
        assert words in told
    assert not any(s.endswith("-between") for s in drawings(runs_of(["a"], seeds=2)))


def test_likeness_to_a_given_matrix_has_its_ceiling():
    """Means over the subjects, and a band between the ceiling's two ends."""
    runs = runs_of(["a", "b"])
    rows = [row for row in frame_of("rdm", runs) if row["run"] == "b"]
    theirs = runs[1].seeds[0].tables["similarity"]["rdm"]
    assert [row["mean"] for row in rows] == pytest.approx(
        [float(each.double().mean()) for each in theirs.values()]
    )
    bands = drawings(runs)["rdm"].draw(runs).patches
    assert [(b.get_x(), b.get_width()) for b in bands] == [pytest.approx((0.6, 0.1))]


def test_attacks_are_drawn_along_their_own_axes():
    """Tries are no radius: a figure each."""
    found = made_up()
    found.axes["attacks:a/b"] = Axis("k", "", (1.0, 10.0))
    found.tables["attacks:a/b"] = {"consistency": {"output": torch.rand(12, 2) < 0.5}}
    runs = [Run("net", [found], [Path("a")])]
    assert {"attacks-eps", "attacks-k"} <= set(drawings(runs))
    assert {row["attack"] for row in frame_of("attacks-k", runs)} == {"a/b"}


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    """A format that fails leaves the files of before, and nothing half."""
    figure = figures(runs_of(["a"], groups=["output"]))["output"]
    before = {p: p.read_bytes() for p in write_figure(figure, tmp_path, "x", ("svg",))}
    with pytest.raises(ValueError, match="written as png, svg, pdf, not gif"):
        write_figure(figure, tmp_path, "x", ("svg", "gif"))
    (tmp_path / "x.png").mkdir()  # nothing can take its place
    with pytest.raises(OSError, match=r"x\.png"):
        write_figure(figure, tmp_path, "x", ("png",))
    assert {p: p.read_bytes() for p in before} == before


def test_short_names_stay_different():
    names = ["a" * 30 + x + "b" * 30 for x in "123"] + ["c"]
    told = short(names, 20)
    assert len(set(told)) == 4
    assert max(map(len, told)) <= 20
    assert told[-1] == "c"


def test_nothing_global_is_touched():
    """No backend, no pyplot, no setting, at import, when drawn, and when written."""
    code = """
import matplotlib, sys, tempfile
from pathlib import Path
matplotlib.use("svg")
matplotlib.rcParams["font.size"] = 17
before = dict(matplotlib.rcParams)
from dai_plugin.report.figures import figures, write_figure
from measured import runs_of
runs = runs_of(["a", "b"], groups=["layers", "attacks"])
folder = Path(tempfile.mkdtemp())
for (stem, figure), kind in zip(figures(runs).items(), ("png", "svg"), strict=True):
    write_figure(figure, folder, stem, (kind, "pdf"))
assert matplotlib.get_backend() == "svg"
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
assert "seaborn" not in sys.modules and "pandas" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parent,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
