"""Invariance losses as variance ratios, and the layer weights: pure functions.

Shapes: `M` views, `B` images, `N = M * B` rows in view-major order (row `v * B + i` is
view v of image i), `D` features (everything but the first dimension).

The paper (arXiv:1906.04547) divides the mean squared distance between the views of an
image by the mean squared distance between all rows of the batch. A mean over ordered
pairs of `(a_i - a_j)^2` is twice a variance, hence, for both losses of this module,

    loss = mean over groups of the variance within the group / variance of all rows

in O(N * D) time. No matrix of N x N distances exists, and nothing is kept for the
backward but the activations themselves, which the network has saved anyway.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Elements a block of columns holds: it should fit the cache of a CPU core, while on an
# accelerator every further block costs launches.
_BLOCK_CPU = 2**17
_BLOCK_ACCELERATOR = 2**24


Law = str | Sequence[float] | Mapping[str, float]


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
        TypeError: the activations are not floating point.
    """
    _check(activations, correction)
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if activations.shape[0] == 0 or activations.shape[0] % num_views:
        raise ValueError(
            f"got {activations.shape[0]} rows of activations, which is no multiple of "
            f"num_views={num_views}; rows are view-major: row v * B + i is view v of "
            "image i"
        )
    groups = Views(num_views, activations.shape[0], correction)
    return _variance_ratio(activations, groups, correction)


def class_invariance_loss(
    activations: Tensor, labels: Tensor, *, correction: int = 0
) -> Tensor:
    """Variance among the rows of a class relative to the variance of the batch.

    The class-wise term of the method (A. Hernandez-Garcia's thesis): the same ratio
    with one group for each label present. With classes of unequal sizes it can exceed
    1. With `correction=1` a class of a single row has no pair and is left out.

    Args:
        activations: `[N, ...]` of any floating dtype.
        labels: `[N]` integer class labels.
        correction: 0 or 1, as in `invariance_loss`.

    Returns:
        A scalar, float64 for float64 activations, else float32; differentiable once.

    Raises:
        ValueError: `labels` is not one label a row (soft labels, say), or `correction`
            is neither 0 nor 1.
        TypeError: labels are floating point, or activations are not.
    """
    _check(activations, correction)
    if labels.is_floating_point() or labels.dim() != 1:
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
    groups = Classes(labels.to(activations.device), correction)
    return _variance_ratio(activations, groups, correction)


