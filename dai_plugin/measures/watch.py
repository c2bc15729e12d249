"""`Watch`: what becomes of a network while it is trained, on images that stay the same.

`attach(..., watch=Watch(images))` calls `look` every so many training forwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers
from dai_plugin.measures.measure import measure
from dai_plugin.measures.results import Measures
from dai_plugin.measures.scores import scheme_of_versions
from dai_plugin.views.schemes import AnyScheme
from dai_plugin.views.statistics import Normalization, check_images

_PLAIN = ("layers", "output")  # groups whose measures are known by their own names
_BATCH = 128


@dataclass(frozen=True, eq=False)
class Watch:
    """What `dai_plugin.measure` finds on fixed images, again and again in training.

    A look leaves no trace in the network or the loop: weights end to the bit where they
    end without it. It costs `2 + num_transforms` forwards of the images in evaluation
    mode, in the precision of the weights.

    Attributes:
        images: `[N, C, H, W]`, two or more; floats that carry the normalisation of the
            loop's images, or uint8. A copy is kept.
        every: training forwards from one look to the next; the first is before the
            first training forward.
        labels: `[N]` classes, for what needs them.
        measures: as in `measure`.
        scheme: of the versions, as in `measure`.
        num_transforms: versions of each image.
        layers: as in `attach`.
        seed: of the versions, which are the same in each look.

    Raises:
        TypeError: images or labels are no tensors, or `every` is no int.
        ValueError: they are fewer than two, labels do not fit, a number is out of
            range, or the scheme makes no versions.
    """

    images: Tensor
    every: int = 500
    labels: Tensor | None = None
    measures: str | Sequence[Any] = ("layers", "output")
    scheme: str | AnyScheme = "halved"
    num_transforms: int = 5
    layers: Layers = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or isinstance(self.every, bool):
            raise TypeError(f"every must be an int, got {self.every!r}")
        if self.every < 1:
            raise ValueError(
                f"every must be at least 1, got {self.every}: it is the number of "
                "training forwards from one look to the next"
            )
        scheme_of_versions(self.scheme, self.num_transforms)
        _check(self.images, self.labels)
        object.__setattr__(self, "images", self.images.detach().clone())

    def look(
        self, model: nn.Module, known: Normalization
    ) -> tuple[Measures, dict[str, dict[str, float]]]:
        """Measures the network.

        Args:
            model: in any mode, in which it is left.
            known: the normalisation that the images carry.

        Returns:
            All measures, and the mean of each by measure and place.

        Raises:
            KeyboardInterrupt: `measure` was interrupted and kept a part.
        """
        found = measure(
            model,
            self._batches(),
            measures=self.measures,
            layers=self.layers,
            scheme=self.scheme,
            num_transforms=self.num_transforms,
            mean=known.mean,
            std=known.std,
            seed=self.seed,
        )
        if found.about.get("missing"):
            raise KeyboardInterrupt  # which is the loop's to answer
        return found, numbers(found)

    def _batches(self) -> list[Any]:
        images = torch.split(self.images, _BATCH)
        if self.labels is None:
            return list(images)
        return list(zip(images, torch.split(self.labels, _BATCH), strict=True))

    def __repr__(self) -> str:
        return (
            f"Watch({len(self.images)} images, every={self.every}, "
            f"measures={self.measures!r})"
        )


def numbers(found: Measures) -> dict[str, dict[str, float]]:
    """The mean of each measure, by its name and its place.

    Measures of other groups than "layers" and "output" have the group's name before
    theirs, and those of a series the value on its axis behind, in the axis' unit:
    "strength:rotation:score@-20".
    """
    means: dict[str, dict[str, float]] = {}
    for row in found.rows():
        group, at = row["group"], row.get("at")
        name = row["measure"] if group in _PLAIN else f"{group}:{row['measure']}"
        name = name if at is None else f"{name}@{at:.4g}"
        means.setdefault(name, {})[row["place"]] = row["mean"]
    return means


def _check(images: Any, labels: Any) -> None:
    for name, given in (("images", images), ("labels", labels)):
        if given is not None and not isinstance(given, Tensor):
            raise TypeError(
                f"{name} of a Watch must be a tensor, got a {type(given).__name__}: "
                "stack a few held-out images, as the loop hands them to the network"
            )
    if images.dim() != 4 or len(images) < 2:
        raise ValueError(
            f"a Watch compares images: give two or more, [N, C, H, W], got "
            f"{list(images.shape)}"
        )
    check_images(images)
    if labels is not None and _no_classes(labels, len(images)):
        raise ValueError(
            f"labels of a Watch must be the classes [{len(images)}] of its images, "
            f"integers, got {list(labels.shape)} of {labels.dtype}"
        )


def _no_classes(labels: Tensor, count: int) -> bool:
    inexact = labels.is_floating_point() or labels.is_complex()
    return labels.shape != (count,) or inexact or labels.dtype == torch.bool
