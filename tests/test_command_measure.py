"""`dai-plugin measure`: what it writes, prints and refuses; how it ends."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import NETWORKS, arguments, draw_pictures

import dai_plugin
from dai_plugin.cli.main import main
from dai_plugin.cli.measuring import ended


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file of networks and twenty pictures of 24 pixels."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "nets.py").write_text(NETWORKS)
    draw_pictures(folder / "pictures")
    return folder


def run(place, output, *more, command="measure"):
    return main(
        arguments(command, place / "nets.py", place / "pictures", output, *more)
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_it_writes_what_measure_gives(place, tmp_path, capsys):
    """The numbers of dai_plugin.measure on the same pixels, in three files."""
    assert run(place, tmp_path / "out", "--name", "mine", "--seed", "3") == 0
    assert sorted(contents(tmp_path / "out")) == [
        "measures.csv", "measures.npz", "summary.json",
    ]  # fmt: skip
    found = dai_plugin.Measures.load(tmp_path / "out")
    with (tmp_path / "out" / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = found.rows()
    assert len(rows) == len(expected)
    for row, each in zip(rows, expected, strict=True):
        assert row["measure"] == each["measure"]
        assert float(row["mean"]) == pytest.approx(each["mean"], rel=1e-5, nan_ok=True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    scores = found.scores["1"].nanmean().item()
    assert summary["mine"]["layers"]["score"]["1"] == pytest.approx(scores, abs=1e-6)
    assert "consistency" in capsys.readouterr().out


def test_what_was_run_is_told(place, tmp_path):
    """Name, command, source and date, beside what measure tells."""
    run(place, tmp_path / "out", "--name", "mine")
    about = dai_plugin.Measures.load(tmp_path / "out").about
    assert about["name"] == "mine"
    assert about["command"].startswith("dai-plugin measure --model ")
    assert about["source"] == [str(place / "pictures")]
    assert about["date"].startswith("20")
    assert about["scheme"]


@pytest.mark.parametrize("group", ["layers", "output", "similarity"])
def test_a_group_alone(place, tmp_path, group):
    """Only what was asked for; matrices alone have no row of numbers, but its head."""
    assert run(place, tmp_path / "out", "--measures", group) == 0
    assert list(dai_plugin.Measures.load(tmp_path / "out").tables) == [group]
    head, *rows = (tmp_path / "out" / "measures.csv").read_text().splitlines()
    assert head == "group,measure,place,depth,at,mean,lower,median,upper,count"
    assert all(row.startswith(f"{group},") for row in rows)
    assert bool(rows) == (group != "similarity")


def test_score_has_the_numbers_of_measure(place, tmp_path):
    """And of invariance_scores, in its table of before; report takes its folder."""
    run(place, tmp_path / "one", "--measures", "layers")
    assert run(place, tmp_path / "two", command="score") == 0
    assert sorted(contents(tmp_path / "two")) == [
        "invariance.png", "measures.npz", "scores.csv", "summary.json",
    ]  # fmt: skip
    one, two = (dai_plugin.Measures.load(tmp_path / n).scores for n in ("one", "two"))
    assert all(torch.equal(one[layer], two[layer]) for layer in one)
    with (tmp_path / "two" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "layer", "depth", "image", "transform", "score"]
    for row in rows:
        score = two[row["layer"]][int(row["image"]), int(row["transform"])].item()
        assert float(row["score"]) == pytest.approx(score, rel=1e-4, abs=1e-6)


BLOCK = """
import sys
for name in ("pandas", "matplotlib", "seaborn", "jinja2"):
    sys.modules[name] = None
from dai_plugin.cli.main import main
from dai_plugin.cli.measuring import ended
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["measure", "score"])
def test_without_the_extra(place, tmp_path, command):
    """Measure needs none; score says which before it works."""
    words = arguments(command, place / "nets.py", place / "pictures", tmp_path / "out")
    ended = subprocess.run(
        [sys.executable, "-c", BLOCK, *words], capture_output=True, text=True
    )
    assert ended.returncode == (0 if command == "measure" else 1), ended.stderr
    if command == "score":
        assert "pip install 'dai-plugin[report]'" in ended.stderr
        assert not (tmp_path / "out").exists()