def layer_weights(
    num_layers: int,
    alpha: float = 0.1,
    law: Law = "exponential",
    last_to_first: float = 10.0,
) -> list[float]:
    """Weights alpha_l of the layers, first to last, which sum to `alpha`.

    Args:
        num_layers: L.
        alpha: the sum of all weights, in [0, 1].
        law: "exponential" (the paper's: `ratio^((l-1)/(L-1))`), "linear" (from 1 to
            ratio), "uniform", or relative weights of one's own (a mapping is taken in
            its own order).
        last_to_first: ratio of the last weight to the first, for the first two laws.

    Raises:
        ValueError: an unknown law, a wrong number of weights, negative or all-zero
            weights, `alpha` outside [0, 1], or `last_to_first <= 0`.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if not last_to_first > 0:
        raise ValueError(f"last_to_first must be positive, got {last_to_first}")
    raw = _relative_weights(num_layers, law, last_to_first)
    if len(raw) != num_layers:
        raise ValueError(f"got {len(raw)} layer weights for {num_layers} layers")
    if not all(0 <= weight < float("inf") for weight in raw) or not any(raw):
        raise ValueError(
            f"layer weights must be finite, none negative and not all zero, got {raw}"
        )
    return [alpha * weight / sum(raw) for weight in raw]


def _relative_weights(
    num_layers: int,
    law: Law,
    last_to_first: float,
) -> list[float]:
    depth = [i / max(num_layers - 1, 1) for i in range(num_layers)]
    if law == "exponential":
        return [last_to_first**d for d in depth]
    if law == "linear":
        return [1 + (last_to_first - 1) * d for d in depth]
    if law == "uniform":
        return [1.0] * num_layers
    if isinstance(law, str):
        raise ValueError(
            f"unknown law of layer weights {law!r}: take 'exponential', 'linear', "
            "'uniform', or give one number a layer"
        )
    return [float(w) for w in (law.values() if isinstance(law, Mapping) else law)]


def spread_weights(
    law: Law, last_to_first: float, chosen: Sequence[str], fired: Sequence[str]
) -> list[float]:
    """Weights that sum to 1, for layers in the order in which they fired.

    Args:
        law: as in `layer_weights`; numbers of one's own belong to the chosen layers, in
            their order or by name, and a layer left out of a mapping weighs nothing.
        last_to_first: as in `layer_weights`.
        chosen: names of the chosen layers.
        fired: names of the calls: "name", "name:1" for the second call of a layer.

    Raises:
        KeyError: a mapping names a layer that was not chosen.
        ValueError: as in `layer_weights`.
    """
    if isinstance(law, str):
        return layer_weights(len(fired), 1.0, law, last_to_first)
    if isinstance(law, Mapping):
        unknown = [name for name in law if name not in chosen]
        if unknown:
            raise KeyError(
                f"layer_weights names {unknown}, which are not among the chosen layers "
                f"{list(chosen)}"
            )
        law = [law.get(name, 0.0) for name in chosen]
    own = dict(zip(chosen, layer_weights(len(chosen), 1.0, law), strict=True))
    layers = [call.split(":")[0] for call in fired]
    return layer_weights(
        len(fired), 1.0, [own[name] / layers.count(name) for name in layers]
    )


class Views:
    """Groups of rows that are views of one image, in view-major order."""

    def __init__(self, num_views: int, rows: int, correction: int) -> None:
        self.num_views = num_views
        pairs = rows - rows // num_views if correction else rows
        self.weight = 1 / max(pairs, 1)

    def sums(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted squares within groups, plain squares about the mean of all rows."""
        groups = rows.view(self.num_views, -1, rows.shape[1])
        means = groups.mean(0)
        within = (groups - means).square().sum()
        between = (means - means.mean(0)).square().sum() * self.num_views
        return self.weight * within, within + between

    def gradient(self, rows: Tensor, within: Tensor, total: Tensor) -> Tensor:
        """`within * weight * (row - group mean) - total * (row - mean of all)`."""
        groups = rows.view(self.num_views, -1, rows.shape[1])
        means = groups.mean(0)
        within = within * self.weight
        offset = total * means.mean(0) - within * means
        return (groups * (within - total) + offset).flatten(0, 1)


class Classes:
    """Groups of rows that share a label; the labels are never read on the host."""

    def __init__(self, labels: Tensor, correction: int) -> None:
        order = labels.argsort(stable=True)
        ordered = labels[order]
        starts = torch.ones_like(order)
        starts[1:] = ordered[1:] != ordered[:-1]
        self.group = torch.empty_like(order).scatter_(0, order, starts.cumsum(0) - 1)
        zeros = torch.zeros(labels.shape, device=labels.device, dtype=torch.float64)
        counts = zeros.index_add(0, self.group, torch.ones_like(zeros))
        self.counts = counts.clamp(min=1)[:, None]
        pairs = (counts - correction)[self.group]
        groups = (counts > correction).sum().clamp(min=1)
        self.weight = torch.where(pairs > 0, 1 / (pairs * groups), 0.0)[:, None]

    def _deviations(self, rows: Tensor) -> Tensor:
        sums = torch.zeros_like(rows).index_add_(0, self.group, rows)
        return rows - (sums / self.counts.to(rows.dtype))[self.group]

    def sums(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted squares within groups, plain squares about the mean of all rows."""
        within = self._deviations(rows).square() * self.weight.to(rows.dtype)
        return within.sum(), (rows - rows.mean(0)).square().sum()

    def gradient(self, rows: Tensor, within: Tensor, total: Tensor) -> Tensor:
        """`within * weight * (row - group mean) - total * (row - mean of all)`."""
        weight = within * self.weight.to(rows.dtype)
        return self._deviations(rows) * weight - (rows - rows.mean(0)) * total


class _VarianceRatio(torch.autograd.Function):
    """Variance within groups over total variance, block of columns by block.

    Saves the activations, which the network keeps anyway, and two scalars; group means
    are computed again in the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, activations: Tensor, groups: Views | Classes, correction: int
    ) -> Tensor:
        with torch.autocast(activations.device.type, enabled=False):
            sums = [groups.sums(rows) for _, rows in _blocks(activations)]
            within, squares = (
                torch.stack(part).sum() for part in zip(*sums, strict=True)
            )
            degrees = max(activations.shape[0] - correction, 1)
            ratio, scale = _divide(within, squares, degrees)
        ctx.save_for_backward(activations, ratio, scale)
        ctx.groups, ctx.degrees = groups, degrees
        return ratio

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the invariance loss is differentiable once: its gradient has none "
                "(create_graph=True, as gradient penalties use)"
            )
        activations, ratio, scale = ctx.saved_tensors
        # The incoming gradient multiplies in float32 before anything is cast to half.
        within = grad * scale
        total = within * ratio / ctx.degrees
        flat = activations.new_empty(activations.shape[0], activations[0].numel())
        for columns, rows in _blocks(activations):
            flat[:, columns] = ctx.groups.gradient(rows, within, total)
        return _unflat(flat, activations), None, None


