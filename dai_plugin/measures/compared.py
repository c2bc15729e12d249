"""Similarity between layers, networks and given matrices: a group of `measure`."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor

from dai_plugin.measures.data import Batches
from dai_plugin.measures.dissimilarity import check_metric, matrices_of
from dai_plugin.measures.matrix_files import load_subjects
from dai_plugin.measures.passes import Tables
from dai_plugin.measures.rankings import ranks
from dai_plugin.measures.similarity import (
    centred,
    check_matrices,
    noise_ceiling,
    pairs,
)
from dai_plugin.measures.taps import Taps

logger = logging.getLogger("dai_plugin")

_MANY = 10_000  # images; a matrix of so many has 10^8 numbers
_SQUARED = "squared_distance"


@dataclass(frozen=True, eq=False)  # tensors tell no equality
class Similarity:
    """Dissimilarity matrices of the layers, and how alike they are: for `measure`.

    See docs/similarity.md.

    Attributes:
        metric: of the matrices: "correlation" or "euclidean".
        rdm: matrices to compare each layer's with: of the same images in the same
            order, `[N, N]` or of several subjects `[S, N, N]`, or a file of them (see
            `load_subjects`).

    Raises:
        ValueError: the metric is unknown, or `rdm` holds no symmetric matrices.
        FileNotFoundError: there is no such file.
    """

    metric: str = "correlation"
    rdm: Tensor | str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.rdm is not None:
            check_matrices(*self._subjects())

    def tables(self, batches: Batches, taps: Taps) -> Tables:
        """Tables of similarity.

        Args:
            batches: of the images.
            taps: of the network and its layers.

        Returns:
            "dissimilarity" {layer: `[N, N]`} and, if the metric is another one,
            "squared_distance" {layer: `[N, N]`}; "cka" and "rank_correlation"
            {"layers": `[L, L]`}, in the order of the layers of "dissimilarity"; with
            `rdm`, "rdm" {layer: `[S]`}, rank correlations with each subject, and of two
            subjects or more "noise_ceiling" {"lower", "upper": a number}. Float32.

        Raises:
            ValueError: as in `dissimilarity_matrices`.
        """
        metrics = list(dict.fromkeys((self.metric, "euclidean")))
        matrices = matrices_of(batches, taps, metrics)
        own, squared = matrices[self.metric], matrices["euclidean"]
        found: Tables = {"dissimilarity": own}
        if squared is not own:
            found[_SQUARED] = squared
        aligned, order = _aligned(squared.values()), _ranked(own.values())
        found["cka"] = {"layers": aligned @ aligned.T}
        found["rank_correlation"] = {"layers": order @ order.T}
        if self.rdm is not None:
            subjects = self._subjects()
            theirs = order @ _ranked(subjects).T
            found["rdm"] = dict(zip(own, theirs, strict=True))
            if len(subjects) > 1:
                lower, upper = map(torch.tensor, noise_ceiling(subjects))
                found["noise_ceiling"] = {"lower": lower, "upper": upper}
        return {
            measure: {name: table.float() for name, table in places.items()}
            for measure, places in found.items()
        }

    def check(self, count: int, layers: int) -> None:
        """Raises unless `rdm` is of so many images; warns of much memory.

        Raises:
            ValueError: it is of others.
        """
        if self.rdm is not None and (own := len(self._subjects()[0])) != count:
            raise ValueError(
                f"rdm is of {own} images, but data holds {count}; give the images that "
                "its rows stand for, in their order"
            )
        if count > _MANY:
            logger.warning(
                "dissimilarity matrices of %d images take %.0f GB of memory (%d layers "
                "in float64); take a part of the images",
                count,
                16 * layers * count**2 / 1e9,
                layers,
            )

    def _subjects(self) -> Tensor:
        given = self.rdm
        found = given if isinstance(given, Tensor) else load_subjects(given or "")
        return (found if found.dim() == 3 else found[None]).double()


def between(one: Tables, other: Tables, kind: str = "cka") -> Tensor:
    """How alike the layers of two networks are, `[L1, L2]` in float32.

    Args:
        one: of the group "similarity", of one network.
        other: of another, of the same images with the same metric.
        kind: "cka" or "rank_correlation", as the tables of these names.

    Raises:
        ValueError: the kind is unknown, or the matrices are of other numbers of images.
    """
    if kind not in ("cka", "rank_correlation"):
        raise ValueError(f"kind must be 'cka' or 'rank_correlation', got {kind!r}")
    name = _SQUARED if kind == "cka" and _SQUARED in one else "dissimilarity"
    left, right = (list(each[name].values()) for each in (one, other))
    check_matrices(*left, *right)
    of = _aligned if kind == "cka" else _ranked
    return (of(left) @ of(right).T).float()


def _aligned(squared: Iterable[Tensor]) -> Tensor:
    """Squared distances as `[L, N * N]`, whose products are linear CKA."""
    return torch.stack([_unit(centred(each.double()).flatten()) for each in squared])


def _ranked(matrices: Iterable[Tensor]) -> Tensor:
    """The order of the pairs as `[L, n]`, whose products are rank correlations."""
    found = []
    for values in pairs(*matrices):
        order = ranks(values)
        # Of NaN there is no order.
        order = torch.full_like(order, torch.nan) if values.isnan().any() else order
        found.append(_unit(order - order.mean()))
    return torch.stack(found)


def _unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(values, dim=0, eps=0.0)
