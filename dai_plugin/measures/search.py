"""The search for the strongest candidate of each image, and what strength is."""

import hashlib
import logging
from typing import Literal

import torch
from torch import Tensor, nn

from dai_plugin.measures.adversary import check_labels, usable_pixels
from dai_plugin.measures.versions import Unfit
from dai_plugin.views.expand import mix_seed

logger = logging.getLogger("dai_plugin")

Loss = Literal["ce", "margin"]


def strength(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """How far a network is from the labels, `[B]`: more is better for the attack.

    "margin" is the highest other logit minus the label's (arXiv:1608.04644, eq. 6).
    "ce" is the log of the odds against the label, `logsumexp of the others - its own`.
    Cross-entropy is `log(1 + exp(odds))`: it grows with them, and its gradient is
    theirs but for one positive factor an image. This factor is 0 in floating point
    where a network is sure of itself; the odds' gradient never is.

    Args:
        logits: `[B, K]`.
        labels: classes `[B]`.
        loss: "ce" or "margin".
    """
    column = labels[:, None]
    others = logits.scatter(1, column, -torch.inf)
    rival = others.logsumexp(1) if loss == "ce" else others.amax(1)
    return rival - logits.gather(1, column)[:, 0]


def image_seeds(images: Tensor, *numbers: int) -> list[int]:
    """One seed an image, from its grey levels alone and further numbers.

    So what is drawn for an image depends neither on its place in the data nor on the
    batch it comes in.

    Args:
        images: `[B, C, H, W]` pixels in [0, 1].
        numbers: of the run, the restart, and so on.
    """
    levels = (images.detach() * 255).round().to("cpu", torch.uint8)
    hashes = (hashlib.blake2b(i.numpy().tobytes(), digest_size=8) for i in levels)
    return [
        mix_seed(int.from_bytes(found.digest(), "little"), *numbers) for found in hashes
    ]


class Search:
    """Keeps the strongest candidate for each image.

    That is the first that the network takes for another class, else the one of the
    highest loss. Images that it takes for another class are searched no further, which
    changes nothing in what is kept.

    Args:
        model: from [0, 1] pixels to logits `[B, K]`.
        images: `[B, C, H, W]` pixels, themselves no candidates yet.
        labels: integer classes `[B]`.
        loss: by which candidates are compared, and climbed.

    Attributes:
        found: the strongest candidates, `[B, C, H, W]`.
        open: numbers of the images that are searched further.

    Raises:
        ValueError: images or labels do not fit.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, loss: Loss = "ce"
    ) -> None:
        check_labels(labels, len(images))
        self.model, self.loss = model, loss
        # Clones, because what was made in inference mode can be no part of a graph.
        self.images = usable_pixels(images).clone()
        self.labels = labels.to(images.device, torch.long, copy=True)
        self.found = self.images.clone()
        self.open = torch.arange(len(images), device=images.device)
        self._highest = torch.full_like(self.found[:, 0, 0, 0], -torch.inf)
        self._flat = torch.ones_like(self.open, dtype=torch.bool)

    @property
    def pending(self) -> Tensor:
        """The images that are searched further."""
        return self.images[self.open]

    def offer(self, candidates: Tensor) -> None:
        """Takes a candidate for each pending image."""
        with torch.no_grad():
            self._take(candidates, self._logits(candidates))

    def climb(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """As `offer`; those that are pending still, and the loss's gradient there."""
        points = candidates.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._logits(points)
            total = strength(logits, self.labels[self.open], self.loss).sum()
            gradient = _gradient(total, points)
        self._flat[self.open] &= ~gradient.flatten(1).any(1)
        still = self._take(points.detach(), logits.detach())
        return points.detach()[still], gradient[still]

    def warn_of_flatness(self) -> None:
        """Warns of images that no gradient led anywhere."""
        flat = int(self._flat[self.open].sum())
        if flat:
            logger.warning(
                "the gradient was 0 at every step for %d of %d images, which therefore "
                "count as not fooled: the network masks its gradients, and accuracy "
                "under this attack says nothing of them; take an attack without "
                "gradients (WorstOf, Grid), or the network before it was quantised",
                flat,
                len(self.images),
            )

    def _logits(self, points: Tensor) -> Tensor:
        return _usable(self.model(points), self.labels[self.open])

    def _take(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Which of the pending images stay so, bool."""
        labels = self.labels[self.open]
        losses = strength(logits, labels, self.loss).to(self._highest.dtype)
        fooled = logits.argmax(1) != labels
        better = fooled | (losses > self._highest[self.open])
        rows = self.open[better]
        self.found[rows] = candidates[better].to(self.found.dtype)
        self._highest[rows] = losses[better]
        self.open = self.open[~fooled]
        return ~fooled


def check_counts(**counts: int) -> None:
    """Raises if a number of tries is below 1.

    Raises:
        ValueError: so it is.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def _usable(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits `[B, K]` in float32 at least, if that is what they are.

    Raises:
        ValueError: so it is not, they are NaN, or a label is none of the K classes.
    """
    fits = isinstance(logits, Tensor) and logits.dim() == 2
    if not fits or len(logits) != len(labels) or logits.shape[1] < 2:
        got = (
            list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise ValueError(
            f"the network returned {got} for {len(labels)} images: attacks take logits "
            f"[{len(labels)}, K] of 2 classes or more; wrap the network in a module "
            "that returns them alone"
        )
    classes = logits.shape[1]
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels from {low} to {high} for a network of {classes} classes: they "
            f"must lie from 0 to {classes - 1}; leave out images of other labels"
        )
    if logits.isnan().any():
        raise ValueError(
            "the network returned NaN for pixels in [0, 1]: no class can be told"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _gradient(total: Tensor, points: Tensor) -> Tensor:
    """The gradient at the points, 0 where it is NaN, the largest number if infinite.

    Parameters get none.

    Raises:
        Unfit: the total does not depend on the points as far as autograd sees.
    """
    found = None
    if total.requires_grad:
        (found,) = torch.autograd.grad(total, points, allow_unused=True)
    if found is None:
        raise Unfit(
            "no gradient reaches the images from what the network returns (no_grad, "
            "detach, argmax or numpy inside?): gradient attacks need one; take WorstOf "
            "or Grid, which need none"
        )
    return found.nan_to_num(0.0)
