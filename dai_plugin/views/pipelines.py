"""Pipelines of other libraries as schemes: what they are made of, and what is refused.

kornia and torchvision are recognised by the names of their modules, so that neither is
imported here.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Transform = Callable[[Tensor], Tensor]

_KORNIA = "kornia.augmentation"
_TORCHVISION = "torchvision.transforms"
# Where the two keep what moves pixels.
_GEOMETRY = (
    "kornia.augmentation._2d.geometric",
    "kornia.augmentation._2d.mix",
    "kornia.augmentation.auto",
    "torchvision.transforms.v2._geometry",
    "torchvision.transforms.v2._auto_augment",
    "torchvision.transforms.autoaugment",
)
# torchvision's first version keeps everything in one file.
_OLD = "torchvision.transforms.transforms"
_OLD_GEOMETRY = ("Affine", "Crop", "ElasticTransform", "Flip", "Pad", "Perspective",
                 "Resize", "Rotation")  # fmt: skip
# Substrings of the names of what puts several images into one; jigsaws do not.
_MIXING = ("MixUp", "CutMix", "Mosaic", "Transplantation", "PatchMix")
# Their constructors set kornia's flag; all but the last draw nothing.
_SAME_BY_NATURE = ("CenterCrop", "Resize", "LongestMaxSize", "SmallestMaxSize",
                   "PadTo", "Denormalize", "RandomDissolving")  # fmt: skip


def usable(pipeline: Transform) -> Transform:
    """The pipeline, so that each row draws its own numbers.

    What draws once a batch comes back as a callable that goes row by row.

    Raises:
        ValueError: it mixes images, normalises, or is told to draw once a batch.
    """
    inside = list(parts(pipeline))
    _refuse(pipeline, inside)
    if any(_kornia_draws_once(part) for part in inside):
        return ImageByImage(pipeline, batched=True)
    if any(_from(part, _TORCHVISION) for part in inside):
        batched = any(_from(part, _KORNIA) for part in inside)
        return ImageByImage(pipeline, batched=batched)
    return pipeline


def parts(pipeline: Any) -> Iterator[Any]:
    """The pipeline, and whatever it is known to be made of, at any depth."""
    seen: set[int] = set()
    waiting = [pipeline]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += _inner(part)


def moves_pixels(pipeline: Transform) -> bool:
    """Whether a part of it is a library's geometry; other callables are trusted."""
    kinds = (kind for part in parts(pipeline) for kind in type(part).__mro__)
    return any(
        kind.__module__.startswith(_GEOMETRY)
        or (kind.__module__ == _OLD and kind.__name__.endswith(_OLD_GEOMETRY))
        for kind in kinds
    )


def replays(pipeline: Transform) -> bool:
    """Whether it is kornia's and draws all its numbers before it moves anything.

    Then the numbers that a seed draws again move targets as they moved the images. A
    sequence of torch's own draws as it goes along.
    """
    kinds = {kind.__name__ for kind in type(pipeline).__mro__}
    known = bool(kinds & {"_AugmentationBase", "ImageSequentialBase"})
    return known and _from(pipeline, _KORNIA)


def takes_masks(pipeline: Transform) -> "ImageByImage | None":
    """The pipeline, if it is torchvision's v2 throughout, which moves masks as well."""
    if not isinstance(pipeline, ImageByImage) or pipeline.batched:
        return None
    theirs = [part for part in parts(pipeline) if _from(part, _TORCHVISION)]
    return (
        pipeline if all(_from(part, f"{_TORCHVISION}.v2") for part in theirs) else None
    )


def bends(pipeline: Transform) -> str | None:
    """The name of a part of kornia's that moves pixels by no matrix, if any does."""
    for part in parts(pipeline):
        kinds = {kind.__name__ for kind in type(part).__mro__}
        free = "_AugmentationBase" in kinds and moves_pixels(part)
        if free and "RigidAffineAugmentationBase2D" not in kinds:
            return type(part).__name__
    return None


class ImageByImage:
    """Calls a transform on each image, so that each draws numbers of its own.

    Args:
        transform: of one image.
        batched: whether it gets `[1, C, H, W]` instead of `[C, H, W]`.
    """

    def __init__(self, transform: Transform, *, batched: bool = False) -> None:
        self.transform, self.batched = transform, batched

    def __call__(self, images: Tensor) -> Tensor:
        """Transformed `[N, C, H, W]`."""
        if self.batched:
            return torch.cat(
                [self.transform(image) for image in torch.split(images, 1)]
            )
        return torch.stack([self.transform(image) for image in images])

    def __repr__(self) -> str:
        return f"{self.transform!r}, image by image"


def _inner(part: Any) -> list[Any]:
    """What one part directly holds."""
    inner: list[Any] = []
    if isinstance(part, ImageByImage):
        inner.append(part.transform)
    if isinstance(part, functools.partial):
        inner.append(part.func)
    # A method stands for the pipeline that it belongs to.
    inner.append(getattr(part, "__self__", None))
    # torchvision's containers keep their parts in a list, which are no submodules then.
    held = getattr(part, "transforms", None)
    inner += held if isinstance(held, list | tuple) else []
    inner += list(part.children()) if isinstance(part, nn.Module) else []
    return [each for each in inner if each is not None]


def _from(part: Any, library: str) -> bool:
    """Whether its class, or one that it inherits from, is the library's."""
    return any(kind.__module__.startswith(library) for kind in type(part).__mro__)


def _kornia_draws_once(part: Any) -> bool:
    """Whether kornia decides for the whole batch what happens to it."""
    if not _from(part, _KORNIA):
        return False
    kinds = {kind.__name__ for kind in type(part).__mro__}
    once = bool(kinds & {"PolicyAugmentBase", "RandomDissolving"})
    chosen = getattr(part, "random_apply", False)
    return once or bool(chosen) or getattr(part, "p_batch", 1.0) < 1.0


def _refuse(pipeline: Transform, inside: list[Any]) -> None:
    """Raises a ValueError about a part that no scheme may have."""
    for part in inside:
        if not (_from(part, _KORNIA) or _from(part, _TORCHVISION)):
            continue
        name = type(part).__name__
        if any(word in name for word in _MIXING):
            raise ValueError(
                f"the scheme holds {name}, which mixes images of a batch, so that a "
                "view shows several; leave it out, and mix in the training loop, "
                "before the network"
            )
        if name == "Normalize":
            raise ValueError(
                "the scheme holds Normalize, but schemes take and return [0, 1] "
                "pixels, and the images' own normalisation is put back afterwards; "
                "leave it out (mean= and std= say what the images carry)"
            )
        same = getattr(part, "same_on_batch", None) is True
        if same and name not in _SAME_BY_NATURE:
            raise ValueError(
                f"{name} in the scheme has same_on_batch=True, so that all views of "
                "a batch are transformed alike and the losses see no difference; "
                "leave it out (same_on_batch=False)"
            )
