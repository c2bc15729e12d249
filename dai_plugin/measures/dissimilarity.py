"""Dissimilarity matrices: how far apart each layer puts every pair of images.

    correlation   1 - r(x_i, x_j), Pearson's correlation over the features
    euclidean     |x_i - x_j|^2 / D

for the activations x of images i and j at a layer with D features (Kriegeskorte, Mur
and Bandettini 2008, doi:10.3389/neuro.06.004.2008). Both follow from inner products.
Batches are taken in pairs: the activations of one are kept while all later ones go by,
so that memory holds two batches of activations and N x N numbers a layer.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.losses.weights import Key, key_name
from dai_plugin.measures.data import Batches
from dai_plugin.measures.passes import PIXELS
from dai_plugin.measures.taps import Taps
from dai_plugin.views.normalization import Statistics

logger = logging.getLogger("dai_plugin")

Centre = Callable[[Tensor], Tensor]

_CHUNK = 2**16  # features at a time in float64


def dissimilarity_matrices(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    layers: Layers = "auto",
    metric: str = "correlation",
    mean: Statistics | None = None,
    std: Statistics | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """The dissimilarity of every pair of images at each layer.

    With K batches the network is run on K (K + 1) / 2: give the largest batches that
    memory has room for. The matrices do not depend on their size.

    Args:
        model: any network; it is run in evaluation mode, then put back as it was.
        data: images `[N, C, H, W]`, or an iterable of batches that gives the same
            images each time; as in `invariance_scores`.
        layers: as in `attach`.
        metric: "correlation", one minus Pearson's correlation over the features, in
            [0, 2]; or "euclidean", the mean over the features of squared differences.
        mean: of the normalisation; left out, as in `attach`.
        std: of the normalisation.
        device: where the images go; None is the model's.

    Returns:
        Symmetric matrices `[N, N]` with a zero diagonal, in float64 on the CPU, by
        layer: first "input", the [0, 1] pixels, then the layers as they fire.
        Correlations with an image at whose features a layer is constant do not exist:
        its row, column and diagonal are NaN, and a warning says so.

    Raises:
        TypeError: `data` can be gone through only once.
        ValueError: `metric` is unknown, there are fewer than 3 images, they differ
            from one pass to the next, or a layer has more features for some.
        KeyError: a layer does not exist.
    """
    check_metric(metric)
    base = unwrap(model)
    device = device or next((p.device for p in base.parameters()), "cpu")
    batches = Batches(base, data, mean, std, device)
    taps = Taps(model, select_layers(base, layers))
    return matrices_of(batches, taps, [metric])[metric]


def check_metric(metric: str) -> None:
    """Raises if there is no such metric.

    Raises:
        ValueError: so it is.
    """
    if metric not in _METRICS:
        names = " or ".join(repr(name) for name in _METRICS)
        raise ValueError(f"metric must be {names}, got {metric!r}")


def matrices_of(
    batches: Batches, taps: Taps, metrics: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """The matrices of `dissimilarity_matrices` by metric, from the same runs."""
    strips: dict[tuple[str, str], list[Tensor]] = {}
    with taps.looking():
        for key, strip in _strips(batches, taps, metrics):
            strips.setdefault(key, []).append(strip)
    if batches.count < 3:
        raise ValueError(
            f"data holds {batches.count} images; with fewer than 3 there are no two "
            "pairs whose dissimilarities could be compared"
        )
    found: dict[str, dict[str, Tensor]] = {metric: {} for metric in metrics}
    for metric, name in list(strips):
        matrix = _symmetric(strips.pop((metric, name)))
        found[metric][name] = _METRICS[metric][1](matrix)
    for matrices in found.values():
        _warn_of_nan(matrices)
    return found


def _strips(
    batches: Batches, taps: Taps, metrics: Sequence[str]
) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Products `[B, N - start]` of one batch after another with the rest.

    By metric and layer.
    """
    first = last = 0
    while first <= last:
        kept: dict[str, Tensor] = {}
        blocks: dict[tuple[str, str], list[Tensor]] = {}

        def visit(
            key: Key,
            activation: Tensor,
            kept: dict[str, Tensor] = kept,
            blocks: dict[tuple[str, str], list[Tensor]] = blocks,
        ) -> None:
            name, rows = key_name(key), activation.reshape(len(activation), -1)
            if name not in kept:
                kept[name] = rows.clone()  # a later layer may overwrite it
            _check_features(name, kept[name], rows)
            for metric in metrics:
                block = _products(kept[name], rows, _METRICS[metric][0])
                blocks.setdefault((metric, name), []).append(block.cpu())

        for last, batch in enumerate(batches.batches()):
            if last >= first:
                visit((PIXELS, 0), batch.pixels)
                taps.run(batch.images, visit)
        first += 1
        for key, row in blocks.items():
            yield key, torch.cat(row, 1)


def _products(rows: Tensor, others: Tensor, centre: Centre) -> Tensor:
    """Mean over the features of the products `[n, m]` of rows about their centres.

    In float64, whatever the activations are in: distances are differences of these.
    """
    total = rows.new_zeros(len(rows), len(others), dtype=torch.float64)
    a, b = centre(rows), centre(others)
    chunks = torch.split(rows, _CHUNK, 1), torch.split(others, _CHUNK, 1)
    for left, right in zip(*chunks, strict=True):
        total += (left.double() - a) @ (right.double() - b).T
    return total / rows.shape[1]


def _own_mean(rows: Tensor) -> Tensor:
    """The mean `[n, 1]` of each row, NaN for one that is constant."""
    means = rows.mean(1, keepdim=True, dtype=torch.float64)
    constant = rows.amax(1, keepdim=True) == rows.amin(1, keepdim=True)
    return torch.where(constant, torch.nan, means)


def _zero(rows: Tensor) -> Tensor:
    return rows.new_zeros(1, 1, dtype=torch.float64)


def _correlation(products: Tensor) -> Tensor:
    norms = products.diagonal().sqrt()
    distances = (1 - products / norms.outer(norms)).clamp_(0, 2)
    distances.diagonal().mul_(0)  # NaN stays
    return distances


def _euclidean(products: Tensor) -> Tensor:
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_(min=0)


# What is taken from each row, and what becomes of the products.
_METRICS: dict[str, tuple[Centre, Callable[[Tensor], Tensor]]] = {
    "correlation": (_own_mean, _correlation),
    "euclidean": (_zero, _euclidean),
}


def _symmetric(strips: list[Tensor]) -> Tensor:
    """`[N, N]` of the strips `[B, N - start]` on and above its diagonal."""
    count = strips[0].shape[1]
    upper = strips[0].new_zeros(count, count)
    for strip in strips:
        start = count - strip.shape[1]
        upper[start : start + len(strip), start:] = strip
    return upper.triu() + upper.triu(1).T


def _check_features(name: str, rows: Tensor, others: Tensor) -> None:
    if rows.shape[1] != others.shape[1]:
        raise ValueError(
            f"the layer {name!r} has {rows.shape[1]} features for some images and "
            f"{others.shape[1]} for others; give images of one size"
        )


def _warn_of_nan(matrices: dict[str, Tensor]) -> None:
    lost = {name: int(m.diagonal().isnan().sum()) for name, m in matrices.items()}
    found = [f"{name} ({n} images)" for name, n in lost.items() if n]
    if found:
        logger.warning(
            "dissimilarities are NaN for images whose activations are constant or not "
            "finite: %s",
            ", ".join(found),
        )
