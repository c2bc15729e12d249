"""The normalisation that a training run's images carry: known or guessed, then checked.

The first batches decide. What was given stays; what the model's configuration says, or
what was guessed from the first batch, gives way to what the values show. Views are
never clipped below what a batch holds, whatever was taken (`expand`), but by named
schemes, of which the first batches warn; a wrong normalisation changes how strong
colour changes are.
"""

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from dai_plugin.views.normalization import (
    Normalization,
    Statistics,
    channel_ranges,
    ends,
    fitting,
    from_batch,
    from_range,
    known_normalization,
    plain,
)
from dai_plugin.views.statistics import Range, check_images

logger = logging.getLogger("dai_plugin")

T = TypeVar("T")
Share = Callable[[Callable[[], T], torch.device], T]

_BATCHES = 3
# Beyond this, in pixels, a normalisation does not fit; rounding and noise lie within.
_CLEARLY = 0.05


class Pixels:
    """Which normalisation the images carry, decided on the first batches.

    Args:
        model: whose configuration may say it (timm's `default_cfg`).
        mean: given by the user, or None.
        std: given by the user, or None.
        clips: whether the scheme clips them to [0, 1], as named ones do.

    Raises:
        ValueError: only one of mean and std is given, or a std is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Statistics | None,
        std: Statistics | None,
        *,
        clips: bool = False,
    ) -> None:
        self._clips = clips
        self._known = known_normalization(model, mean, std)
        self._fixed = mean is not None
        self._configured = None if self._fixed else self._known
        self._values: list[tuple[float, float]] = []
        self._seen, self._told = 0, False

    @property
    def known(self) -> Normalization | None:
        """What holds; None until a batch has been seen. Once set, it stays."""
        return self._known

    @known.setter
    def known(self, value: Normalization | None) -> None:
        self._known, self._fixed = value, value is not None

    def prepare(self, images: Tensor) -> Tensor:
        """As `Normalization.prepare`, with what holds; `settle` comes first."""
        return (self._known or Normalization()).prepare(images)

    def settle(self, images: Tensor, share: Share[Normalization]) -> None:
        """Decides on the first batch, checks the next two, then does nothing.

        Args:
            images: the batch `[B, C, H, W]` of this step, as it came.
            share: calls a function on the first rank and gives its result to all
                ranks, on which a ValueError of it is raised, too. Called for the first
                batch alone: later batches are each rank's own.

        Raises:
            ValueError: the images hold no pixels, are integers of another kind than
                uint8, or carry no normalisation that is known.
        """
        check_images(images)
        if self._seen == _BATCHES:
            return
        if self._seen == 0:
            self._known = share(lambda: self._decide(images), images.device)
        else:
            self._known = self._decide(images)
        self._seen += 1

    def _decide(self, images: Tensor) -> Normalization:
        """What holds from this batch on; warns where that is news."""
        known = self._known
        if not images.is_floating_point():
            return known or self._tell(
                from_batch(images), "mean and std were not given"
            )
        if known and self._fixed:
            known.check(images.shape[1])
        values = channel_ranges(images)
        if not all(math.isfinite(value) for pair in values for value in pair):
            return known or Normalization(source="the first batch is not finite")
        # A first batch that was refused before is forgotten.
        self._values = _union(self._values if self._seen else [], values)
        if known and self._fixed:
            self._question(known)
            return known
        taken = self._choose()
        if known is None:
            return self._tell(taken, "mean and std were not given")
        if (taken.mean, taken.std) != (known.mean, known.std):
            return self._tell(taken, self._reason(known, ends(values)))
        self._question(known)
        return known

    def _choose(self) -> Normalization:
        """The configuration's normalisation if the values so far can carry it."""
        ours, values = self._configured, self._values
        if ours and not ours.suits(len(values)):
            ours = None
        if ours and plain(values) == ours.none and self._carried(ours):
            return ours
        guessed = self._known if self._known != self._configured else None
        if guessed and self._carried(guessed):
            return guessed
        found = fitting(values) or ours
        if guessed and not found and len(values) != 3:
            # No preset is known for so many channels: a later batch ends no run.
            return guessed
        return found or from_range(values)

    def _carried(self, known: Normalization) -> bool:
        """Whether all values so far go with it."""
        if known.none:
            return plain(self._values)
        return known.holds(self._values, _CLEARLY)

    def _reason(self, known: Normalization, seen: tuple[float, float]) -> str:
        """Why what was taken so far cannot hold."""
        which = "the first batch" if self._seen == 0 else f"batch {self._seen + 1}"
        raw = " (raw [0, 1] pixels, it seems)" if plain(self._values) else ""
        return (
            f"{which}, of {len(self._values)} channels with values from {seen[0]:.4g} "
            f"to {seen[1]:.4g}{raw}, cannot carry {known}"
        )

    def _tell(self, taken: Normalization, reason: str) -> Normalization:
        logger.warning(
            "%s; normalisation taken: %s. Give mean= and std= if the images carry "
            "another",
            reason,
            taken,
        )
        if self._clips and self._values:
            self._question(taken)
        # Of what exceeds every preset the message says so.
        self._told = bool(self._values) and not self._carried(taken)
        return taken

    def _question(self, known: Normalization) -> None:
        """Warns, once, of values that what stays cannot carry."""
        low, high = ends(self._values)
        given_none = known.none and self._fixed
        if self._told:
            return
        if self._clips:
            self._warn_of_clipping(known)
        elif given_none and low >= 0 and high > 20:
            self._told = True
            logger.warning(
                "images with values from %.4g to %.4g came with mean=0, std=1: they "
                "stay unclipped, but brightness changes in units of [0, 1] pixels are "
                "next to nothing there; divide the images by 255, or pass them as "
                "uint8",
                low,
                high,
            )
        elif not given_none and not self._carried(known):
            self._told = True
            logger.warning(
                "images with values from %.4g to %.4g do not carry %s: in its pixels "
                "they lie from %.4g to %.4g, outside [0, 1]. It is kept, and views are "
                "clipped to the range of each batch instead; give the mean= and std= "
                "that the images carry (mean=0.0, std=1.0: none)",
                low,
                high,
                known,
                *known.pixels(self._values),
            )

    def _warn_of_clipping(self, known: Normalization) -> None:
        """Warns, once, of values that a scheme on [0, 1] pixels takes away."""
        if self._carried(known):
            return
        self._told = True
        logger.warning(
            "images with values from %.4g to %.4g lie from %.4g to %.4g in the pixels "
            "of the normalisation %s, and the scheme clips its views to [0, 1]: what "
            "lies outside is lost; give the mean= and std= that the images carry, or "
            "take a Scheme, which clips to the range of each batch",
            *ends(self._values),
            *known.pixels(self._values),
            known,
        )


def _union(first: Range, second: Range) -> list[tuple[float, float]]:
    """What holds both; the second alone if the number of channels is another."""
    if len(first) != len(second):
        return list(second)
    return [
        (min(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True)
    ]
