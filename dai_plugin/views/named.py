"""Schemes that have a name, on kornia's operations: AugMix, SimCLR, the policies."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dai_plugin.views.operations import Strengths, moved, perform_
from dai_plugin.views.policies import (
    COLOURS,
    DTYPE,
    GEOMETRY,
    STATIC,
    AutoAugment,
    Named,
    RandAugment,
    TrivialAugment,
    signs,
    some,
    uniform,
    within,
)

_JITTER = ("brightness", "contrast", "color", "hue")


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
        within(self, "severity", 0.1, 10)
        within(self, "width", 1)
        if self.depth != -1:
            within(self, "depth", 1)
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")

    def _changed(self, rows: Tensor) -> Tensor:
        count = len(rows)
        chains = self._chains(rows.repeat(self.width, 1, 1, 1))
        alpha = torch.full((count, self.width), self.alpha, dtype=DTYPE)
        weights = torch._sample_dirichlet(alpha)
        pair = torch.full((count, 2), self.alpha, dtype=DTYPE)
        mixed = torch._sample_dirichlet(pair)[:, :1]
        shares = torch.cat([1 - mixed, weights * mixed], 1).to(rows)
        kept, *others = shares[..., None, None, None].unbind(1)
        rows = rows * kept
        for chain, share in zip(chains.chunk(self.width), others, strict=True):
            rows = torch.addcmul(rows, chain, share)
        return rows

    def _chains(self, rows: Tensor) -> Tensor:
        """Every chain of every image, a row each."""
        names = (*STATIC, *GEOMETRY, *(COLOURS if self.all_ops else ()))
        count = len(rows)
        fixed = torch.full((count,), self.depth)
        depths = fixed if self.depth > 0 else torch.randint(1, 4, (count,))
        for step in range(self.depth if self.depth > 0 else 3):
            active = (depths > step).tolist()
            drawn = zip(some(names, count), active, strict=True)
            chosen = [name if goes_on else "identity" for name, goes_on in drawn]
            levels = uniform(count, low=0.1, high=self.severity) / 10
            perform_(rows, chosen, levels * signs(count), self.strengths)
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
            within(self, field, 0, 1)
        within(self, "crop", 1e-3, 1)
        within(self, "ratio", 1)
        within(self, "strength", 0, 2.5)
        if not (len(self.sigma) == 2 and 0 < self.sigma[0] <= self.sigma[1]):
            raise ValueError(f"sigma is two numbers 0 < least <= most: {self.sigma}")

    def _changed(self, rows: Tensor) -> Tensor:
        count = len(rows)
        maps = self._crops(count, *rows.shape[2:])
        rows = moved(rows, maps.to(rows.device, non_blocking=True), "border")
        strengths = Strengths(
            colour=0.8 * self.strength, hue=0.2 * self.strength, sigma=self.sigma
        )
        jittered = (uniform(count) < self.jitter).tolist()
        orders = uniform(count, len(_JITTER)).argsort(1)
        levels = uniform(count, len(_JITTER), low=-1)
        for turn in range(len(_JITTER)):
            drawn = zip(orders[:, turn].tolist(), jittered, strict=True)
            names = [_JITTER[i] if goes else "identity" for i, goes in drawn]
            perform_(rows, names, levels[:, turn], strengths)
        for name, probability in (("grey", self.grey), ("blur", self.blur)):
            chosen = _chosen(name, probability, count)
            perform_(rows, chosen, uniform(count), strengths)
        return rows

    def _crops(self, count: int, height: int, width: int) -> Tensor:
        """Maps `[count, 2, 3]` to boxes in the image, mirrored or not."""
        # Of ten boxes the first that fits, as in torchvision.
        area = uniform(count, 10, low=self.crop)
        turn = math.log(self.ratio)
        root = (uniform(count, 10, low=-turn, high=turn) / 2).exp()
        across = area.sqrt() * root * math.sqrt(height / width)
        down = area.sqrt() / root * math.sqrt(width / height)
        first = ((across <= 1) & (down <= 1)).int().argmax(1, keepdim=True)
        box = torch.cat([across.gather(1, first), down.gather(1, first)], 1).clamp(
            max=1
        )
        centre = (1 - box) * (2 * uniform(count, 2) - 1)
        mirrored = 1 - 2 * (uniform(count) < self.flip).to(DTYPE)
        maps = torch.zeros(count, 2, 3, dtype=DTYPE)
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


def _chosen(name: str, probability: float, count: int) -> list[str]:
    """The name or "identity" for each row."""
    drawn: Iterable[bool] = (uniform(count) < probability).tolist()
    return [name if taken else "identity" for taken in drawn]
