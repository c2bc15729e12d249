"""Attacks without gradients: the worst of some transformations of each image.

They are called as those of `attacks` are. What is drawn for an image depends on the
seed and its pixels alone, not on batch or order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import radians

import torch
from torch import Tensor, nn

from dai_plugin.measures.adversary import undisturbed
from dai_plugin.measures.search import Search, check_counts, image_seeds
from dai_plugin.views.expand import expand, transform
from dai_plugin.views.schemes import AnyScheme, Given, Scheme, find_scheme
from dai_plugin.views.statistics import Normalization

__all__ = ["Grid", "WorstOf"]


@dataclass(frozen=True)
class WorstOf:
    """The worst of `count` random transformations of each image (arXiv:1712.02779).

    Attributes:
        scheme: of the transformations: a name, a `Scheme`, or a callable, as in
            `attach`. All but a `Scheme` is applied image by image.
        count: of transformations; the image itself is one more.
        seed: of the transformations.

    Raises:
        ValueError: `count < 1`, or the scheme is unknown or "given".
        TypeError: the scheme is no scheme.
    """

    scheme: str | AnyScheme = "halved"
    count: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(count=self.count)
        if isinstance(find_scheme(self.scheme), Given):
            raise ValueError(
                'scheme="given" takes the views of a training batch; WorstOf needs a '
                'scheme that makes them: "halved", "randaugment", ...'
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The worst versions `[B, C, H, W]`; see the module."""
        scheme = find_scheme(self.scheme)
        versions = (partial(self._version, scheme, k) for k in range(self.count))
        return _worst(model, images, labels, versions)

    def _version(self, scheme: AnyScheme, number: int, images: Tensor) -> Tensor:
        seeds = image_seeds(images, self.seed, number)
        if isinstance(scheme, Scheme):
            drawn = [
                scheme.draw(1, generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
            names = drawn[0]
            rows = {name: torch.cat([d[name] for d in drawn]) for name in names}
            return _transformed(images, scheme, rows)
        assert not isinstance(scheme, Given)
        rows_of = partial(
            expand,
            num_views=1,
            scheme=scheme,
            first_view="augmented",
            normalization=Normalization(),
        )
        pairs = zip(images, seeds, strict=True)
        return torch.cat([rows_of(image[None], seed=seed) for image, seed in pairs])


@dataclass(frozen=True)
class Grid:
    """The worst rotation and translation of a grid (arXiv:1712.02779).

    Attributes:
        rotation: bound in degrees.
        translation: bound as a fraction of width and of height.
        rotations: how many, evenly from -bound to bound.
        translations: how many along each axis.

    Raises:
        ValueError: a bound is negative, or a number of values below 1.
    """

    rotation: float = 30.0
    translation: float = 0.1
    rotations: int = 31
    translations: int = 5

    def __post_init__(self) -> None:
        check_counts(rotations=self.rotations, translations=self.translations)
        Scheme(rotation=self.rotation, translation=self.translation)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The worst versions `[B, C, H, W]`; see the module."""
        angle, shift = radians(self.rotation), self.translation
        angles = _even(angle, self.rotations)
        shifts = _even(shift, self.translations)
        places = product(angles, shifts, shifts)
        versions = (partial(_moved, *place) for place in places)
        return _worst(model, images, labels, versions)


def _moved(rotation: float, across: float, down: float, images: Tensor) -> Tensor:
    """All images turned (radians) and shifted (fractions) alike."""
    place = {"rotation": rotation, "shift_x": across, "shift_y": down}
    still = dict.fromkeys(("flip", "zoom_x", "zoom_y"), 1.0) | {"shear": 0.0}
    rows = {
        name: torch.full((len(images),), value, device=images.device)
        for name, value in (still | place).items()
    }
    return _transformed(images, Scheme.light(), rows)


def _transformed(
    images: Tensor, scheme: Scheme, parameters: dict[str, Tensor]
) -> Tensor:
    rows = {name: values.to(images.device) for name, values in parameters.items()}
    out = torch.empty_like(images)[None]
    return transform(images, scheme, rows, Normalization(), out=out)[0]


def _worst(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    versions: Iterable[Callable[[Tensor], Tensor]],
) -> Tensor:
    """The worst of the images and their versions."""
    with undisturbed(model):
        search = Search(model, images, labels)
        search.offer(search.images)
        for version in versions:
            if not len(search.open):
                break
            # Noise and cubic resampling of a callable scheme leave [0, 1].
            search.offer(version(search.pending).clamp(0, 1))
        return search.found


def _even(bound: float, count: int) -> list[float]:
    """`count` numbers from -bound to bound; 0 if it is one."""
    if count == 1:
        return [0.0]
    return [bound * (2 * k / (count - 1) - 1) for k in range(count)]
