"""How the pixels of a step's views moved, from the numbers that moved the images.

Nothing is kept of the views themselves: the seed draws the same numbers again, once a
target asks for them.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dai_plugin.views import pipelines
from dai_plugin.views.calls import forked_stream
from dai_plugin.views.composed import Composed
from dai_plugin.views.schemes import AnyScheme, Given, Parameters, Scheme, moves_pixels
from dai_plugin.views.targets import (
    Kind,
    homography_grid,
    places,
    rescaled,
    sampled_places,
    sources,
    warp_boxes,
    warp_heatmaps,
    warp_masks,
    warp_points,
)
from dai_plugin.views.warp import sampling_grid

Size = tuple[int, int]


@dataclass(frozen=True)
class Views:
    """Which views were made: V of each of B images `[B, C, H, W]`, from a seed."""

    views: int
    shape: torch.Size
    seed: int
    device: torch.device

    @property
    def size(self) -> Size:
        """Height and width of the images."""
        return self.shape[2], self.shape[3]

    @property
    def rows(self) -> int:
        """V * B."""
        return self.views * self.shape[0]


class Motion(Protocol):
    """How pixels moved, view-major, from the images to their views."""

    @property
    def made(self) -> Views:
        """Of which views."""

    def matrices(self) -> Tensor:
        """`[V * B, 3, 3]` from input to output pixels.

        Raises:
            ValueError: the scheme moves pixels by no such map.
        """

    def sources(self, own: Size) -> Tensor:
        """`targets.sources` `[V * B, H * W]` of what has its own height and width.

        Raises:
            ValueError: where its pixels come from is not known.
        """


def motion_of(scheme: AnyScheme, made: Views) -> Motion | None:
    """How the scheme moved the pixels of these views; None if it moves none."""
    if not made.views or not moves_pixels(scheme):
        return None
    if isinstance(scheme, Composed) and not any(map(moves_pixels, scheme.parts[1:])):
        # A sum draws in turn from the stream of the seed: its first part as if alone.
        return motion_of(scheme.parts[0], made)
    if isinstance(scheme, Scheme):
        return _Drawn(scheme, made)
    if isinstance(scheme, Composed | Given):
        return _Unknown(scheme, made)
    if pipelines.replays(scheme):
        return _Replayed(scheme, made)
    if (pipeline := pipelines.takes_masks(scheme)) is not None:
        return _Repeated(pipeline, made)
    return _Unknown(scheme, made)


def move(target: Tensor, kind: Kind, motion: Motion, outside: float) -> Tensor:
    """The views `[V * B, ...]` of a target `[B, ...]`, as those of its images.

    Args:
        target: that belongs to the pixels of the images.
        kind: which says how it is moved (`targets.warp_*`).
        motion: of the images.
        outside: label of a mask where a view shows what lies outside the image.

    Raises:
        ValueError: the scheme does not tell how such a target moves.
    """
    size, own = motion.made.size, (target.shape[-2], target.shape[-1])
    with torch.autocast(target.device.type, enabled=False):
        if kind == "mask":
            found = motion.sources(own).to(target.device)
            return warp_masks(target, found, outside)
        matrices = motion.matrices().to(target.device)
        if kind == "heatmap":
            return warp_heatmaps(target, rescaled(matrices, size, own))
        if kind == "boxes":
            return warp_boxes(target, matrices, *size)
        return warp_points(target, matrices)


def follows(kind: Kind, motion: Motion) -> bool:
    """Whether such targets can be moved: tried with one view of one image."""
    made, one = motion.made, torch.Size((1, *motion.made.shape[1:]))
    tried: Any = motion
    tried = replace(tried, made=replace(made, views=1, shape=one))
    try:
        with warnings.catch_warnings(action="ignore"):
            tried.sources(made.size) if kind == "mask" else tried.matrices()
    except Exception:  # a pipeline's own, which a run without targets never meets
        return False
    return True


def draw(scheme: Scheme, made: Views) -> Parameters:
    """The parameters of views: those of their seed."""
    generator = torch.Generator(made.device).manual_seed(made.seed)
    return scheme.draw(made.rows, generator=generator, device=made.device)


@dataclass(frozen=True)
class _Drawn:
    """Of a `Scheme`: one matrix a row."""

    scheme: Scheme
    made: Views

    def matrices(self) -> Tensor:
        return self.scheme.matrix(draw(self.scheme, self.made), *self.made.size)

    def sources(self, own: Size) -> Tensor:
        matrices = rescaled(self.matrices(), self.made.size, own)
        return sources(sampled_places(sampling_grid(matrices, *own)))


@dataclass(frozen=True)
class _Replayed:
    """Of a kornia pipeline: what it makes of masks and key points with its numbers."""

    pipeline: Any
    made: Views

    def matrices(self) -> Tensor:
        if bent := pipelines.bends(self.pipeline):
            raise ValueError(
                f"{bent} in the scheme moves pixels by no affine or projective map, so "
                "that of the targets only masks of the images' size follow; leave it "
                'out, or use scheme="photometric"'
            )
        from kornia.geometry.transform import get_perspective_transform

        height, width = self.made.size
        right, low = float(width - 1), float(height - 1)
        corners = torch.tensor(
            [[[0.0, 0.0], [right, 0.0], [right, low], [0.0, low]]],
            device=self.made.device,
        ).repeat(self.made.rows, 1, 1)
        moved = self._replay("keypoints", corners)
        return get_perspective_transform(corners, moved)

    def sources(self, own: Size) -> Tensor:
        if own == self.made.size:
            picture = places(*own, self.made.device).repeat(self.made.rows, 1, 1, 1)
            return sources(self._replay("mask", picture))
        matrices = rescaled(self.matrices(), self.made.size, own)
        return sources(sampled_places(homography_grid(matrices, *own)))

    def _replay(self, key: str, values: Tensor) -> Tensor:
        from kornia.augmentation import AugmentationSequential

        whole = AugmentationSequential(self.pipeline)
        shape = torch.Size((self.made.rows, *self.made.shape[1:]))
        try:
            with forked_stream(self.made.device, self.made.seed):
                numbers = whole.forward_parameters(shape)
            moved: Tensor = whole(values, params=numbers, data_keys=[key])
        except NotImplementedError as error:
            raise ValueError(
                f"the scheme moves pixels, and kornia does not move a {key} with them "
                f'({self.pipeline!r}); use scheme="photometric", or a Scheme'
            ) from error
        return moved


@dataclass(frozen=True)
class _Unknown:
    """Of a pipeline that moves pixels and does not tell how."""

    pipeline: Any
    made: Views

    def matrices(self) -> Tensor:
        raise ValueError(
            f"the targets belong to pixels, and the scheme {self.pipeline!r} moves "
            "them without telling where to; take a Scheme, a "
            "kornia.augmentation.AugmentationSequential that draws for each row, or "
            'scheme="photometric"'
        )

    def sources(self, own: Size) -> Tensor:
        return self.matrices()


@dataclass(frozen=True)
class _Repeated(_Unknown):
    """Of a torchvision pipeline: what it makes of a mask beside an image."""

    pipeline: pipelines.ImageByImage

    def sources(self, own: Size) -> Tensor:
        from torchvision.tv_tensors import Image, Mask

        transform: Any = self.pipeline.transform
        made = self.made
        if own != made.size:
            return super().sources(own)
        # On the images' device, where a transform may draw noise of their shape.
        image = Image(torch.zeros(made.shape[1:], device=made.device))
        pair = image, Mask(places(*own, made.device))
        try:
            with forked_stream(made.device, made.seed):
                moved = [transform(*pair)[1] for _ in range(made.rows)]
        except TypeError:
            return super().sources(own)
        return sources(torch.stack(moved).as_subclass(Tensor))
