"""Scores as files and as text: one row a score, columns that never run together."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from dai_plugin.report.scores import (
    accuracy_table,
    aligned,
    medians_table,
    scores_frame,
    write_dynamics,
    write_scores,
)


@pytest.fixture
def frame():
    draw = torch.Generator().manual_seed(0)
    parts = []
    for model in ("a", "b" * 70):
        scores = {n: torch.rand(4, 3, generator=draw) for n in ("input", "relu")}
        parts.append(scores_frame(scores, model))
    return pd.concat(parts, ignore_index=True)


def test_columns_never_run_together(frame):
    """However long names are, two spaces stand between the columns."""
    lines = medians_table(frame).splitlines()
    assert len({len(line) for line in lines}) == 1
    for line, (first, *cells) in zip(
        lines, (line.split() for line in lines), strict=True
    ):
        assert len(cells) == (3 if first == "median" else 2), line
    median = frame[(frame["model"] == "a") & (frame["layer"] == "relu")][
        "score"
    ].median()
    assert lines[2].split()[:2] == ["relu", f"{median:.3f}"]
    assert aligned([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"


def test_accuracies_stand_beside_each_other():
    """The last ones; a dash where a run has none."""
    runs = {
        "x" * 40: pd.DataFrame({"acc1": [10.0, 51.5]}),
        "y": pd.DataFrame({"a": [1]}),
    }
    first, second, _ = accuracy_table(runs).splitlines()
    assert first.split() == ["per", "cent", "x" * 40, "y"]
    assert second.split() == ["accuracy", "51.50", "-"]


def test_files_of_scores(frame, tmp_path):
    """All scores, quartiles of each layer, and a picture; NaN is null."""
    frame.loc[(frame["model"] == "a") & (frame["layer"] == "relu"), "score"] = float(
        "nan"
    )
    written = write_scores(frame, tmp_path / "new" / "folder")
    assert [p.name for p in written] == ["scores.csv", "summary.json", "invariance.png"]
    again = pd.read_csv(written[0])
    assert list(again) == ["model", "layer", "depth", "image", "transform", "score"]
    assert again["score"].to_numpy() == pytest.approx(
        frame["score"].to_numpy(), abs=1e-6, nan_ok=True
    )
    summary = json.loads(written[1].read_text())
    assert summary["a"]["relu"]["50%"] is None
    expected = frame[(frame["model"] == "a") & (frame["layer"] == "input")]["score"]
    assert summary["a"]["input"]["50%"] == pytest.approx(expected.median(), abs=1e-6)
    with Image.open(written[2]) as picture:
        assert picture.size[0] > 500


def test_a_folder_without_losses_of_layers_has_no_dynamics(tmp_path):
    assert write_dynamics({"a": tmp_path}, tmp_path) == []
    (tmp_path / "metrics.csv").write_text("epoch,layer:relu\n0,0.9\n1,0.8\n")
    assert write_dynamics({"a": tmp_path}, tmp_path) == [tmp_path / "dynamics.png"]
