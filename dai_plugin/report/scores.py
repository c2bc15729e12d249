"""Tables of invariance scores: files of `dai-plugin score`, text for the terminal.

The only file of the folder that needs pandas: scores are millions of rows.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from dai_plugin.measures.results import Measures
from dai_plugin.report.boxes import draw_scores
from dai_plugin.report.figures import write_figure
from dai_plugin.report.maps import METRICS, draw_dynamics, with_metrics
from dai_plugin.report.runs import Run
from dai_plugin.report.whole import write_whole

__all__ = ["METRICS"]  # for those who read tables

SCORES = "scores.csv"
PICTURE = "invariance"


def scores_frame(scores: Mapping[str, Tensor], model: str) -> pd.DataFrame:
    """Long-form table of the scores of one model.

    Args:
        scores: `[images, transforms]` by layer, "input" first.
        model: its name.

    Returns:
        Columns model, layer, depth (0 = input), image, transform, score.
    """
    parts = []
    for depth, (layer, values) in enumerate(scores.items()):
        part = pd.DataFrame(values.numpy()).stack().rename("score")
        part = part.rename_axis(["image", "transform"]).reset_index()
        parts.append(part.assign(model=model, layer=layer, depth=depth))
    columns = ["model", "layer", "depth", "image", "transform", "score"]
    return pd.concat(parts, ignore_index=True)[columns]


def read_tables(folders: Sequence[Path], name: str) -> list[pd.DataFrame]:
    """The tables of that name, of the folders that have one."""
    return [pd.read_csv(f / name) for f in folders if (f / name).exists()]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles of the score by layer (rows) and model (columns)."""
    grouped = frame.groupby(["depth", "layer", "model"], sort=False)["score"]
    table = grouped.quantile([0.25, 0.5, 0.75]).unstack()
    return table.set_axis(["lower", "median", "upper"], axis=1).unstack("model")


def write_scores(frame: pd.DataFrame, output: Path) -> list[Path]:
    """Writes scores.csv, summary.json and invariance.png; returns their paths."""
    quantiles = frame.groupby(["model", "layer"], sort=False)["score"].describe()
    summary = {
        model: {
            layer: {k: None if pd.isna(v) else round(v, 6) for k, v in row.items()}
            for (_, layer), row in part.iterrows()
        }
        for model, part in quantiles.groupby(level=0, sort=False)
    }
    table = frame.to_csv(index=False, float_format="%.6g")
    written = write_whole(
        {
            output / SCORES: table.encode(),
            output / "summary.json": f"{json.dumps(summary, indent=2)}\n".encode(),
        }
    )
    figure = draw_scores(runs_of(frame)).figure
    return written + write_figure(figure, output, PICTURE)


def write_dynamics(folders: Mapping[str, Path], output: Path) -> list[Path]:
    """Writes dynamics.png, of the folders of training runs by name; returns its path.

    Nothing if no folder holds the losses of layers.
    """
    runs = [Run(name, [], [folder]) for name, folder in folders.items()]
    if not with_metrics(runs):
        return []
    return write_figure(draw_dynamics(runs).figure, output, "dynamics")


def runs_of(frame: pd.DataFrame) -> list[Run]:
    """The models of a table of scores as runs of one seed, for figures."""
    runs = []
    for model, part in frame.groupby("model", sort=False):
        layers = part.sort_values("depth").groupby("layer", sort=False)["score"]
        scores = {str(n): torch.tensor(values.to_numpy()) for n, values in layers}
        measures = Measures({"layers": {"score": scores}}, {"name": str(model)})
        runs.append(Run(str(model), [measures], []))
    return runs


def medians_table(frame: pd.DataFrame) -> str:
    """Median score of each layer, a column for each model, for the terminal."""
    medians = summarise(frame)["median"]
    models = list(frame["model"].unique())
    rows = [
        [str(layer), *(_cell(row[model], "13.3f") for model in models)]
        for (_, layer), row in medians.iterrows()
    ]
    return aligned([["median score", *map(str, models)], *rows])


def accuracy_table(runs: Mapping[str, pd.DataFrame]) -> str:
    """Last accuracies (per cent) of each run, where its metrics have them."""
    rows = {"acc1": "accuracy", "acc1_augmented": "accuracy on augmented images"}
    lines = [["per cent", *runs]]
    for column, label in rows.items():
        last = [
            run[column].iloc[-1] if column in run else float("nan")
            for run in runs.values()
        ]
        lines.append([label, *(_cell(value, "13.2f") for value in last)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cell(value: float, form: str) -> str:
    return "-" if pd.isna(value) else f"{value:{form}}"
