"""Invariance scores at test time, streamed over a data set.

    S_i = 1 - d(x_i, G(x_i)) / mean over j of d(x_i, x_j)

for image i, transformation G and the activations x of one layer (arXiv:1906.04547): 1
for identical activations, 0 as far apart as two random images. The denominator is
`(|x_i - m|^2 + mean over j of |x_j - m|^2) / D` with m the mean of all images, so that
two passes over the data and O(D) memory a layer suffice: one for m, one for distances.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.measures.columns import Columns
from dai_plugin.measures.data import Batch, Batches
from dai_plugin.measures.passes import PIXELS, Tables, first_pass, second_pass
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.units import rounding
from dai_plugin.measures.versions import Transformations, Version
from dai_plugin.views.composed import Composed
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import AnyScheme, Given, Scheme, Transform, find_scheme

_CACHED = 2**19  # numbers

logger = logging.getLogger("dai_plugin")


def invariance_scores(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    layers: Layers = "auto",
    scheme: str | AnyScheme = "halved",
    num_transforms: int = 5,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Invariance scores of every image under random transformations, layer by layer.

    The random numbers depend on the seed, the image's place in the data and the number
    of the transformation alone: not on batch size, model or device.

    Args:
        model: any network; it is run in evaluation mode, then put back as it was.
        data: images `[N, C, H, W]`, or an iterable of batches that gives the same
            images each time (a `DataLoader` that neither shuffles nor augments); of a
            batch, the first 4-D tensor with the network's channels is taken. Float
            images carry the normalisation of `mean` and `std`; uint8 images are scaled
            to [0, 1] and normalised by it.
        layers: as in `attach`.
        scheme: as in `attach`; "halved" is the paper's protocol.
        num_transforms: random transformations of each image.
        mean: of the normalisation; left out, as in `attach`.
        std: of the normalisation.
        seed: of the transformations.
        device: where the images go; None is the model's.

    Returns:
        Scores `[N, num_transforms]` in float32 on the CPU by layer: first "input", the
        [0, 1] pixels, then the layers as they fire. NaN where all images are equal.

    Raises:
        TypeError: `data` can be gone through only once.
        ValueError: there are no images, other ones in the second pass, images of
            several sizes or with NaN, `num_transforms < 1`, or the scheme is "given".
        KeyError: a layer does not exist.
    """
    base = unwrap(model)
    known = scheme_of_versions(scheme, num_transforms)
    batches = Batches(base, data, mean, std, device or device_of(base))
    scores = Scores([PIXELS, *select_layers(base, layers)])
    taps = Taps(model, scores.layers[1:])
    first_pass(taps, batches, [scores])
    transformations = Transformations(known, num_transforms, seed)
    second_pass(taps, batches, transformations, [scores])
    return scores.tables()["score"]


