"""Measures as `measure` gives them, made up: for reports, figures and comparisons."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dai_plugin.measures.results import Axis, Measures
from dai_plugin.report.runs import Run

GRIDS = {"rotation": (-40.0, -20.0, 0.0, 20.0, 40.0), "zoom": (0.6, 0.8, 1.0, 1.2)}
CORRUPTIONS = ("gaussian_noise", "fog", "jpeg_compression")
GROUPS = ("layers", "output", "strength", "corruptions", "attacks", "similarity")


def made_up(
    seed: int = 0,
    *,
    name: str = "net",
    layers: Sequence[str] = ("relu1", "relu2", "relu3"),
    groups: Sequence[str] = GROUPS,
    labels: bool = True,
    images: int = 12,
    corruptions: Sequence[str] = CORRUPTIONS,
) -> Measures:
    """Random measures; equal arguments give equal ones, the seed is the weights'."""
    draw = torch.Generator().manual_seed(seed)

    def hits(*size: int) -> Tensor:
        return torch.rand(*size, generator=draw) < 0.7

    def series(points: int, of_layers: bool) -> dict:
        tables = {"consistency": {"output": hits(images, points)}}
        if labels:
            tables["accuracy_transformed"] = {"output": hits(images, points)}
        if of_layers:
            fall = torch.linspace(0.9, 0.3, points)
            noise = torch.rand(len(places), points, generator=draw) / 10
            tables["score"] = {n: fall + noise[i] for i, n in enumerate(places)}
        return tables

    places = ["input", *layers]
    tables: dict = {}
    axes: dict[str, Axis] = {}
    if "layers" in groups:
        scores = [torch.rand(images, 5, generator=draw) ** 0.3 for _ in places]
        tables["layers"] = {"score": dict(zip(places, scores, strict=True))}
    if "output" in groups:
        tables["output"] = {
            "consistency": {"output": hits(images, 5)},
            "consistency_all": {"output": hits(images)},
            "predictions": {"output": torch.zeros(images, 5, dtype=torch.int64)},
        }
        if labels:
            tables["output"]["accuracy"] = {"output": hits(images)}
            tables["output"]["calibration_error"] = {"output": torch.tensor(0.07)}
    if "strength" in groups:
        for kind, values in GRIDS.items():
            unit = "degrees" if kind == "rotation" else ""
            axes[f"strength:{kind}"] = Axis(kind, unit, values)
            tables[f"strength:{kind}"] = series(len(values), True)
    if "corruptions" in groups:
        for kind in corruptions:
            axes[f"corruptions:{kind}"] = Axis(
                "severity", "", (1.0, 2.0, 3.0, 4.0, 5.0)
            )
            tables[f"corruptions:{kind}"] = series(5, True)
    if "attacks" in groups:
        for kind in ("fgsm", "pgd"):
            axes[f"attacks:{kind}"] = Axis("eps", "of 255", (2.0, 4.0, 8.0))
            tables[f"attacks:{kind}"] = series(3, False)
    if "similarity" in groups and images > 2:  # of fewer there is none
        apart = torch.rand(len(places), images, images, generator=draw)
        apart = (apart + apart.mT) / 2
        alike = torch.rand(len(places), len(places), generator=draw)
        alike = (alike + alike.mT) / 2
        tables["similarity"] = {
            "dissimilarity": dict(zip(places, apart, strict=True)),
            "cka": {"layers": alike},
            "rank_correlation": {"layers": 2 * alike - 1},
            "rdm": {n: torch.rand(4, generator=draw) / 2 for n in places},
            "noise_ceiling": {"lower": torch.tensor(0.6), "upper": torch.tensor(0.7)},
        }
    about = {
        "name": name,
        "model": "Net",
        "weights": f"{seed:016x}",
        "images": images,
        "data": "d" * 16,
        "size": [3, 12, 12],
        "normalization": "mean 0, std 1",
        "scheme": "halved",
        "num_transforms": 5,
        "units": 256,
        "seed": 0,
        "layers": list(layers),
        "missing": [],
        "versions": {"dai_plugin": "0", "torch": "2"},
    }
    known = torch.arange(images) % 3 if labels else None
    return Measures(tables, about, known, None, axes)


def runs_of(names: Sequence[str], seeds: int = 1, **kinds) -> list[Run]:
    """Runs of so many seeds each."""
    return [
        Run(
            name,
            [made_up(10 * i + s, name=name, **kinds) for s in range(seeds)],
            [Path(f"{i}-{s}") for s in range(seeds)],
        )
        for i, name in enumerate(names)
    ]
