"""Attacks along their radius, or along the number of tries: series of `measure`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import unwrap
from dai_plugin.measures.adversary import (
    Attack,
    OnPixels,
    adversarial,
    undisturbed,
    usable_pixels,
)
from dai_plugin.measures.attacks import PGD, fgsm
from dai_plugin.measures.balls import Norm
from dai_plugin.measures.data import Batch
from dai_plugin.measures.results import Axis
from dai_plugin.measures.search import Loss, Search
from dai_plugin.measures.series import Series
from dai_plugin.measures.spatial import WorstOf
from dai_plugin.measures.versions import Version
from dai_plugin.training.hooks import find_rows
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import Scheme
from dai_plugin.wrappers import OUTPUT

ATTACKS = ("fgsm", "pgd", "spatial")
TRIES = (1, 3, 10)  # of "spatial"
# Bounds of Engstrom et al., arXiv:1712.02779.
SPATIAL = Scheme.light(flip=0.0, translation=0.1, rotation=30.0)
_STEP = 3.0  # forward and backward, in forwards


@dataclass(frozen=True, eq=False)  # its fields have no hash
class Attacks:
    """Adversarial versions of the images, a series an attack: for `measure`.

    Images without labels are attacked at the class predicted for them. See
    docs/attacks.md.

    Attributes:
        attacks: "fgsm" and "pgd", along `eps`; "spatial", the worst of 1, 3 and 10
            random rotations (30 degrees) and translations (a tenth); or any `(model,
            images, labels) -> images` on [0, 1] pixels, one version, named as it is.
        eps: radii in [0, 1] pixels.
        steps: of "pgd".
        restarts: of "pgd".
        loss: "ce" or "margin", of "fgsm" and "pgd".
        norm: "linf" or "l2", in which the radii are.

    Raises:
        ValueError: there is no attack or radius, an unknown one, two of one name, or
            a number is out of range.
    """

    attacks: Sequence[str | Attack] = ("fgsm", "pgd")
    eps: Sequence[float] = (2 / 255, 4 / 255, 8 / 255)
    steps: int = 10
    restarts: int = 1
    loss: Loss = "ce"
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        unknown = [
            each
            for each in self.attacks
            if not (callable(each) or (isinstance(each, str) and each in ATTACKS))
        ]
        if unknown or not self.attacks or not self.eps:
            raise ValueError(
                f"attacks must be some of {', '.join(ATTACKS)} or callables (model, "
                f"images, labels) -> images, at some eps; got {list(self.attacks)} at "
                f"{list(self.eps)}"
            )
        names = Counter(map(name_of, self.attacks))
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(
                f"two attacks of the name {twice[0]!r}: their tables would be one; set "
                "__name__ of one to another"
            )
        self.series(nn.Identity(), 0)  # whose attacks look at their numbers

    def series(self, model: nn.Module, seed: int) -> list[Series]:
        """A series for each attack on the network."""
        network = FirstRows(unwrap(model))
        return [self._series(each, network, seed) for each in self.attacks]

    def _series(self, attack: str | Attack, network: nn.Module, seed: int) -> Series:
        if attack == "spatial":
            axis = Axis("k", "transformations", tuple(map(float, TRIES)))
            made: list[Attack] = [WorstOf(SPATIAL, count, seed) for count in TRIES]
            cost = 1 + sum(TRIES) / len(TRIES)
        elif attack in ("fgsm", "pgd"):
            axis = self._radii()
            make = self._fgsm if attack == "fgsm" else self._pgd
            made = [make(eps, seed) for eps in self.eps]
            cost = _cost(made[0])
        else:
            assert callable(attack)
            axis, made, cost = Axis("attack", "", (1.0,)), [attack], _cost(attack)
        source = Attacked(network, tuple(made))
        told = self._told(attack) if isinstance(attack, str) else ""
        return Series(f"attacks:{name_of(attack)}", axis, source, cost, told)

    def _told(self, attack: str) -> str:
        if attack == "spatial":
            return str(SPATIAL)
        steps = f", {self.steps} steps, {self.restarts} restarts"
        return f"{self.norm}, {self.loss}{steps if attack == 'pgd' else ''}"

    def _radii(self) -> Axis:
        # As the literature tells them: of 255 grey levels, or as lengths.
        scale, unit = (255, "of 255") if self.norm == "linf" else (1, "length")
        return Axis("eps", unit, tuple(float(scale * eps) for eps in self.eps))

    def _fgsm(self, eps: float, seed: int) -> Attack:
        return fgsm(eps, self.norm, self.loss)

    def _pgd(self, eps: float, seed: int) -> Attack:
        return PGD(
            eps,
            self.norm,
            self.steps,
            restarts=self.restarts,
            loss=self.loss,
            seed=seed,
        )


@dataclass(frozen=True)
class Attacked:
    """Makes a version with each of some attacks; a `Source`."""

    network: nn.Module
    attacks: tuple[Attack, ...]

    def check(self, batch: Batch) -> None:
        """Raises if these attacks cannot be made of such images, or on the network.

        Raises:
            ValueError: the pixels do not lie in [0, 1].
            Unfit: the attacks follow a gradient, and none reaches the images.
        """
        pixels = usable_pixels(batch.pixels)
        follow = any(isinstance(attack, PGD) for attack in self.attacks)
        if batch.start or not follow:
            return
        # Of one image; whether there is a gradient does not depend on its pixels.
        target, image = OnPixels(self.network, Normalization()), pixels[:1]
        with undisturbed(target):
            search = Search(target, image, target(image).argmax(1))
            search.climb(search.pending)

    def versions(self, batch: Batch, known: Normalization) -> Iterator[Version]:
        """The batch, attacked in one way after another."""
        labels = batch.labels
        if labels is None:
            labels = self._predicted(batch, known)
        for number, attack in enumerate(self.attacks):
            pixels = adversarial(
                attack,
                self.network,
                batch.images,
                labels.to(batch.images.device),
                normalization=known,
            )
            yield Version(number, known.carry(pixels, batch.images), None)

    def _predicted(self, batch: Batch, known: Normalization) -> Tensor:
        target = OnPixels(self.network, known)
        with undisturbed(target), torch.no_grad():
            found: Tensor = target(batch.pixels).argmax(1)
        return found


class FirstRows(nn.Module):
    """A network that returns the first tensor of rows of what the one inside does.

    Args:
        network: that may return a tuple, a dict, or the like.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        """Rows `[B, ...]` for images `[B, C, H, W]`."""
        return find_rows(OUTPUT, self.network(images), len(images))


def name_of(attack: str | Attack) -> str:
    """By which its series goes."""
    if isinstance(attack, str):
        return attack
    plain: Any = attack
    while isinstance(plain, partial):
        plain = plain.func
    return str(getattr(plain, "__name__", type(plain).__name__))


def _cost(attack: Attack) -> float:
    """Of one version in forwards; 0 where it cannot be known."""
    if isinstance(attack, PGD):
        return 1 + attack.restarts * (attack.steps * _STEP + 1)
    return 0.0
