"""Invariance losses as variance ratios: pure functions.

Shapes: `M` views, `B` images, `N = M * B` rows in view-major order (row `v * B + i` is
view v of image i), `D` features (everything but the first dimension).

The paper (arXiv:1906.04547) divides the mean squared distance between the views of an
image by the mean squared distance between all rows of the batch. A mean over ordered
pairs of `(a_i - a_j)^2` is twice a variance, hence, for both losses of this module,

    loss = mean over groups of the variance within the group / variance of all rows

in O(N * D) time, from a few sums of squares a layer, without a matrix of distances.
"""

import torch
from torch import Tensor

from dai_plugin.losses.classes import ClassGroups, hard_labels
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.tap import tap


def invariance_loss(
    activations: Tensor, num_views: int, *, correction: int = 0
) -> Tensor:
    """Variance among the views of an image relative to the variance of the batch.

    `L_inv` of arXiv:1906.04547, averaged over the images: 0 where all views of an image
    are represented alike, about 1 where views differ as much as random images do.

    Args:
        activations: `[num_views * B, ...]`, view-major, of any floating dtype and any
            memory format.
        num_views: M, the views of each image.
        correction: 0 counts all ordered pairs, i = j included (the paper's equation,
            values in [0, 1]); 1 counts distinct pairs only (Bessel's correction).

    Returns:
        A scalar, float64 for float64 activations, else float32; differentiable once.
        0 with zero gradient if all rows are equal; 0 for `num_views=1`.

    Raises:
        ValueError: the rows are not a multiple of `num_views`, `num_views < 1`, or
            `correction` is neither 0 nor 1.
        TypeError: the activations are no real floating point numbers.
    """
    _check(correction)
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if activations.shape[0] == 0 or activations.shape[0] % num_views:
        raise ValueError(
            f"got {activations.shape[0]} rows of activations, which is no multiple of "
            f"num_views={num_views}; rows are view-major: row v * B + i is view v of "
            "image i"
        )
    groups = ViewGroups(num_views, activations.shape[0], correction)
    return variance_ratio(tap(activations, groups)[1], groups)


def class_invariance_loss(
    activations: Tensor,
    labels: Tensor,
    *,
    correction: int = 0,
    ignore_index: int = -100,
) -> Tensor:
    """Variance among the rows of a class relative to the variance of the batch.

    The class-wise term of the method (A. Hernandez-Garcia's thesis): the same ratio
    with one group for each label present. With classes of unequal sizes it can exceed
    1. With `correction=1` a class of a single row has no pair and is left out.

    Args:
        activations: `[N, ...]` of any floating dtype.
        labels: `[N]` integer class labels.
        correction: 0 or 1, as in `invariance_loss`.
        ignore_index: label of rows that have none, as in `torch.nn.CrossEntropyLoss`:
            the loss is that of all other rows.

    Returns:
        A scalar, float64 for float64 activations, else float32; differentiable once.
        0 with zero gradient if all rows that count are equal, or if none counts.

    Raises:
        ValueError: `labels` is not one label a row (soft labels, say), or `correction`
            is neither 0 nor 1.
        TypeError: labels are floating point or bool, or activations are not floating
            point.
    """
    _check(correction)
    if not hard_labels(labels):
        kind = TypeError if labels.dim() == 1 else ValueError
        raise kind(
            f"class invariance needs hard labels [N] of an integer dtype, got "
            f"{labels.dtype} of shape {list(labels.shape)}; with soft labels (mixup, "
            "cutmix) set beta=0"
        )
    if labels.shape[0] != activations.shape[0]:
        raise ValueError(
            f"got {labels.shape[0]} labels for {activations.shape[0]} rows; repeat the "
            "labels over the views: labels.repeat(num_views)"
        )
    groups = ClassGroups(labels.to(activations.device), correction, ignore_index)
    return variance_ratio(tap(activations, groups)[1], groups)


def variance_ratio(parts: Tensor, groups: ViewGroups | ClassGroups) -> Tensor:
    """The losses `[...]` of layers with the parts `[..., P]` that `tap` gives."""
    within, squares = groups.combine(parts)
    return divide(within / groups.pairs, squares, groups.degrees)


def divide(within: Tensor, squares: Tensor, degrees: float | Tensor) -> Tensor:
    """`within` over the variance `squares / degrees`.

    Rows that are all equal (a dead layer) give 0 with zero gradient, and so do rows so
    near each other that the inverse of their variance overflows; NaN stays NaN.
    """
    if isinstance(degrees, Tensor):
        degrees = degrees.to(squares.dtype)
    dead = squares < 4 * degrees / torch.finfo(squares.dtype).max
    ratio = within * degrees / torch.where(dead, 1.0, squares)
    return torch.where(dead, 0.0, ratio)


def _check(correction: int) -> None:
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction}")
