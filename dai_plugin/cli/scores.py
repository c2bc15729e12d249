"""Invariance scores of several networks in one table, and what it comes to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dai_plugin.cli.extras import of_report
from dai_plugin.cli.output import PICTURE, SCORES, SUMMARY, write_csv, write_json
from dai_plugin.cli.tables import table
from dai_plugin.measures.results import Measures

_COLUMNS = ("model", "layer", "depth", "image", "transform", "score")
_QUARTILES = {"25%": 0.25, "50%": 0.5, "75%": 0.75}
Named = Sequence[tuple[str, Measures]]


def write_scores(named: Named, folder: Path) -> None:
    """Writes scores.csv, a row for each score, and summary.json, one for each layer.

    Args:
        named: measures of the layers and the names that they go by.
        folder: where the files go.
    """
    write_csv(folder / SCORES, _COLUMNS, _rows(named))
    summary: dict[str, dict[str, Any]] = {}
    for name, scores in pooled(named).items():
        summary[name] = {layer: _description(each) for layer, each in scores.items()}
    write_json(folder / SUMMARY, summary)


def draw_picture(runs: Sequence[Any], folder: Path) -> None:
    """Draws the scores of runs at each layer."""
    figures = of_report("figures")
    figure = figures.draw_scores(runs).figure
    figures.write_figure(figure, folder, Path(PICTURE).stem)


def medians_table(named: Named, width: int | None) -> str:
    """Median score of each layer, a column for each name, for the terminal."""
    together = pooled(named)
    layers = dict.fromkeys(layer for each in together.values() for layer in each)
    rows = [
        (layer, *(_median(scores.get(layer)) for scores in together.values()))
        for layer in layers
    ]
    return table(["median score", *together], rows, width)


def pooled(named: Named) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """All scores by name and layer, those of one name together."""
    parts: dict[str, dict[str, list[Tensor]]] = {}
    for name, found in named:
        for layer, scores in found.scores.items():
            parts.setdefault(name, {}).setdefault(layer, []).append(scores.flatten())
    return {
        name: {
            layer: np.concatenate([part.double().numpy() for part in each])
            for layer, each in layers.items()
        }
        for name, layers in parts.items()
    }


def _rows(named: Named) -> Iterator[tuple[Any, ...]]:
    for name, found in named:
        for depth, (layer, scores) in enumerate(found.scores.items()):
            for image, row in enumerate(scores.tolist()):
                for number, score in enumerate(row):
                    # What has no score is an empty cell.
                    known = score if score == score else None
                    yield name, layer, depth, image, number, known


def _description(scores: np.ndarray[Any, Any]) -> dict[str, float | None]:
    known = scores[~np.isnan(scores)]
    if not len(known):
        names = ("mean", "std", "min", *_QUARTILES, "max")
        return {"count": 0.0, **dict.fromkeys(names)}
    quartiles = np.quantile(known, list(_QUARTILES.values())).tolist()
    return {
        "count": float(len(known)),
        "mean": float(known.mean()),
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "min": float(known.min()),
        **dict(zip(_QUARTILES, quartiles, strict=True)),
        "max": float(known.max()),
    }


def _median(scores: np.ndarray[Any, Any] | None) -> float | None:
    if scores is None or np.isnan(scores).all():
        return None
    return float(np.nanmedian(scores))
