"""What is measured of a trained network, and the numbers that a table takes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from parts import InMemory
from study_settings import Checked, Section, scheme_of
from torch import nn

import dai_plugin
from dai_plugin.views.normalization import Normalization

_BATCH = 256
# Of the group "output", in the order of the table; the rest is in measures.npz.
OUTPUT = (
    "accuracy",
    "accuracy_transformed",
    "consistency",
    "calibration_error",
    "retrieval",
)


@dataclass(frozen=True)
class Measuring(Checked):
    """What `dai_plugin.measure` is asked for, beside layers and output.

    Attributes:
        scheme: of the random versions of each image, the same for every arm.
        num_transforms: versions of each image.
        layers: as in attach.
        strength: grids by transformation, as `dai_plugin.Strength` takes them.
        corruptions: keywords of `dai_plugin.Corruptions`.
        attacks: keywords of `dai_plugin.Attacks`, but `eps` in 255ths.
    """

    scheme: str | Section = "halved"
    num_transforms: int = 5
    layers: str | list[str] = "auto"
    strength: Mapping[str, list[float]] = field(default_factory=dict)
    corruptions: Section = field(default_factory=dict)
    attacks: Section = field(default_factory=dict)


def asked_for(section: Section) -> dict[str, Any]:
    """Keywords of `measure` for a section of the file.

    Raises:
        ValueError: it asks for what there is not.
        TypeError: for the same reason.
    """
    told = Measuring.of(section)
    measures: list[Any] = ["layers", "output"]
    if told.strength:
        measures.append(dai_plugin.Strength(told.strength))
    if told.corruptions:
        measures.append(dai_plugin.Corruptions(**told.corruptions))
    if told.attacks:
        attacks = dict(told.attacks)
        attacks["eps"] = [eps / 255 for eps in attacks.pop("eps", (2, 4, 8))]
        measures.append(dai_plugin.Attacks(**attacks))
    return {
        "measures": measures,
        "scheme": scheme_of(told.scheme),
        "num_transforms": told.num_transforms,
        "layers": told.layers,
    }


def measured(
    model: nn.Module,
    images: InMemory,
    section: Section,
    known: Normalization,
    name: str,
) -> dai_plugin.Measures:
    """All measures of the test images."""
    return dai_plugin.measure(
        model,
        _batches(images),
        **asked_for(section),
        mean=known.mean,
        std=known.std,
        name=name,
    )


@torch.no_grad()
def accuracy(model: nn.Module, images: InMemory, known: Normalization) -> float:
    """Share of the images whose class is the first, in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    hits = 0
    for pixels, targets in _batches(images):
        output = model(known.prepare(pixels.to(device)))
        hits += int(output.argmax(1).cpu().eq(targets).sum())
    return hits / len(images)


def quantities(found: dai_plugin.Measures) -> dict[str, float]:
    """The numbers of a table, by name: shares of 1.

    Along an axis they are means over its points, for the attacks one a radius; the
    corruptions are one number. "score" is that of invariance.
    """
    output, scores = found.tables["output"], list(found.scores.items())
    told = {name: _mean(output[name]["output"]) for name in OUTPUT if name in output}
    told["score, all layers"] = _mean(torch.stack([s.mean() for _, s in scores[1:]]))
    told["score, last layer"] = _mean(scores[-1][1])
    corrupted = []
    for group, axis in found.axes.items():
        kind, _, name = group.partition(":")
        hits = found.tables[group]["accuracy_transformed"]["output"].double()
        if kind == "attacks":
            points = zip(axis.values, hits.mean(0).tolist(), strict=True)
            told |= {f"{name} {at:g}": value for at, value in points}
        elif kind == "corruptions":
            corrupted.append(hits.mean())
        else:
            told[f"{name}, stronger"] = _mean(hits)
    if corrupted:
        told["corruptions"] = _mean(torch.stack(corrupted))
    return told


def _mean(table: torch.Tensor) -> float:
    return float(table.double().nanmean())


def _batches(images: InMemory) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = zip(images.images.split(_BATCH), images.targets.split(_BATCH), strict=True)
    return list(pairs)
