"""Tables and pictures of scores and of training runs (extra `report`).

The only file that imports matplotlib, seaborn and pandas. Long-form tables are made
first and drawn afterwards, so that a picture can be drawn again from its file.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures are written, never shown

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from torch import Tensor

SCORES = "scores.csv"
METRICS = "metrics.csv"
LAYER = "layer:"  # columns of metrics.csv that hold a layer's invariance loss
_PALETTE = ("#4878a8", "#d1605e", "#6ba368", "#c9973f", "#8268a8", "#5b8f99")


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


def read_runs(folders: Sequence[Path], name: str) -> list[pd.DataFrame]:
    """The tables of that name, of the folders that have one."""
    return [pd.read_csv(f / name) for f in folders if (f / name).exists()]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles of the score by layer (rows) and model (columns)."""
    grouped = frame.groupby(["depth", "layer", "model"], sort=False)["score"]
    table = grouped.quantile([0.25, 0.5, 0.75]).unstack()
    return table.set_axis(["lower", "median", "upper"], axis=1).unstack("model")


def write_scores(frame: pd.DataFrame, output: Path) -> list[Path]:
    """Writes scores.csv, summary.json and invariance.png; returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    frame.to_csv(output / SCORES, index=False, float_format="%.6g")
    quantiles = frame.groupby(["model", "layer"], sort=False)["score"].describe()
    summary = {
        model: {
            layer: {k: None if pd.isna(v) else round(v, 6) for k, v in row.items()}
            for (_, layer), row in part.iterrows()
        }
        for model, part in quantiles.groupby(level=0, sort=False)
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw_scores(frame, output / "invariance.png")
    return [output / name for name in (SCORES, "summary.json", "invariance.png")]


def draw_scores(frame: pd.DataFrame, path: Path) -> None:
    """Box plots of the score at each layer, models side by side, pixel space first."""
    frame = frame.dropna(subset="score").assign(place=frame["depth"].astype(str))
    models = list(frame["model"].unique())
    depths = sorted(frame["depth"].unique())
    sns.set_theme(style="whitegrid", context="notebook")
    figure, axes = plt.subplots(figsize=(max(6.0, 2.5 + 0.75 * len(depths)), 4.8))
    sns.boxplot(
        frame,
        x="place",
        y="score",
        hue="model",
        order=[str(depth) for depth in depths],
        palette=[_PALETTE[i % len(_PALETTE)] for i in range(len(models))],
        showfliers=False,
        linewidth=1,
        width=0.75,
        ax=axes,
    )
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--")
    axes.axhline(0, color="0.6", linewidth=1)
    axes.set_ylim(top=1.02)
    axes.set_xticks(range(len(depths)), _labels(frame, depths))
    if max(len(label.get_text()) for label in axes.get_xticklabels()) > 9:
        axes.tick_params(axis="x", rotation=45)
        plt.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    axes.set(xlabel="layer", ylabel="invariance score")
    note = "1 = unchanged by the transformation, 0 = as far as another image"
    axes.set_title(note, loc="left", fontsize=10, color="0.35")
    sns.move_legend(
        axes,
        "lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(models),
        title=None,
        frameon=False,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_dynamics(runs: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Each layer's invariance loss over the epochs, a heat map for each run.

    Args:
        runs: by name, tables with a column "epoch" and one "layer:NAME" a layer.
        path: of the PNG file.
    """
    sns.set_theme(style="white", context="notebook")
    same = len({tuple(run.filter(like=LAYER)) for run in runs.values()}) == 1
    figure, panels = plt.subplots(
        1,
        len(runs) + 1,
        figsize=(1.5 + 4.6 * len(runs), 4.2),
        width_ratios=[*[20] * len(runs), 1],
    )
    *maps, bar = panels
    for axes, (name, run) in zip(maps, runs.items(), strict=True):
        losses = run.filter(like=LAYER).rename(columns=lambda c: c.removeprefix(LAYER))
        losses.index = run["epoch"]
        first = axes is maps[0]
        sns.heatmap(
            losses.T,
            vmin=0,
            vmax=1,
            cmap="viridis",
            cbar=first,
            cbar_ax=bar if first else None,
            yticklabels=first or not same,
            ax=axes,
        )
        axes.set(title=name, xlabel="epoch", ylabel="layer" if first else "")
        axes.tick_params(axis="x", rotation=0)
    bar.set_ylabel("invariance loss of the layer")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def medians_table(frame: pd.DataFrame) -> str:
    """Median score of each layer, a column for each model, for the terminal."""
    medians = summarise(frame)["median"]
    models = list(frame["model"].unique())
    width = max(len(str(layer)) for _, layer in medians.index) + 2
    lines = ["median score".ljust(width) + "".join(f"{m:>14}" for m in models)]
    for (_, layer), row in medians.iterrows():
        cells = "".join(_cell(row[model], "14.3f") for model in models)
        lines.append(str(layer).ljust(width) + cells)
    return "\n".join(lines)


def accuracy_table(runs: Mapping[str, pd.DataFrame]) -> str:
    """Last accuracies (per cent) of each run, where its metrics have them."""
    rows = {"acc1": "accuracy", "acc1_augmented": "accuracy on augmented images"}
    width = max(len(label) for label in rows.values()) + 2
    lines = ["per cent".ljust(width) + "".join(f"{name:>14}" for name in runs)]
    for column, label in rows.items():
        cells = [
            _cell(run[column].iloc[-1] if column in run else float("nan"), "14.2f")
            for run in runs.values()
        ]
        lines.append(label.ljust(width) + "".join(cells))
    return "\n".join(lines)


def _cell(value: float, form: str) -> str:
    return "-".rjust(int(form.split(".")[0])) if pd.isna(value) else f"{value:{form}}"


def _labels(frame: pd.DataFrame, depths: Sequence[int]) -> list[str]:
    """Layer names where all models agree on them, else the depth."""
    names = frame.groupby("depth")["layer"].unique()
    if len(depths) > 24:
        return ["pixels" if d == 0 else str(d) if d % 2 == 0 else "" for d in depths]
    return [
        "pixels" if d == 0 else names[d][0] if len(names[d]) == 1 else f"depth {d}"
        for d in depths
    ]
