"""What single features of a layer do: all statistics of a sample of them.

Variances, firing rates and the spectrum need memory in features, or their square.
They are taken of at most so many features of each layer, drawn once: exact for these, a
sample of the layer, flat in the number of images.
"""

import math

import torch
from torch import Tensor

# Goodfellow et al. choose the thresholds so that a unit fires on so many of all inputs,
# and take the mean of the units that come first.
FIRING_RATE, BEST_UNITS = 0.01, 0.2
_THRESHOLD_ROWS = 4096
_ROUNDING = 1e-6  # of float32, after some layers


def choose(features: int, most: int, seed: int) -> Tensor:
    """Which of the features are looked at: all, or `most` of them, in their order."""
    if features <= most:
        return torch.arange(features)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(features, generator=generator)[:most].sort().values


def rounding(mean: Tensor) -> Tensor:
    """Mean square by which equal activations of a mean `[D]` differ between batches.

    Of all features together: small ones are differences of others that are not.
    """
    return (_ROUNDING * mean.double()).square().mean()


class Thinned:
    """Every s-th of rows that come in batches, at most `most` of them; s is 2^k."""

    def __init__(self, most: int = _THRESHOLD_ROWS) -> None:
        self.most, self._step, self._count = most, 1, 0
        self._rows: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """Takes `[n, U]` rows."""
        skipped = -self._count % self._step
        self._rows.append(rows[skipped :: self._step])
        self._count += len(rows)
        while -(-self._count // self._step) > self.most:
            self._rows = [torch.cat(self._rows)[::2]]
            self._step *= 2

    def rows(self) -> Tensor:
        """Those that were kept, in their order."""
        return torch.cat(self._rows)


def thresholds(sample: Tensor) -> tuple[Tensor, Tensor]:
    """What 1 in 100 rows `[n, U]` exceeds, and what as many fall below, `[U]` each."""
    count = len(sample)
    rank = max(1, round(FIRING_RATE * count))
    ordered: Tensor = sample.sort(0).values
    at = min(rank, count - 1)
    differ = (ordered[-1] - ordered[0]).square() > rounding(sample.mean(0))
    # What is the same for all images never fires.
    above = ordered[count - 1 - at].where(differ, torch.inf)
    return above, ordered[at].where(differ, -torch.inf)


class Firing:
    """How much more often a unit fires on versions of what it fires on (Goodfellow).

    A unit fires where it is above the threshold that 1 in 100 images exceeds, or, with
    its sign changed, below the one that 1 in 100 falls below.
    """

    def __init__(self, above: Tensor, below: Tensor) -> None:
        self._above, self._below = above, below
        self._fired, self._again = torch.zeros(
            (2, 2, len(above)), dtype=torch.float64, device=above.device
        )
        self._images = self._versions = 0

    def update(self, versions: Tensor) -> None:
        """Takes `[1 + T, B, U]` activations, those of the images first."""
        self._images += versions.shape[1]
        self._versions = len(versions) - 1
        for sign, fires in enumerate((versions > self._above, versions < self._below)):
            self._fired[sign] += fires[0].sum(0)
            self._again[sign] += (fires[1:] & fires[0]).sum((0, 1))

    def value(self) -> Tensor:
        """Mean over the best units of local by global firing rate."""
        everywhere = self._fired / self._images
        nearby = self._again / (self._fired * self._versions)
        scores = (nearby / everywhere).nan_to_num(-1.0).amax(0)
        scores = scores[scores >= 0].sort(descending=True).values
        best = scores[: math.ceil(BEST_UNITS * len(scores))]
        return best.mean()  # NaN of none


class NormalizedVariance:
    """Variance over the versions of an image, by variance over images (Quiroga)."""

    def __init__(self, mean: Tensor) -> None:
        self._mean = mean
        self._inside = torch.zeros_like(mean, dtype=torch.float64)
        self._sums: Tensor | None = None
        self._images = 0

    def update(self, versions: Tensor) -> None:
        """Takes `[1 + T, B, U]` activations."""
        self._images += versions.shape[1]
        away = versions - versions.mean(0)
        self._inside += away.square().mean(0).sum(0)
        centred = versions - self._mean
        sums = torch.stack([centred.sum(1), centred.square().sum(1)]).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def value(self) -> Tensor:
        """Mean over the units that differ between images."""
        assert self._sums is not None
        first, second = self._sums / self._images
        between = (second - first.square()).mean(0)
        ratio: Tensor = self._inside / self._images / between
        return ratio[between > rounding(self._mean)].mean()


class Spectrum:
    """Variances along the principal components, from the units' covariance."""

    def __init__(self, mean: Tensor) -> None:
        shape = (len(mean), len(mean))
        self._squares = torch.zeros(shape, dtype=torch.float64, device=mean.device)
        self._least = len(mean) * rounding(mean)
        self._images = 0

    def update(self, centred: Tensor) -> None:
        """Takes `[B, U]` activations less their mean, in float64."""
        self._squares += centred.T @ centred
        self._images += len(centred)

    def values(self) -> tuple[Tensor, Tensor]:
        """Share of the first component, and the effective rank (Roy & Vetterli).

        The rank is the exponential of the entropy of the singular values. NaN of
        activations that are all the same, or not finite.
        """
        differ = self._squares.trace() > self._images * self._least
        if not (differ and self._squares.isfinite().all()):
            return torch.tensor(torch.nan), torch.tensor(torch.nan)
        variances = torch.linalg.eigvalsh(self._squares.cpu())
        # What is no more than rounding counts for nothing.
        least = variances[-1] * len(variances) * torch.finfo(torch.float64).eps
        variances = torch.where(variances > least, variances, 0.0)
        spread = variances.sqrt()
        part = spread / spread.sum()
        rank = torch.special.entr(part).sum().exp()
        return variances[-1] / variances.sum(), rank
