"""Measures of the layers: how far their activations follow a transformation.

Along an axis (of strength, say) each version is measured for itself, and of what is
known of each image the mean is kept. Scores, cosines and equivariance are taken of all
features, the rest of a sample of them (`units.py`). docs/measures.md has the formulas.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dai_plugin.measures.classes import ClassScores
from dai_plugin.measures.columns import Columns
from dai_plugin.measures.data import Batch
from dai_plugin.measures.passes import Tables
from dai_plugin.measures.scores import (
    Mean,
    Scores,
    flat,
    squares,
    squares_and_lengths,
)
from dai_plugin.measures.units import (
    Firing,
    NormalizedVariance,
    Spectrum,
    Thinned,
    choose,
    rounding,
    thresholds,
)
from dai_plugin.measures.versions import Version
from dai_plugin.views.schemes import Scheme
from dai_plugin.views.warp import warp

# Moving the maps costs as much as a small network: of more images, a part is taken.
MAPS, _BLOCK = 512, 64


class LayerMeasures:
    """Takes the measures of layers while the network runs; an `Observer`.

    Args:
        layers: as in `Observer`.
        units: features of a layer of which the statistics of single ones are taken.
        seed: of their choice.
    """

    def __init__(self, layers: Sequence[str], units: int, seed: int) -> None:
        self.layers = layers
        self._scores = Scores(layers)
        self._most, self._seed = units, seed
        self._units: dict[str, Units] = {}
        self._lengths: dict[str, Tensor] = {}
        self._cosines, self._moved = Columns(), Columns()
        self._count = 0
        self._followed = torch.arange(0)
        self._along = False

    def along(self) -> Self:
        """As in `Observer`."""
        other = copy.copy(self)
        other._scores = self._scores.along()
        other._units = {name: units.along() for name, units in self._units.items()}
        other._lengths, other._cosines, other._moved = {}, Columns(), Columns()
        other._along = True
        return other

    def first(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes part in the means."""
        self._count = batch.start + len(activation)
        self._scores.first(name, activation, batch)
        rows = flat(activation)
        if name not in self._units:
            chosen = choose(rows.shape[1], self._most, self._seed)
            self._units[name] = Units(chosen.to(rows.device))
        self._units[name].first(rows, batch.labels)

    def clean(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes what the versions are compared with."""
        self._followed = some(batch.start, len(activation), self._count)
        rows = flat(activation)
        self._units[name].take(rows)
        away, lengths = squares_and_lengths(rows, self._scores.mean(name))
        self._scores.take(name, away)
        self._lengths[name] = lengths

    def version(
        self, name: str, activation: Tensor, clean: Tensor, version: Version
    ) -> None:
        """Compares a version with the images."""
        rows = flat(activation)
        self._units[name].take(rows)
        apart, lengths = squares_and_lengths(rows, flat(clean))
        self._scores.take(name, apart)
        self._cosines.add(name, cosine(apart, self._lengths[name], lengths))
        moved = follow(clean, version, self._followed)
        if moved is not None:
            column = torch.full_like(apart, torch.nan)
            followed = self._followed.to(rows.device)
            column[followed] = squares(rows[followed], flat(moved))
            self._moved.add(name, column)

    def ended(self, batch: Batch) -> None:
        """Ends the batch."""
        self._scores.ended(batch)
        self._cosines.end()
        self._moved.end()
        for units in self._units.values():
            units.ended(batch.labels)

    def tables(self) -> Tables:
        """Measures by name and layer: `[N, T]`, `[N]` ("class_score"), or a number.

        Along an axis of T points all are `[T]`.
        """
        found = self._compared()
        if self._along:
            found = {
                measure: {name: table.nanmean(0) for name, table in places.items()}
                for measure, places in found.items()
            }
        for name in found["score"]:
            for measure, value in self._units[name].values().items():
                found.setdefault(measure, {})[name] = value
        return found

    def _compared(self) -> Tables:
        """What is known of each image and version `[N, T]`."""
        found = self._scores.tables()
        cosines, moved = self._cosines, self._moved
        found["cosine"] = {n: cosines.values(n).float() for n in cosines.names()}
        if moved.names():
            found["equivariance"] = {
                n: self._scores.relative(n, moved.values(n)) for n in moved.names()
            }
        return found


class Units:
    """The statistics of some features of a layer, the same ones in both passes."""

    def __init__(self, chosen: Tensor) -> None:
        self._chosen = chosen
        self._mean: Mean | None = None
        self._sample: Thinned = Thinned()
        self._classes = ClassScores()
        self._versions: list[Tensor] = []
        self._limits: tuple[Tensor, Tensor] | None = None
        self._spectrum: Spectrum | None = None
        # One of each for all versions; along an axis, for each version.
        self._moves: list[tuple[Firing, NormalizedVariance]] = []
        self._along = False

    def along(self) -> Self:
        """The same features in another second pass, along an axis."""
        self._known_limits()  # once for all that are copied
        other = copy.copy(self)
        other._versions, other._moves, other._along = [], [], True
        return other

    def first(self, rows: Tensor, labels: Tensor | None) -> None:
        """Takes all features `[B, D]` of images in the first pass."""
        values = rows.index_select(1, self._chosen)
        self._mean = self._mean or Mean(values[0].clone())
        self._mean.update(values)
        self._sample.update(values)
        self._classes.first(values, labels)

    def take(self, rows: Tensor) -> None:
        """Takes all features `[B, D]` of the images, then of one version each."""
        self._versions.append(rows.index_select(1, self._chosen))

    def ended(self, labels: Tensor | None) -> None:
        """Ends the batch in the second pass."""
        assert self._mean is not None
        versions, self._versions = torch.stack(self._versions), []
        mean = self._mean.value()
        clean, others = versions[:1], torch.split(versions[1:], 1)
        parts = [torch.cat([clean, each]) for each in others]
        self._move(parts if self._along else [versions], mean)
        if self._along:  # what follows is known of the images alone
            return
        self._spectrum = self._spectrum or Spectrum(mean)
        centred = versions[0].double() - mean
        self._spectrum.update(centred)
        self._classes.take(versions[0], centred.square().sum(1), labels)

    def _move(self, parts: list[Tensor], mean: Tensor) -> None:
        """Takes versions `[1 + T, B, U]` of each part."""
        if not self._moves:
            limits = self._known_limits()
            self._moves = [(Firing(*limits), NormalizedVariance(mean)) for _ in parts]
        for part, (firing, variance) in zip(parts, self._moves, strict=True):
            firing.update(part)
            variance.update(part)

    def _known_limits(self) -> tuple[Tensor, Tensor]:
        self._limits = self._limits or thresholds(self._sample.rows())
        return self._limits

    def values(self) -> dict[str, Tensor]:
        """Each measure's number, of "class_score" those of the images `[N]`.

        Along an axis, one number for each point.
        """
        variances = [variance.value() for _, variance in self._moves]
        firings = [firing.value() for firing, _ in self._moves]
        if self._along:
            return {
                "normalized_variance": torch.stack(variances).float().cpu(),
                "firing": torch.stack(firings).float().cpu(),
            }
        assert self._spectrum is not None
        share, rank = self._spectrum.values()
        found = {
            "normalized_variance": variances[0],
            "firing": firings[0],
            "first_component": share,
            "effective_rank": rank,
        }
        assert self._mean is not None
        mean = self._mean.value()
        scores = self._classes.values(len(mean) * rounding(mean))
        if scores is not None:
            found["class_score"] = scores
        return {name: value.float().cpu() for name, value in found.items()}


def cosine(apart: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Cosines `[B]`, from squared distances and lengths; NaN where a length is 0.

    Exact for vectors that are nearly the same, of which the product is not.
    """
    return 1 - (apart - (one - other).square()) / (2 * one * other)


def some(start: int, images: int, count: int) -> Tensor:
    """Which of the images from `start` on are followed: blocks, evenly spread over all.

    Blocks, so that most batches have none: each batch costs, however few its images.
    """
    step = -(-count // MAPS)
    places = torch.arange(start, start + images)
    return (places // _BLOCK % step == 0).nonzero()[:, 0]


def follow(maps: Tensor, version: Version, chosen: Tensor) -> Tensor | None:
    """The chosen maps of `[B, C, h, w]`, moved as their images were; else None.

    None where the scheme tells no matrices, or the activations are no maps: sides in
    the proportion of the images', to a pixel.
    """
    scheme, drawn = version.scheme, version.drawn
    height, width = version.images.shape[2:]
    if drawn is None or not isinstance(scheme, Scheme) or maps.dim() != 4:
        return None
    rows, columns = maps.shape[2:]
    if abs(rows * width - columns * height) > max(height, width):
        return None
    maps = maps[chosen.to(maps.device)].float()
    if not (len(maps) and scheme.geometric):
        return maps
    drawn = {name: values[chosen.to(values.device)] for name, values in drawn.items()}
    matrices = scheme.matrix(drawn, height, width)
    smaller = _scaling(rows / height, columns / width).to(matrices.device)
    larger = _scaling(height / rows, width / columns).to(matrices.device)
    return warp(maps, smaller @ matrices @ larger)[0]


def _scaling(down: float, across: float) -> Tensor:
    """From pixels to those of another size, both counted from the top left."""
    return torch.tensor(
        [[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]]
    )