# Flags that ask for what cannot be, and what is said of them.
MISUSED = {
    "--batch-size 0": "argument --batch-size: must be at least 1, got 0",
    "--batch-size many": "argument --batch-size: must be a whole number, got 'many'",
    "--workers -1": "argument --workers: must be at least 0, got -1",
    "--num-transforms 0": "argument --num-transforms: must be at least 1, got 0",
    "--units 0": "argument --units: must be at least 1, got 0",
    "--seed -1": "argument --seed: must be at least 0, got -1",
    "--seed 9223372036854775808": "argument --seed: must be at most",
    "--limit 1": "argument --limit: must be at least 2, got 1",
    "--crop 0": "argument --crop: must be at least 1, got 0",
    "--resize -3": "argument --resize: must be at least 1, got -3",
    "--flip 1.5": "argument --flip: must be at most 1, got 1.5",
    "--flip nan": "argument --flip: must be a number, got 'nan'",
    "--std 0": "argument --std: must be above 0, got 0",
    "--mean 0.5": "argument --mean and --std: give mean and std together",
    "--device cuda:99": "argument --device: 'cuda:99' does not work here",
    "--device meta": "argument --device: 'meta' does not work here",
    "--device no": "argument --device: 'no' does not work here",
    "--layers nothing": "argument --layers: ",
    "--scheme heavy": "argument --scheme: unknown scheme 'heavy'",
    "--scheme randaugment --flip 0": "argument --flip: the scheme",
    "--model-args x": "argument --model-args: model arguments are name=value",
    "--model-args =1": "argument --model-args: model arguments are name=value",
    "--measures layers,colour": "argument --measures: must be some of layers,output",
    "--crop 25": "error: --crop 25 is larger than --resize 24",
}


@pytest.mark.parametrize("words", MISUSED)
def test_flags_are_refused_by_name(place, tmp_path, words, capsys):
    """With status 2, before anything is written."""
    try:
        status = run(place, tmp_path / "out", *words.split())
    except SystemExit as ended:  # argparse's own way
        status = ended.code
    assert status == 2
    assert MISUSED[words] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_output_folder_is_looked_at_first(place, tmp_path, capsys):
    """A file, below a file, or in the data: the network is not even loaded."""
    (tmp_path / "file").write_text("")
    wrong = {
        tmp_path / "file": "is no folder",
        tmp_path / "file" / "below": "is no folder",
        place / "pictures": "lies in the data folder",
        place / "pictures" / "a" / "out": "lies in the data folder",
    }
    for output, message in wrong.items():
        words = arguments("measure", "missing.py", place / "pictures", output)
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (place / "pictures" / "a" / "out").exists()


def test_a_folder_that_takes_no_files(place, capsys):
    """Said before the work."""
    words = arguments("measure", "missing.py", place / "pictures", "/proc/nothing/x")
    assert main(words) == 1
    assert "nothing can be written to --output" in capsys.readouterr().err


def test_a_full_disk_leaves_the_results_of_before(place, tmp_path, capsys):
    """All of them; the message says so. Here a file may have 2 KiB."""
    assert run(place, tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))
    try:
        assert run(place, tmp_path / "out", "--seed", "5") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "what was there before is whole" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_results_of_another_command_are_no_part_of_the_new_ones(place, tmp_path):
    """A folder holds one run; files of others stay."""
    run(place, tmp_path / "out", command="score")
    (tmp_path / "out" / "model.pth").write_text("a network")
    run(place, tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        "measures.csv", "measures.npz", "model.pth", "summary.json",
    ]  # fmt: skip


