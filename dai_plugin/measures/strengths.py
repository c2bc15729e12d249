"""One transformation alone, weaker and stronger: the same for every image.

The transformations are those of `Scheme` (views/schemes.py), in [0, 1] pixels.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from dai_plugin.measures.data import Batch
from dai_plugin.measures.results import Axis
from dai_plugin.measures.series import Series
from dai_plugin.measures.versions import Version
from dai_plugin.views.expand import transform
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Scheme

_STILL = Scheme.photometric(contrast=0.0, brightness=0.0)
_MOVED, _COLOURED = Scheme.light(), Scheme.photometric()
# Parameters of a scheme that change nothing.
_NOTHING = {
    **dict.fromkeys(("flip", "zoom_x", "zoom_y", "contrast"), 1.0),
    **dict.fromkeys(("shift_x", "shift_y", "rotation", "shear", "brightness"), 0.0),
}


@dataclass(frozen=True)
class Kind:
    """A transformation that one number describes.

    Attributes:
        unit: of the number.
        scheme: that makes it.
        nothing: the number that changes nothing.
        least: which it may be.
        most: which it may be.
        parameters: of the scheme, other than `_NOTHING`, for a number.
    """

    unit: str
    scheme: Scheme
    nothing: float
    least: float
    most: float
    parameters: Callable[[float], Mapping[str, float]]


KINDS: dict[str, Kind] = {
    "rotation": Kind(
        "degrees", _MOVED, 0, -360, 360, lambda v: {"rotation": math.radians(v)}
    ),
    "zoom": Kind("factor", _MOVED, 1, 0.01, 100, lambda v: {"zoom_x": v, "zoom_y": v}),
    "translation": Kind("of the width", _MOVED, 0, -1, 1, lambda v: {"shift_x": v}),
    "shear": Kind("degrees", _MOVED, 0, -89, 89, lambda v: {"shear": math.radians(v)}),
    "flip": Kind("", _MOVED, 0, 0, 1, lambda v: {"flip": 1 - 2 * v}),
    "contrast": Kind("factor", _COLOURED, 1, 0, 100, lambda v: {"contrast": v}),
    "brightness": Kind(
        "added, of [0, 1]", _COLOURED, 0, -1, 1, lambda v: {"brightness": v}
    ),
}

# About twice as far as the paper's heavier scheme goes, to both sides.
GRIDS: dict[str, tuple[float, ...]] = {
    "rotation": (-45, -30, -15, 0, 15, 30, 45),
    "zoom": (0.5, 0.7, 0.85, 1, 1.15, 1.4, 2),
    "translation": (-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3),
    "shear": (-30, -20, -10, 0, 10, 20, 30),
    "flip": (0, 1),
    "contrast": (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2),
    "brightness": (-0.5, -0.25, -0.1, 0, 0.1, 0.25, 0.5),
}


@dataclass(frozen=True, eq=False)  # its fields have no hash
class Strength:
    """Each transformation alone over a grid, a series each: for `measure`.

    A value that changes nothing (0 degrees, factor 1) leaves images to the bit.

    Attributes:
        grids: by transformation, the values to take, in this order: "rotation"
            (degrees, clockwise), "zoom" (factor), "translation" (share of the width,
            to the right), "shear" (degrees), "flip" (0, or 1: mirrored), "contrast"
            (factor about each channel's mean), "brightness" (added to [0, 1] pixels).
            `{**GRIDS, "rotation": (0, 90)}` changes one and keeps the others.

    Raises:
        ValueError: there are no values, an unknown transformation, or a value that it
            cannot have.
    """

    grids: Mapping[str, Sequence[float]] = field(default_factory=lambda: GRIDS)

    def __post_init__(self) -> None:
        unknown = [name for name in self.grids if name not in KINDS]
        if unknown or not self.grids:
            raise ValueError(
                f"grids must be of some of {', '.join(KINDS)}, got "
                f"{', '.join(map(repr, unknown)) or 'none'}"
            )
        for name, values in self.grids.items():
            _check(name, values)

    def series(self, model: nn.Module, seed: int) -> list[Series]:
        """A series for each transformation; neither network nor seed matters."""
        return [
            Series(
                f"strength:{name}",
                Axis(name, KINDS[name].unit, tuple(map(float, values))),
                Strengthened(name, tuple(map(float, values))),
            )
            for name, values in self.grids.items()
        ]


@dataclass(frozen=True)
class Strengthened:
    """Makes the versions of one transformation; a `Source`."""

    name: str
    values: tuple[float, ...]

    def check(self, batch: Batch) -> None:
        """Nothing: all images suit."""

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """A version of the batch for each value."""
        kind, images = KINDS[self.name], batch.images
        for number, value in enumerate(self.values):
            still = value == kind.nothing
            drawn = {
                name: torch.full((len(images),), found, device=images.device)
                for name, found in (_NOTHING | dict(kind.parameters(value))).items()
            }
            if still:
                yield Version(number, images, _STILL, drawn)
                continue
            out = torch.empty_like(images)[None]
            changed = transform(images, kind.scheme, drawn, known, out=out)[0]
            yield Version(number, changed, kind.scheme, drawn)


def _check(name: str, values: Sequence[float]) -> None:
    kind = KINDS[name]
    fits = all(kind.least <= value <= kind.most for value in values)
    if not len(values) or not fits or (name == "flip" and not set(values) <= {0, 1}):
        either = "0 or 1" if name == "flip" else f"from {kind.least:g} to {kind.most:g}"
        raise ValueError(
            f"the grid of {name!r} must hold numbers {either}, got {list(values)}"
        )