def _check(activations: Tensor, correction: int) -> None:
    if not activations.is_floating_point():
        raise TypeError(
            f"activations must be floating point, got {activations.dtype}; choose "
            "layers whose outputs carry gradients"
        )
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction}")


def _variance_ratio(
    activations: Tensor, groups: Views | Classes, correction: int
) -> Tensor:
    if torch.compiler.is_compiling():
        # Plain operations fuse into their neighbours, and an in-place operation after
        # them is found out instead of spoiling the gradient.
        with torch.autocast(activations.device.type, enabled=False):
            flat = _flat(activations).to(_statistics_dtype(activations))
            within, squares = groups.sums(flat - flat[:1].detach())
            return _divide(within, squares, max(flat.shape[0] - correction, 1))[0]
    ratio: Tensor = _VarianceRatio.apply(activations, groups, correction)
    return ratio


def _divide(within: Tensor, squares: Tensor, degrees: int) -> tuple[Tensor, Tensor]:
    """Ratio of the two variances, and `2 / total variance` for its gradient.

    Rows that are all equal (a dead layer) give 0 and 0, and so do rows so near each
    other that the inverse of their variance overflows; NaN stays NaN.
    """
    dead = squares < 4 * degrees / torch.finfo(squares.dtype).max
    safe = torch.where(dead, 1.0, squares)
    ratio = torch.where(dead, 0.0, within * degrees / safe)
    return ratio, torch.where(dead, 0.0, 2 * degrees / safe)


def _blocks(activations: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Columns and their rows `[N, d]` less the first row, in the statistics' dtype.

    Less the first row: exact for near values, so that a large mean with a small
    deviation costs no digits in what follows.
    """
    flat, dtype = _flat(activations), _statistics_dtype(activations)
    block = _BLOCK_CPU if flat.device.type == "cpu" else _BLOCK_ACCELERATOR
    width = max(block // flat.shape[0], 1)
    for start in range(0, flat.shape[1], width):
        columns = slice(start, start + width)
        rows = flat[:, columns].to(dtype)
        yield columns, rows - rows[:1]


def _statistics_dtype(activations: Tensor) -> torch.dtype:
    return torch.float64 if activations.dtype == torch.float64 else torch.float32


def _feature_order(activations: Tensor) -> list[int]:
    """Feature dimensions from the slowest to the fastest in memory."""
    features = range(1, activations.dim())
    return sorted(features, key=activations.stride, reverse=True)


def _flat(activations: Tensor) -> Tensor:
    """`[N, D]` with the features in storage order: a view for channels_last too."""
    ordered = activations.permute(0, *_feature_order(activations))
    return ordered.reshape(activations.shape[0], -1)


def _unflat(flat: Tensor, activations: Tensor) -> Tensor:
    """The inverse of `_flat`: shape and memory format of the activations."""
    order = [0, *_feature_order(activations)]
    ordered = flat.view([activations.shape[dim] for dim in order])
    return ordered.permute([order.index(dim) for dim in range(len(order))])
