"""How alike two layers, two networks, or a network and a brain see the same images.

What is compared are dissimilarity matrices `[N, N]` of the same images in the same
order: their pairs above the diagonal by rank, or, for squared distances, the inner
products of the activations that they stand for (linear CKA).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dai_plugin.measures.rankings import kendall_tau_a, ranks, spearman


def rdm_correlation(a: Tensor, b: Tensor, method: str = "spearman") -> float:
    """Rank correlation of two dissimilarity matrices over all pairs of images.

    Args:
        a: symmetric `[N, N]`; what is above the diagonal counts.
        b: the same of the same images in the same order.
        method: "spearman", Pearson's correlation of the ranks, tied pairs taking their
            mean; or "tau-a", Kendall's without a correction for ties, which Nili et
            al. 2014 advise where a model predicts ties.

    Returns:
        A number in [-1, 1]; NaN if a matrix holds NaN, and for "spearman" if all pairs
        of one are tied.

    Raises:
        ValueError: a matrix is not symmetric `[N, N]` with N at least 3, the sizes
            differ, or `method` is unknown.
    """
    return _find_method(method)(*pairs(a, b))


class NoiseCeiling(NamedTuple):
    """What the best model could reach, given how much subjects differ."""

    lower: float
    upper: float


def noise_ceiling(
    subjects: Tensor | Sequence[Tensor], method: str = "spearman"
) -> NoiseCeiling:
    """Bounds on the mean rank correlation of any model with the subjects' matrices.

    Upper: the mean correlation of the subjects with the mean of all of them, taken
    over ranks; lower: with the mean of the others (Nili et al. 2014,
    doi:10.1371/journal.pcbi.1003553). Estimates: the mean of the ranks stands for the
    matrix that is closest to all subjects.

    Args:
        subjects: `[S, N, N]`, or S matrices `[N, N]`; at least 2.
        method: as in `rdm_correlation`.

    Raises:
        ValueError: there are fewer than 2 subjects; or as in `rdm_correlation`.
    """
    correlate = _find_method(method)
    if len(subjects) < 2:
        raise ValueError(
            f"a noise ceiling is taken over at least 2 subjects, got {len(subjects)}"
        )
    found = pairs(*subjects)
    places = [ranks(each) for each in found]
    total = torch.stack(places).sum(0)
    upper = [correlate(each, total) for each in found]
    lower = [correlate(p, total - r) for p, r in zip(found, places, strict=True)]
    return NoiseCeiling(math.fsum(lower) / len(found), math.fsum(upper) / len(found))


def linear_cka(a: Tensor, b: Tensor, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment of the activations behind two matrices.

    Kornblith et al. 2019 (arXiv:1905.00414): the correlation of the centred inner
    products of activations. Squared distances determine these, so that no activations
    are needed: centring -1/2 times the distances gives the centred inner products.

    Args:
        a: `[N, N]` of `dissimilarity_matrices(..., metric="euclidean")`.
        b: the same of the same images in the same order.
        debiased: the unbiased estimator of Song et al. 2012 (jmlr.org/papers/v13/
            song12a.html) in numerator and denominator, for few images and many
            features; it may be negative.

    Returns:
        1 for activations that are equal up to rotation, shift and scale, 0 for
        unrelated ones; NaN if a matrix holds NaN or all its images are the same.

    Raises:
        ValueError: a matrix is not symmetric `[N, N]` with a zero diagonal and N at
            least 3 (4, debiased), or the sizes differ.
    """
    check_matrices(a, b, least=4 if debiased else 3)
    for matrix in (a, b):
        if (matrix.diagonal() != 0).logical_and(~matrix.diagonal().isnan()).any():
            raise ValueError(
                "the diagonal must be 0, the distance of an image from itself: "
                'linear_cka takes the matrices of metric="euclidean"'
            )
    centre = _unbiased if debiased else centred
    left, right = centre(a.double()), centre(b.double())
    return _cosine(left.flatten(), right.flatten())


def centred(matrix: Tensor) -> Tensor:
    """A matrix whose rows and columns have the mean 0."""
    return matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()


def _unbiased(matrix: Tensor) -> Tensor:
    """Centred so that the sum of products is the unbiased estimate of Song et al."""
    n = len(matrix)
    rows = matrix.sum(1, keepdim=True) / (n - 2)
    found = matrix - rows - rows.T + matrix.sum() / ((n - 1) * (n - 2))
    return found.fill_diagonal_(0)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


_METHODS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "spearman": spearman,
    "tau-a": kendall_tau_a,
}


def _find_method(method: str) -> Callable[[Tensor, Tensor], float]:
    if method not in _METHODS:
        names = " or ".join(repr(name) for name in _METHODS)
        raise ValueError(f"method must be {names}, got {method!r}")
    correlate = _METHODS[method]

    def unless_nan(a: Tensor, b: Tensor) -> float:
        missing = bool(a.isnan().any() or b.isnan().any())
        return math.nan if missing else correlate(a, b)

    return unless_nan


def pairs(*matrices: Tensor) -> list[Tensor]:
    """What is above the diagonal of each, `[N (N - 1) / 2]` in float64."""
    check_matrices(*matrices)
    i, j = torch.triu_indices(len(matrices[0]), len(matrices[0]), 1)
    return [matrix.double()[i, j] for matrix in matrices]


def check_matrices(*matrices: Tensor, least: int = 3) -> None:
    """Raises unless all are symmetric matrices of one size.

    Raises:
        ValueError: so it is.
    """
    for matrix in matrices:
        if matrix.dim() != 2 or len(set(matrix.shape)) != 1 or len(matrix) < least:
            raise ValueError(
                f"a dissimilarity matrix is [N, N] for N images, at least {least}; "
                f"got {list(matrix.shape)}"
            )
        if not torch.allclose(matrix, matrix.T, equal_nan=True):
            raise ValueError(
                "a dissimilarity matrix is symmetric, got one that is not; is it the "
                "matrix of the same images in rows and columns?"
            )
    if len({len(matrix) for matrix in matrices}) > 1:
        sizes = ", ".join(str(list(m.shape)) for m in matrices)
        raise ValueError(f"matrices of the same images are compared, got sizes {sizes}")