class Scores:
    """Takes the scores of layers while the network runs; an `Observer`."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = layers
        self._means: dict[str, Mean] = {}
        self._squares = Columns()
        self._along = False

    def along(self) -> Self:
        """As in `Observer`."""
        other = copy.copy(self)
        other._squares, other._along = Columns(), True
        return other

    def first(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes part in the mean of all images."""
        rows = flat(activation)
        if name not in self._means:
            self._means[name] = Mean(rows[0].clone())
        self._means[name].update(rows)

    def clean(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes the squared distances from the mean."""
        self.take(name, squares(flat(activation), self._means[name].value()))

    def version(
        self, name: str, activation: Tensor, clean: Tensor, version: Version
    ) -> None:
        """Takes the squared distances from the images."""
        self.take(name, squares(flat(activation), flat(clean)))

    def mean(self, name: str) -> Tensor:
        """Of all images' activations `[D]`, after the first pass."""
        return self._means[name].value()

    def take(self, name: str, apart: Tensor) -> None:
        """Takes squared distances `[B]`: from the mean, then from the images."""
        self._squares.add(name, apart)

    def ended(self, batch: Batch) -> None:
        """Ends the batch."""
        self._squares.end()

    def relative(self, name: str, others: Tensor) -> Tensor:
        """Scores `[N, T]` of other squared distances `[N, T]`."""
        mean = self.mean(name)
        least = len(mean) * rounding(mean).item()
        return relative(self._squares.values(name)[:, 0], others, least)

    def tables(self) -> Tables:
        """The scores `[N, T]` of each layer, as they fire."""
        scores = {
            name: self.relative(name, self._squares.values(name)[:, 1:])
            for name in self._squares.names()
        }
        lost = any(values.isnan().any() for values in scores.values())
        if lost and not self._along:  # of each series it would be said again
            logger.warning(
                "scores are NaN where all images have the same activations, or some "
                "that are not finite"
            )
        return {"score": scores}


class Mean:
    """Mean of rows that come in batches.

    The first row is taken from all: exact for near values, and zero for equal ones.
    """

    def __init__(self, first: Tensor) -> None:
        self.first = first
        self.total = torch.zeros_like(first, dtype=torch.float64)
        self.count = 0
        self._value: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        """Takes `[n, D]` rows."""
        for part in _cached(rows):
            self.total += (part - self.first).sum(0)
        self.count += len(rows)
        self._value = None

    def value(self) -> Tensor:
        """The mean `[D]` in float32."""
        if self._value is None:
            self._value = (self.first + self.total / self.count).float()
        return self._value


def scheme_of_versions(
    scheme: str | AnyScheme, num_transforms: int
) -> Scheme | Composed | Transform:
    """The scheme that makes so many versions of each image.

    Raises:
        ValueError: `num_transforms < 1`, or the scheme makes none.
    """
    if num_transforms < 1:
        raise ValueError(f"num_transforms must be at least 1, got {num_transforms}")
    found = find_scheme(scheme)
    if isinstance(found, Given):
        raise ValueError(
            'scheme="given" takes the views of a training batch; scores need a scheme '
            'that makes them: "halved", "randaugment", or the loader\'s own transform'
        )
    return found


def device_of(base: nn.Module) -> torch.device | str:
    """The device of the network's weights."""
    return next((p.device for p in base.parameters()), "cpu")


def relative(from_mean: Tensor, apart: Tensor, least: float) -> Tensor:
    """Scores `[N, T]`, in float32.

    Args:
        from_mean: squared distances `[N]` from the mean of all images.
        apart: squared distances `[N, T]` that are told as a part of those between
            images.
        least: squared distance that is no more than rounding; if images are no further
            apart, there are no scores.
    """
    away = (from_mean + from_mean.mean())[:, None]
    away = torch.where(away > least, away, torch.nan)
    return (1 - apart / away).float()


def flat(activation: Tensor) -> Tensor:
    """Rows `[B, D]` in float32, of activations `[B]` too."""
    # Not in storage order, in which one batch may differ from the next.
    rows = activation.flatten(1) if activation.dim() > 1 else activation[:, None]
    return rows.float()


def squares(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distance `[n]` of each row from its counterpart, or from one for all."""
    parts = [_lengths(a - b) for a, b in _pairs(rows, others)]
    return torch.cat(parts).double().square()


def squares_and_lengths(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and the length `[n]` of each row, which is read from memory once."""
    found = [(_lengths(a - b), _lengths(a)) for a, b in _pairs(rows, others)]
    apart, lengths = (torch.cat(parts).double() for parts in zip(*found, strict=True))
    return apart.square(), lengths


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths


def _pairs(rows: Tensor, others: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(_cached(rows), _cached(others.expand_as(rows)), strict=True)


def _cached(rows: Tensor) -> tuple[Tensor, ...]:
    """Rows in parts, so many that what is made of them stays in the cache of a CPU."""
    on_cpu = rows.device.type == "cpu"
    return torch.split(rows, max(1, _CACHED // rows.shape[1]) if on_cpu else len(rows))
