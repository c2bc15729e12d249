"""Invariance scores at test time, streamed over a data set.

    S_i = 1 - d(x_i, G(x_i)) / mean over j of d(x_i, x_j)

for image i, transformation G and the activations x of one layer (arXiv:1906.04547): 1
for identical activations, 0 as far apart as two random images. The denominator is
`(|x_i - m|^2 + mean over j of |x_j - m|^2) / D` with m the mean of all images, so that
two passes over the data and O(D) memory a layer suffice: one for m, one for distances.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.losses.tap import Version
from dai_plugin.losses.weights import Key, key_name
from dai_plugin.measures.data import Batches, Transformations
from dai_plugin.training.hooks import LayerHooks, find_rows
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import AnyScheme, Given, find_scheme

logger = logging.getLogger("dai_plugin")

Visit = Callable[[str, Tensor], None]


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
        data: images `[N, C, H, W]`, or an iterable of batches that can be gone through
            twice in the same order (a `DataLoader` without shuffling); of a batch, the
            first 4-D tensor is taken. Float images carry the normalisation of `mean`
            and `std`; uint8 images are scaled to [0, 1] and normalised by it.
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
        ValueError: there are no images, `num_transforms < 1`, or the scheme is
            "given".
        KeyError: a layer does not exist.
    """
    if num_transforms < 1:
        raise ValueError(f"num_transforms must be at least 1, got {num_transforms}")
    base, scheme = unwrap(model), find_scheme(scheme)
    if isinstance(scheme, Given):
        raise ValueError(
            'scheme="given" takes the views of a training batch; scores need a scheme '
            'that makes them: "halved", "randaugment", or the loader\'s own transform'
        )
    device = device or next((p.device for p in base.parameters()), "cpu")
    batches = Batches(base, data, mean, std, device)
    taps = _Taps(base, select_layers(base, layers))
    with _evaluation(base), torch.no_grad():
        means = _means(model, batches, taps)
        draws = Transformations(scheme, num_transforms, seed)
        distances: dict[str, list[Tensor]] = {}
        for name, rows in _stream(model, batches, taps, means, draws):
            distances.setdefault(name, []).append(rows)
    scores = {name: _scores(torch.cat(rows)) for name, rows in distances.items()}
    if any(values.isnan().any() for values in scores.values()):
        logger.warning("scores are NaN where all images have the same activations")
    return scores


def activation_shapes(
    model: nn.Module, layers: Layers, example: Tensor
) -> dict[str, list[int]]:
    """Shapes of the chosen activations for an example batch, as the layers fire."""
    base = unwrap(model)
    shapes: dict[str, list[int]] = {}
    with _evaluation(base), torch.no_grad():
        _Taps(base, select_layers(base, layers)).run(
            model, example, lambda name, a: shapes.update({name: list(a.shape)})
        )
    return shapes


class _Mean:
    """Mean of rows that come in batches.

    The first row is taken from all: exact for near values, and zero for equal ones.
    """

    def __init__(self, first: Tensor) -> None:
        self.first = first
        self.total = torch.zeros_like(first, dtype=torch.float64)
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Takes `[n, D]` rows."""
        self.total += (rows - self.first).sum(0)
        self.count += len(rows)

    def value(self) -> Tensor:
        """The mean `[D]` in float32."""
        return (self.first + self.total / self.count).float()


class _Taps:
    """Shows the activations of the layers to a visitor while the network runs."""

    def __init__(self, base: nn.Module, names: list[str]) -> None:
        self.base, self.names = base, names
        self.overwritten: set[str] = set()
        self._watch = True

    def run(self, model: nn.Module, images: Tensor, visit: Visit) -> None:
        """Runs the network; `visit(name, activation)` sees each layer as it fires."""
        seen: dict[Key, Version] = {}

        def note(name: str, output: Any) -> None:
            key = name, sum(layer == name for layer, _ in seen)
            activation = find_rows(name, output, images.shape[0])
            seen[key] = Version(activation)
            visit(key_name(key), activation)

        hooks = LayerHooks(self.base, self.names)
        hooks.visit = note
        try:
            model(images)
        finally:
            hooks.remove()
        if self._watch:  # the first run tells which activations do not last
            self.overwritten = {key_name(k) for k, v in seen.items() if v.changed()}
            self._watch = False


def _means(model: nn.Module, batches: Batches, taps: _Taps) -> dict[str, Tensor]:
    means: dict[str, _Mean] = {}

    def visit(name: str, activation: Tensor) -> None:
        rows = _rows(activation)
        if name not in means:
            means[name] = _Mean(rows[0].clone())
        means[name].update(rows)

    for images in batches:
        visit("input", batches.pixels(images))
        taps.run(model, images, visit)
    return {name: mean.value() for name, mean in means.items()}


def _stream(
    model: nn.Module,
    batches: Batches,
    taps: _Taps,
    means: dict[str, Tensor],
    draws: Transformations,
) -> Iterator[tuple[str, Tensor]]:
    """Name and squared distances `[B, 1 + T]`, in float64, of each batch and layer.

    The first is the distance from the mean of all images, the others those from the
    transformed versions.
    """
    for images in batches:
        clean: dict[str, Tensor] = {}
        distances: dict[str, list[Tensor]] = {}

        def keep(
            name: str,
            activation: Tensor,
            clean: dict[str, Tensor] = clean,
            distances: dict[str, list[Tensor]] = distances,
        ) -> None:
            distances[name] = [_distances(_rows(activation), means[name])]
            spoiled = name in taps.overwritten
            clean[name] = activation.clone() if spoiled else activation

        def compare(
            name: str,
            activation: Tensor,
            clean: dict[str, Tensor] = clean,
            distances: dict[str, list[Tensor]] = distances,
        ) -> None:
            rows, others = _rows(activation), _rows(clean[name])
            distances[name].append(_distances(rows, others))

        keep("input", batches.pixels(images))
        taps.run(model, images, keep)
        assert batches.normalization is not None
        for transformed in draws(images, batches.normalization):
            compare("input", batches.pixels(transformed))
            taps.run(model, transformed, compare)
        for name, columns in distances.items():
            yield name, torch.stack(columns, 1).double().square()


def _scores(distances: Tensor) -> Tensor:
    """Scores `[N, T]` of squared distances `[N, 1 + T]`, the first from the mean."""
    away = distances[:, :1] + distances[:, 0].mean()
    away = torch.where(away > 0, away, torch.nan)
    return (1 - distances[:, 1:] / away).float().cpu()


def _rows(activation: Tensor) -> Tensor:
    # Not in storage order, in which one batch may differ from the next.
    return activation.flatten(1).float()


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Distance `[n]` of each row from its counterpart, or from one for all."""
    distances: Tensor = torch.linalg.vector_norm(rows - others, dim=1)
    return distances


@contextmanager
def _evaluation(base: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in base.modules()}
    base.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