SLOW = """
import time
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        print("running", flush=True)
        time.sleep(0.2)
        return x

def build():
    return nn.Sequential(Slow(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 22 * 22, 3))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_anything_is_whole(place, tmp_path, number):
    """One line, status 130, no folder; the signal reaches loading processes, too."""
    (tmp_path / "slow.py").write_text(SLOW)
    words = arguments(
        "measure", tmp_path / "slow.py", place / "pictures", tmp_path / "out"
    )
    started = subprocess.Popen(
        [sys.executable, "-m", "dai_plugin", *words, "--batch-size", "2",
         "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    for _ in range(3):  # the first are the trial's
        while "running" not in started.stdout.readline():
            assert started.poll() is None
    os.killpg(started.pid, number)
    _, error = started.communicate(timeout=60)
    assert started.returncode == 130, error
    assert error.strip().splitlines()[-1] == "dai-plugin measure: interrupted"
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_interrupted_later_it_keeps_what_is_whole(place, tmp_path, capsys):
    """Ctrl-C in the second of two series: the first is written, the other missing."""
    (tmp_path / "attack.py").write_text(
        "def first(model, images, labels):\n"
        "    return 1 - images\n"
        "def second(model, images, labels):\n"
        "    raise KeyboardInterrupt\n"
    )
    attacks = [f"{tmp_path}/attack.py:{name}" for name in ("first", "second")]
    more = ("--measures", "output,attacks", "--attacks", *attacks)
    assert run(place, tmp_path / "out", *more) == 130
    found = dai_plugin.Measures.load(tmp_path / "out")
    assert list(found.tables) == ["output", "attacks:first"]
    assert found.about["missing"] == ["attacks:second"]
    assert "not measured: attacks:second" in capsys.readouterr().err


SERIES = {
    "strength": [f"strength:{name}" for name in dai_plugin.measures.strengths.GRIDS],
    "corruptions --corruptions fog pixelate --severities 1 3": [
        "corruptions:fog", "corruptions:pixelate",
    ],
    "attacks --attacks fgsm --eps 2/255 0.01": ["attacks:fgsm"],
    "attacks --attacks pgd --steps 2 --restarts 2 --attack-loss margin --eps 8/255": [
        "attacks:pgd",
    ],
}  # fmt: skip


@pytest.mark.parametrize("words", SERIES)
def test_series(place, tmp_path, words, capsys):
    """Each along its axis, in the files and in a table of the terminal."""
    more = ("--measures", *words.split(), "--limit", "6", "--resize", "32", "--crop",
            "32")  # fmt: skip
    assert run(place, tmp_path / "out", *more) == 0
    found = dai_plugin.Measures.load(tmp_path / "out")
    assert list(found.tables) == SERIES[words]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())["out"]
    printed = capsys.readouterr().out
    for name, axis in found.axes.items():
        consistency = summary[name]["consistency"]["output"]
        expected = found.tables[name]["consistency"]["output"].double().mean(0)
        assert consistency == pytest.approx(expected.tolist(), abs=1e-6)
        assert len(consistency) == len(axis.values)
        assert name in printed


@pytest.mark.parametrize(("interrupted", "status"), [(False, 0), (True, 130)])
def test_what_does_not_suit_is_no_interrupt(interrupted, status, capsys):
    """Both are told; only the interrupt is told by the status."""
    about = {"skipped": [], "missing": ["corruptions:saturate"]}
    found = dai_plugin.Measures({}, {**about, "interrupted": interrupted})
    assert ended(found) == status
    told = capsys.readouterr().err
    assert "not measured: corruptions:saturate" in told
    assert told.startswith("interrupted") == interrupted


def test_similarity_with_a_given_matrix(place, tmp_path, capsys):
    """Its numbers are in the table, its matrices in measures.npz alone."""
    drawn = torch.rand(3, 20, 20)
    given = drawn + drawn.transpose(1, 2)
    np.savez(tmp_path / "it.npz", rdm=given.numpy())
    more = ("--measures", "similarity", "--rdm", tmp_path / "it.npz")
    assert run(place, tmp_path / "out", *more, "--metric", "euclidean") == 0
    found = dai_plugin.Measures.load(tmp_path / "out")
    assert found.tables["similarity"]["rdm"]["1"].shape == (3,)
    printed = capsys.readouterr().out
    assert "noise_ceiling, lower" in printed
    rows = (tmp_path / "out" / "measures.csv").read_text()
    assert "noise_ceiling" in rows
    assert "cka" not in rows


GROUPS = {
    "--eps 0.1": "argument --eps: it says more of attacks, which are not asked for",
    "--rdm x.npz": "argument --rdm: it says more of similarity",
    "--measures corruptions --corruptions mist": "argument --corruptions: ",
    "--measures corruptions --severities 6": "argument --severities: must be at most 5",
    "--measures attacks --attacks nothing": "argument --attacks: attacks must be some",
    "--measures attacks --attacks no.py:f": "argument --attacks: the file no.py does",
    "--measures attacks --eps 8": "argument --eps: must be at most 1, got 8",
    "--measures attacks --eps 1/0": "argument --eps: must be a number, got '1/0'",
    "--measures similarity --rdm no.npz": "no.npz",
}


@pytest.mark.parametrize("flag", ["--limit 6", "--skip-unreadable"])
def test_stored_corruptions_are_of_all_images(place, tmp_path, flag, capsys):
    """One that is left out would pair all behind it with other images."""
    images = np.zeros((5 * 20, 24, 24, 3), dtype=np.uint8)
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.repeat([0, 1], 10), 5))
    more = ("--measures", "corruptions", "--corruptions", tmp_path)
    assert run(place, tmp_path / "out", *more) == 0
    assert run(place, tmp_path / "out", *more, *flag.split()) == 2
    assert f"argument {flag.split()[0]}: the images" in capsys.readouterr().err


@pytest.mark.parametrize("words", GROUPS)
def test_flags_of_groups_are_refused_by_name(place, tmp_path, words, capsys):
    """Before the work."""
    try:
        status = run(place, tmp_path / "out", *words.split())
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert GROUPS[words] in capsys.readouterr().err


def test_nan_is_said_by_the_name_of_the_module(place, tmp_path, capsys):
    """Of a network that makes it, before the images run."""
    (tmp_path / "nan.py").write_text(
        NETWORKS + "class Root(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return (x - 2).sqrt()\n"
        "def spoilt():\n"
        "    return nn.Sequential(nn.Identity(), Root(), *build())\n"
    )
    words = arguments("measure", tmp_path / "nan.py", place / "pictures", tmp_path)
    words[2] = words[2].replace(":build", ":spoilt")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "the output of Sequential is NaN" in error
    assert "the first of its modules that gives NaN is 1 (Root)" in error


def test_a_file_of_the_users_imports_its_neighbours(place, tmp_path):
    """At its head, and as a function runs; what it defines is found by its module."""
    (tmp_path / "first_neighbour.py").write_text("classes = 4\n")
    (tmp_path / "second_neighbour.py").write_text("seed = 2\n")
    (tmp_path / "nets.py").write_text(
        "from __future__ import annotations\nimport dataclasses, pickle\n"
        "import first_neighbour\n" + NETWORKS + "@dataclasses.dataclass\n"
        "class Sizes:\n"
        "    classes: int = first_neighbour.classes\n"
        "def sized():\n"
        "    import second_neighbour\n"
        "    print('a network prints')\n"
        "    sizes = pickle.loads(pickle.dumps(Sizes()))\n"
        "    return build(second_neighbour.seed, sizes.classes)\n"
    )
    words = arguments(
        "measure", tmp_path / "nets.py", place / "pictures", tmp_path / "out"
    )
    words[2] = words[2].replace(":build", ":sized")
    path, random = list(sys.path), sys.modules["random"]
    assert main(words) == 0
    found = dai_plugin.Measures.load(tmp_path / "out")
    assert found.tables["output"]["predictions"]["output"].max() < 4
    assert sys.path[: len(path)] == path
    # A file that is called like another module does not take its place.
    shutil.copy(place / "nets.py", tmp_path / "random.py")
    words[2] = f"{tmp_path / 'random.py'}:build"
    assert main(words) == 0
    assert sys.modules["random"] is random
