"""Poisson counts beside scipy's: for small and large means, levels and in between."""

import numpy as np
import pytest
import torch

from dai_plugin.measures.constants import CONSTANTS
from dai_plugin.measures.corruptions import corrupt
from dai_plugin.measures.counts import poisson_counts

stats = pytest.importorskip("scipy.stats", reason="needs --extra reference")

PHOTONS = sorted({n for of in CONSTANTS for n in CONSTANTS[of]["shot_noise"]})


@pytest.mark.parametrize("photons", PHOTONS)
def test_counts_invert_the_distribution_function(photons):
    """At every level; numbers at the ends of what a single can be among them."""
    torch.manual_seed(photons)
    uniform = torch.rand(1000, 256)
    uniform[0], uniform[1] = 0, 1 - 2**-24
    levels = torch.arange(256.0).expand(1000, -1)
    counts = poisson_counts(uniform, levels, photons).numpy()
    exact = stats.poisson.ppf(
        uniform.double().numpy() + 2**-25, photons * levels.double().numpy() / 255
    )
    assert (counts != exact).mean() < 1e-4
    assert np.abs(counts - exact).max() <= 1


@pytest.mark.parametrize("photons", PHOTONS)
@pytest.mark.parametrize("level", [0.0, 0.1, 0.3 / 255, 0.5, 101 / 255, 1.0])
def test_photons_are_distributed_as_poissons(level, photons):
    """By the chi-squared test, before what is above 1 is cut off."""
    of = next(of for of in CONSTANTS if photons in CONSTANTS[of]["shot_noise"])
    severity = 1 + CONSTANTS[of]["shot_noise"].index(photons)
    images = torch.full((4, 3, 128, 128), level)
    noisy = corrupt(images, "shot_noise", severity, range(4), constants=of)
    counts = (noisy.double() * photons).round().long().flatten()
    found = counts.bincount(minlength=photons + 1).numpy().astype(float)
    expected = stats.poisson.pmf(np.arange(photons + 1), level * photons)
    expected[-1] += 1 - expected.sum()
    expected *= len(counts)
    # Counts too rare for the test are taken together.
    rare = expected < 8
    bins = [np.append(x[~rare], x[rare].sum()) for x in (found, expected)]
    keep = bins[1] > 1
    statistic = ((bins[0] - bins[1]) ** 2 / bins[1].clip(1))[keep].sum()
    assert stats.chi2.sf(statistic, max(keep.sum() - 1, 1)) > 1e-4
    assert bins[0][~keep].sum() <= 8


def test_an_image_between_grey_levels_changes_no_other():
    """It takes more random numbers, from its own stream."""
    torch.manual_seed(0)
    images = (torch.rand(3, 3, 20, 20) * 255).round() / 255
    others = images.clone()
    others[1] = torch.rand(3, 20, 20)
    first, second = (
        corrupt(x, "shot_noise", 2, range(3), constants="imagenet")
        for x in (images, others)
    )
    assert torch.equal(first[::2], second[::2])
    assert not torch.equal(first[1], second[1])
