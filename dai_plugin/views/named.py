"""Named schemes on kornia's operations, drawn row by row, on the images' device.

They take and return pixels in [0, 1]; what lies outside is clipped. What each row does
is drawn on the CPU, from torch's global stream, which a training step forks and seeds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from dai_plugin.views.composed import Summand
from dai_plugin.views.operations import Strengths, moved, perform_

_GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_STATIC = ("auto_contrast", "equalize", "posterize", "solarize")
_COLOURS = ("color", "contrast", "brightness", "sharpness")
_JITTER = ("brightness", "contrast", "color", "hue")


class Named(Summand):
    """A scheme that is a callable of its own, known by a name; pixels move.

    Attributes:
        name: what stands for it in `scheme=`.
    """

    name: ClassVar[str]

    def __call__(self, images: Tensor) -> Tensor:
        """Changed rows of float images `[N, C, H, W]`."""
        return self._changed(images.clamp(0, 1))

    def _changed(self, rows: Tensor) -> Tensor:
        """The changed rows, which may be written to."""
        raise NotImplementedError


@dataclass(frozen=True)
class RandAugment(Named):
    """Several random operations a row, all at one magnitude (arXiv:1909.13719).

    The 14 operations, ranges and defaults of torchvision's `RandAugment`; bilinear
    instead of nearest.

    Attributes:
        num_ops: operations a row, with repetition.
        magnitude: of all, from 0 to `num_magnitude_bins - 1`.
        num_magnitude_bins: steps of the magnitude.

    Raises:
        ValueError: a number out of its range.
    """

    name: ClassVar[str] = "randaugment"
    strengths: ClassVar[Strengths] = Strengths()

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        _within(self, "num_ops", 1)
        _within(self, "num_magnitude_bins", 2)
        _within(self, "magnitude", 0, self.num_magnitude_bins - 1)

    @property
    def _level(self) -> float:
        return self.magnitude / (self.num_magnitude_bins - 1)

    def _changed(self, rows: Tensor) -> Tensor:
        for _ in range(self.num_ops):
            names = _some(("identity", *_STATIC, *_COLOURS, *_GEOMETRY), len(rows))
            levels = self._level * _signs(len(rows))
            perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(self._level, self._level)
        return f"RandAugment: {self.num_ops} of 14 operations a row, {shown}"


@dataclass(frozen=True)
class TrivialAugment(Named):
    """One random operation a row, at a random magnitude (arXiv:2103.10158).

    The paper's wide space, as torchvision's `TrivialAugmentWide`: 14 operations with
    their ranges; bilinear instead of nearest.

    Attributes:
        num_magnitude_bins: steps of the magnitude, from nothing to the whole range.

    Raises:
        ValueError: there are fewer than two steps.
    """

    name: ClassVar[str] = "trivialaugment"
    strengths: ClassVar[Strengths] = Strengths(
        shear=0.99, translation=0, pixels=32, rotation=135, colour=0.99, bits=(8, 2)
    )

    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        _within(self, "num_magnitude_bins", 2)

    def _changed(self, rows: Tensor) -> Tensor:
        count, bins = len(rows), self.num_magnitude_bins
        names = _some(("identity", *_STATIC, *_COLOURS, *_GEOMETRY), count)
        levels = torch.randint(bins, (count,)) / (bins - 1) * _signs(count)
        perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(0, 1)
        return f"TrivialAugment: 1 of 14 operations a row, {shown}"


@dataclass(frozen=True)
class AutoAugment(Named):
    """One learnt pair of operations a row, each with a chance (arXiv:1805.09501).

    The policies are the paper's, as kornia lists them; the ranges are torchvision's
    (kornia's `AutoAugment` counts magnitudes from the lower end of a signed range).
    Bilinear instead of nearest.

    Attributes:
        policy: "imagenet", "cifar10" or "svhn".

    Raises:
        ValueError: there is no such policy.
    """

    name: ClassVar[str] = "autoaugment"
    strengths: ClassVar[Strengths] = Strengths()

    policy: str = "imagenet"

    def __post_init__(self) -> None:
        if self.policy not in ("imagenet", "cifar10", "svhn"):
            raise ValueError(
                f"unknown policy {self.policy!r}: take imagenet, cifar10 or svhn"
            )

    def _changed(self, rows: Tensor) -> Tensor:
        pairs = _policies(self.policy)
        drawn = [pairs[i] for i in torch.randint(len(pairs), (len(rows),)).tolist()]
        for steps in zip(*drawn, strict=True):
            chances = torch.rand(len(rows)).tolist()
            names = [
                name if chance < probability else "identity"
                for (name, probability, _), chance in zip(steps, chances, strict=True)
            ]
            levels = torch.tensor([level for *_, level in steps]) * _signs(len(rows))
            perform_(rows, names, levels, self.strengths)
        return rows

    def __str__(self) -> str:
        shown = self.strengths.shown(0, 1)
        return f"AutoAugment ({self.policy}): 1 of 25 pairs a row, {shown}"


@dataclass(frozen=True)
class AugMix(Named):
    """Chains of operations, mixed with the image (arXiv:1912.02781).

    As in the paper's code: 9 operations at magnitudes drawn uniformly up to the
    severity, chains of random depth, Dirichlet weights among them, and a Beta weight
    between them and the image; every row draws its own. `all_ops` adds the four that
    overlap with the corruptions of ImageNet-C (torchvision's default). Black instead of
    the image's border beyond it, as there.

    Attributes:
        severity: of the operations, from 0.1 to 10.
        width: chains.
        depth: operations of a chain; -1 draws 1, 2 or 3 for each.
        alpha: of the Dirichlet and Beta distributions.
        all_ops: whether colour, contrast, brightness and sharpness change, too.

    Raises:
        ValueError: a number out of its range.
    """

    name: ClassVar[str] = "augmix"
    strengths: ClassVar[Strengths] = Strengths(translation=1 / 3, bits=(4, 0))

    severity: float = 3.0
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    all_ops: bool = False

    def __post_init__(self) -> None:
        _within(self, "severity", 0.1, 10)
        _within(self, "width", 1)
        if self.depth != -1:
            _within(self, "depth", 1)
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")

    def _changed(self, rows: Tensor) -> Tensor:
        count = len(rows)
        chains = self._chains(rows.repeat(self.width, 1, 1, 1))
        alpha = torch.full((count, self.width), self.alpha)
        weights = torch._sample_dirichlet(alpha)
        mixed = torch._sample_dirichlet(torch.full((count, 2), self.alpha))[:, :1]
        shares = torch.cat([1 - mixed, weights * mixed], 1).to(rows)
        parts = torch.cat([rows, chains]).view(-1, *rows.shape)
        return torch.einsum("wnchq,nw->nchq", parts, shares)

    def _chains(self, rows: Tensor) -> Tensor:
        """Every chain of every image, a row each."""
        names = (*_STATIC, *_GEOMETRY, *(_COLOURS if self.all_ops else ()))
        count = len(rows)
        fixed = torch.full((count,), self.depth)
        depths = fixed if self.depth > 0 else torch.randint(1, 4, (count,))
        for step in range(self.depth if self.depth > 0 else 3):
            active = (depths > step).tolist()
            drawn = zip(_some(names, count), active, strict=True)
            chosen = [name if goes_on else "identity" for name, goes_on in drawn]
            levels = torch.empty(count).uniform_(0.1, self.severity) / 10
            perform_(rows, chosen, levels * _signs(count), self.strengths)
        return rows

    def __str__(self) -> str:
        depth = self.depth if self.depth > 0 else "1 to 3"
        return (
            f"AugMix: {self.width} chains a row of {depth} of "
            f"{13 if self.all_ops else 9} operations, alpha {self.alpha:g}, "
            + self.strengths.shown(0.01, self.severity / 10)
        )


@dataclass(frozen=True)
class SimCLR(Named):
    """Crop, flip, colour jitter, grey and blur (arXiv:2002.05709, appendix A).

    Every row draws its own, the order of its colour changes too. Crop and flip are one
    resampling, at fractions of pixels. Text and digits want `flip=0.0`, small images
    `blur=0.0, strength=0.5`, the paper's for CIFAR-10.

    Attributes:
        crop: smallest share of the area that is cut out; the largest is all.
        ratio: largest ratio of the sides that are cut out; the smallest is its inverse.
        flip: probability of a horizontal flip.
        jitter: probability of the colour changes.
        strength: of the colour changes: brightness, contrast and saturation by 0.8 of
            it, hue by 0.2 of it.
        grey: probability of a grey image.
        blur: probability of a Gaussian blur, a tenth of the side wide.
        sigma: least and most of the blur, in pixels.

    Raises:
        ValueError: a number out of its range.
    """

    name: ClassVar[str] = "simclr"

    crop: float = 0.08
    ratio: float = 4 / 3
    flip: float = 0.5
    jitter: float = 0.8
    strength: float = 1.0
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", tuple(self.sigma))
        for field in ("flip", "jitter", "grey", "blur"):
            _within(self, field, 0, 1)
        _within(self, "crop", 1e-3, 1)
        _within(self, "ratio", 1)
        _within(self, "strength", 0, 2.5)
        if not (len(self.sigma) == 2 and 0 < self.sigma[0] <= self.sigma[1]):
            raise ValueError(f"sigma is two numbers 0 < least <= most: {self.sigma}")

    def _changed(self, rows: Tensor) -> Tensor:
        count = len(rows)
        maps = self._crops(count, *rows.shape[2:])
        rows = moved(rows, maps.to(rows.device, non_blocking=True), "border")
        strengths = Strengths(
            colour=0.8 * self.strength, hue=0.2 * self.strength, sigma=self.sigma
        )
        jittered = (torch.rand(count) < self.jitter).tolist()
        orders = torch.rand(count, len(_JITTER)).argsort(1)
        levels = torch.empty(count, len(_JITTER)).uniform_(-1, 1)
        for turn in range(len(_JITTER)):
            drawn = zip(orders[:, turn].tolist(), jittered, strict=True)
            names = [_JITTER[i] if goes else "identity" for i, goes in drawn]
            perform_(rows, names, levels[:, turn], strengths)
        for name, probability in (("grey", self.grey), ("blur", self.blur)):
            chosen = _chosen(name, probability, count)
            perform_(rows, chosen, torch.rand(count), strengths)
        return rows

    def _crops(self, count: int, height: int, width: int) -> Tensor:
        """Maps `[count, 2, 3]` to boxes in the image, mirrored or not."""
        # Of ten boxes the first that fits, as in torchvision.
        area = torch.empty(count, 10).uniform_(self.crop, 1)
        turn = math.log(self.ratio)
        root = (torch.empty(count, 10).uniform_(-turn, turn) / 2).exp()
        across = area.sqrt() * root * math.sqrt(height / width)
        down = area.sqrt() / root * math.sqrt(width / height)
        first = ((across <= 1) & (down <= 1)).int().argmax(1, keepdim=True)
        box = torch.cat([across.gather(1, first), down.gather(1, first)], 1).clamp(
            max=1
        )
        centre = (1 - box) * (2 * torch.rand(count, 2) - 1)
        mirrored = torch.where(torch.rand(count) < self.flip, -1.0, 1.0)
        maps = torch.zeros(count, 2, 3)
        maps[:, 0, 0], maps[:, 1, 1] = box[:, 0] * mirrored, box[:, 1]
        maps[:, :, 2] = centre
        return maps

    def __str__(self) -> str:
        colours, hue = 0.8 * self.strength, 0.2 * self.strength
        return (
            f"SimCLR: crops of {self.crop:.3g} to 1 of the area, sides up to "
            f"{self.ratio:.3g} to 1, flip p {self.flip:g}, colours p {self.jitter:g}: "
            f"brightness, contrast, saturation 1 +-{colours:.3g}, hue +-{hue:.3g} "
            f"turns; grey p {self.grey:g}, blur p {self.blur:g} of sigma "
            f"{self.sigma[0]:g} to {self.sigma[1]:g} pixels"
        )


NAMED: dict[str, type[Named]] = {
    kind.name: kind
    for kind in (RandAugment, TrivialAugment, AutoAugment, AugMix, SimCLR)
}


def _within(scheme: Named, field: str, low: float, high: float = math.inf) -> None:
    value = getattr(scheme, field)
    if not low <= value <= high:
        limits = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
        raise ValueError(
            f"{field} of {type(scheme).__name__} must be {limits}, got {value}"
        )


def _some(names: Sequence[str], count: int) -> list[str]:
    """One of the names for each row."""
    return [names[i] for i in torch.randint(len(names), (count,)).tolist()]


def _chosen(name: str, probability: float, count: int) -> list[str]:
    """The name or "identity" for each row."""
    drawn: Iterable[bool] = (torch.rand(count) < probability).tolist()
    return [name if taken else "identity" for taken in drawn]


def _signs(count: int) -> Tensor:
    return torch.randint(2, (count,)) * 2.0 - 1


@lru_cache
def _policies(name: str) -> list[list[tuple[str, float, float]]]:
    """Pairs of (operation, probability, level from 0 to 1)."""
    from kornia.augmentation.auto.autoaugment import autoaugment

    return [
        [(op, probability, (step or 0) / 9) for op, probability, step in pair]
        for pair in getattr(autoaugment, f"{name}_policy")
    ]
