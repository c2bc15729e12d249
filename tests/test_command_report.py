"""`dai-plugin report` and `compare`: folders in, a page or a verdict out."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from commands import NETWORKS, arguments, draw_pictures

import dai_plugin
from dai_plugin.cli.main import main

pytest.importorskip("jinja2", reason="jinja2 is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two networks measured on the same images, of two names."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "nets.py").write_text(NETWORKS)
    draw_pictures(folder / "pictures")
    for name, seed in (("one", 0), ("two", 1), ("three", 2)):
        measure(folder, folder / name, name, seed)
    return folder


def measure(place, output, name, seed, *more):
    words = arguments(
        "measure", place / "nets.py", place / "pictures", output, "--name", name,
        "--model-args", f"seed={seed}", *more,
    )  # fmt: skip
    assert main(words) == 0


def report(place, names, output, *more):
    folders = [str(place / name) for name in names]
    return main(["report", *folders, "--output", str(output), *more])


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_a_page_with_pictures_and_tables(place, tmp_path, capsys):
    """report.html, every figure with its numbers, and the files of `score`."""
    capsys.readouterr()
    assert (
        report(place, ["one", "two"], tmp_path / "out", "--format", "png", "svg") == 0
    )
    found = contents(tmp_path / "out")
    assert {"report.html", "scores.csv", "summary.json", "invariance.png"} <= set(found)
    assert {"invariance.svg", "invariance.csv", "output.png", "output.csv"} <= set(
        found
    )
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["model", "layer", "depth", "image", "transform", "score"]
    assert [row["model"] for row in rows[:: len(rows) // 2]][:2] == ["one", "two"]
    summary = json.loads(found["summary.json"])
    scores = dai_plugin.Measures.load(place / "two").scores["1"]
    median = scores.double().flatten().quantile(0.5).item()
    assert summary["two"]["1"]["50%"] == pytest.approx(median, abs=1e-6)
    printed = capsys.readouterr().out
    head = next(line for line in printed.splitlines() if "median score" in line)
    assert head.split() == ["median", "score", "one", "two"]


def test_a_later_report_leaves_nothing_of_the_first(place, tmp_path):
    """Figures that it does not draw are gone; files of others stay."""
    report(place, ["one"], tmp_path / "out", "--format", "png", "pdf")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "output.pdf" in contents(tmp_path / "out")
    report(place, ["one"], tmp_path / "out")
    found = contents(tmp_path / "out")
    assert not any(name.endswith(".pdf") for name in found)
    assert "notes.txt" in found


def test_runs_that_saw_other_versions_are_refused(place, tmp_path, capsys):
    """By name, and nothing is written."""
    measure(place, tmp_path / "other", "other", 3, "--seed", "9")
    assert report(place, ["one", tmp_path / "other"], tmp_path / "out") == 1
    assert "cannot be compared" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_without_measures_are_named(place, tmp_path, capsys):
    """All of them; scores.csv alone is of an earlier version."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "scores.csv").write_text("model,layer\n")
    folders = ["one", tmp_path / "a", tmp_path / "b"]
    assert report(place, folders, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"no measures.npz in {tmp_path / 'a'}, {tmp_path / 'b'}" in error
    assert "a scores.csv alone is of an earlier version" in error


@pytest.mark.parametrize("output", ["one", "one/../one"])
def test_a_folder_to_report_on_takes_no_report(place, output, capsys):
    """Its files would be replaced."""
    before = contents(place / "one")
    assert report(place, ["one", "two"], place / output) == 2
    assert "is one of the folders to report on" in capsys.readouterr().err
    assert contents(place / "one") == before


def spoilt(place, output, share):
    """Measures of a network whose accuracy and consistency are lower by a share."""
    found = dai_plugin.Measures.load(place / "one")
    tables = {group: dict(each) for group, each in found.tables.items()}
    whole = tables["output"]["consistency"]["output"]
    count = round(share * len(whole))
    lower = torch.cat([torch.zeros_like(whole[:count]), whole[count:]])
    tables["output"]["consistency"] = {"output": lower}
    about = {**found.about, "name": "spoilt", "weights": "0"}
    replace(found, tables=tables, about=about).save(output)


def test_a_worse_network_ends_with_1(place, tmp_path, capsys):
    """One that is as good with 0."""
    spoilt(place, tmp_path / "new", 0.5)
    words = ["compare", str(place / "one"), str(tmp_path / "new"), "--max-drop"]
    assert main([*words, "consistency=0.01"]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert main([*words, "consistency=1"]) == 0
    same = ["compare", str(place / "one"), str(place / "one")]
    assert main([*same, "--max-drop", "consistency=0", "--max-drop", "score=0"]) == 0


COMPARED = {
    "NAME=VALUE": ("--max-drop consistency", "must be NAME=VALUE, got 'consistency'"),
    "number": ("--max-drop consistency=much", "must be a number, got 'much'"),
    "negative": ("--max-drop consistency=-1", "must be at least 0"),
    "unknown": ("--max-drop beauty=0.1", "beauty"),
}


@pytest.mark.parametrize("kind", COMPARED)
def test_comparisons_that_cannot_be_end_with_2(place, kind, capsys):
    """So that a typing error is no worse network."""
    words, message = COMPARED[kind]
    try:
        status = main(
            ["compare", str(place / "one"), str(place / "two"), *words.split()]
        )
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    error = capsys.readouterr().err
    assert "argument --max-drop: " in error
    assert message in error


def test_networks_on_other_images_cannot_be_compared(place, tmp_path, capsys):
    """Status 2, too; and so a folder without measures."""
    measure(place, tmp_path / "other", "other", 3, "--limit", "10")
    assert main(["compare", str(place / "one"), str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "argument NEW: " in error
    assert "cannot be compared" in error
    assert main(["compare", str(place / "one"), str(tmp_path)]) == 2
    assert "no measures.npz in" in capsys.readouterr().err
