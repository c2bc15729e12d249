"""Measures of what the network returns: its classes, their probabilities, features.

docs/measures.md has the formulas. Tables of integers (predictions) are no measures; of
all others the mean is the number.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from dai_plugin.measures.columns import Columns
from dai_plugin.measures.data import Batch
from dai_plugin.measures.passes import Tables
from dai_plugin.measures.versions import Version
from dai_plugin.wrappers import OUTPUT

BINS = 15  # of the calibration error
_SUM = 1e-3  # to which probabilities may miss 1


class OutputMeasures:
    """Takes the measures of the output while the network runs; an `Observer`.

    Args:
        penultimate: the layer whose activations find an image again; it may be missing.

    Attributes:
        classes: that the network tells apart, known after the first batch.
    """

    def __init__(self, penultimate: list[str]) -> None:
        self.layers: Sequence[str] = [OUTPUT, *penultimate]
        self._features: list[Tensor] = []
        self._gallery: Tensor | None = None
        self._start = 0  # images before the batch
        self._clean: Tensor | None = None
        self._mean: Tensor | None = None
        self._labels: list[Tensor] = []
        self._columns = Columns()
        self._along = False
        self.classes = 0

    def along(self) -> Self:
        """As in `Observer`."""
        other = copy.copy(self)
        other._labels, other._columns, other._along = [], Columns(), True
        return other

    def first(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Keeps the features; looks whether these are logits."""
        if name == OUTPUT:
            self.classes = _classes(activation)
        elif name in self.layers:
            self._features.append(_directions(activation))

    def clean(self, name: str, activation: Tensor, batch: Batch) -> None:
        """Takes the predictions of the images."""
        if name == OUTPUT:
            self._start = batch.start
            self._clean = probabilities(activation)
            self._mean = torch.zeros_like(self._clean)
            self._take("prediction", "confidence", self._clean)

    def version(
        self, name: str, activation: Tensor, clean: Tensor, version: Version
    ) -> None:
        """Takes the predictions of a version, and whether it finds its image."""
        if name == OUTPUT:
            assert self._clean is not None
            assert self._mean is not None
            found = probabilities(activation)
            self._mean += found
            self._take("predictions", "confidences", found)
            self._columns.add("invariance", effective_invariance(self._clean, found))
        elif name in self.layers:
            self._columns.add("retrieval", self._finds(_directions(activation)))

    def ended(self, batch: Batch) -> None:
        """Ends the batch."""
        assert self._mean is not None
        self._columns.add("prediction of the mean", self._mean.argmax(1))
        self._columns.end()
        if batch.labels is not None:
            self._labels.append(batch.labels)

    def tables(self) -> Tables:
        """Measures by name; `[N, T]` of versions, `[N]` of images, or a number.

        Along an axis of T points: `[N, T]` or `[T]`.
        """
        found = self._of_versions() if self._along else self._of_images()
        return {name: {"output": table} for name, table in found.items()}

    def _of_images(self) -> dict[str, Tensor]:
        found, values = self._of_versions(), self._columns.values
        clean = values("prediction")[:, 0]
        found |= {
            "prediction": clean,
            "confidence": values("confidence")[:, 0],
            "consistency_all": found["consistency"].all(1),
        }
        if self._labels:
            right = torch.cat(self._labels)
            found |= {
                "accuracy": clean == right,
                "accuracy_worst": found["accuracy_transformed"].all(1),
                "accuracy_of_mean": values("prediction of the mean")[:, 0] == right,
            }
            for kind, certain in (("", "confidence"), ("_transformed", "confidences")):
                hits = found["accuracy" + kind].flatten()
                error = calibration_error(found[certain].flatten(), hits)
                found["calibration_error" + kind] = error
        return found

    def _of_versions(self) -> dict[str, Tensor]:
        values = self._columns.values
        versions = values("predictions")
        found = {
            "predictions": versions,
            "confidences": values("confidences"),
            "consistency": versions == values("prediction"),
            "effective_invariance": values("invariance"),
        }
        if self._features:
            found["retrieval"] = values("retrieval")
        if self._labels:
            hits = versions == torch.cat(self._labels)[:, None]
            found["accuracy_transformed"] = hits
            pairs = zip(found["confidences"].T, hits.T, strict=True)
            errors = torch.stack([calibration_error(*pair) for pair in pairs])
            found["calibration_error_transformed"] = errors
        return found

    def _take(self, prediction: str, confidence: str, found: Tensor) -> None:
        top = found.max(1)
        self._columns.add(prediction, top.indices)
        self._columns.add(confidence, top.values)

    def _finds(self, queries: Tensor) -> Tensor:
        """Whether no other of all images is as near as the own one `[B]`."""
        if self._gallery is None:
            self._gallery = torch.cat(self._features)
        near = queries @ self._gallery.T
        own = torch.arange(len(queries), device=near.device)
        place = own + self._start
        mine = near[own, place].clone()
        near[own, place] = -torch.inf
        return mine > near.amax(1)


def probabilities(output: Tensor) -> Tensor:
    """Of logits `[B, K]`; rows that are probabilities are left as they are."""
    output = output.float()
    sums, least = output.sum(1, keepdim=True), output.amin(1, keepdim=True)
    done = (least >= 0) & ((sums - 1).abs() <= _SUM)
    return torch.where(done, output, output.softmax(1))


def effective_invariance(clean: Tensor, other: Tensor) -> Tensor:
    """Root of the product of the confidences where the classes agree, else 0.

    Source: Deng et al., On the Strong Correlation Between Model Invariance and
    Generalization, 2022. Both are probabilities `[B, K]`.
    """
    one, two = clean.max(1), other.max(1)
    return (one.values * two.values).sqrt() * (one.indices == two.indices)


def calibration_error(confidence: Tensor, hits: Tensor) -> Tensor:
    """Expected calibration error of predictions `[n]` in 15 bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, 2017. The sum over
    bins of |sum of confidences - number of hits| / n.
    """
    bins = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, confidence.double() - hits.double())
    return gaps.abs().sum().div(len(hits)).float()


def _directions(activation: Tensor) -> Tensor:
    """Features `[B, D]` of length 1; maps are averaged over their places.

    In float64, in which cosines of nearly parallel features still differ.
    """
    features = activation.double()
    pooled = features.mean((2, 3)) if features.dim() == 4 else features.flatten(1)
    return torch.nn.functional.normalize(pooled)


def _classes(output: Tensor) -> int:
    if output.dim() != 2 or output.shape[1] < 2:
        raise ValueError(
            f"measures of the output need logits [B, classes] of two classes or more, "
            f'but the network returns {list(output.shape)}; ask for "layers" without '
            '"output"'
        )
    return output.shape[1]
