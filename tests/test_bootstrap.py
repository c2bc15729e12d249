"""Intervals agree with the theory of means, and depend on nothing but the seed."""

import math

import numpy as np
import pytest

from dai_plugin.report.bootstrap import (
    difference,
    difference_of_means,
    interval,
    spread,
    student,
)


@pytest.mark.parametrize("seed", range(4))
def test_intervals_of_many_images_are_those_of_the_normal_distribution(seed):
    """Mean plus and minus 1.96 standard errors."""
    draw = np.random.default_rng(seed)
    values = draw.random((2000, 3)) < (0.2, 0.5, 0.9)
    mean, low, high = interval(values)
    error = values.std(0) / math.sqrt(2000)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(low, mean - 1.96 * error, atol=0.35 * error.max())
    np.testing.assert_allclose(high, mean + 1.96 * error, atol=0.35 * error.max())


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    """Of 200 samples about nine in ten, at that level."""
    draw = np.random.default_rng(0)
    held = [low <= 1 <= high for low, high in (
        interval(draw.exponential(size=80), level=0.9, seed=i)[1:] for i in range(200)
    )]  # fmt: skip
    assert 0.82 <= np.mean(held) <= 0.95


def test_columns_share_their_draws_and_nan_is_left_out():
    """A column alone gives what it gives among others; NaN as if it were not there."""
    draw = np.random.default_rng(1)
    values = draw.normal(size=(50, 4))
    values[::3, 1] = np.nan
    values[:, 2] = np.nan
    together = interval(values, seed=5)
    for k in range(4):
        alone = interval(values[:, k], seed=5)
        np.testing.assert_allclose(np.array(together)[:, k], np.array(alone))
    assert np.isnan(np.array(together)[:, 2]).all()
    np.testing.assert_allclose(together[0][1], np.nanmean(values[:, 1]))
    assert np.isnan(np.array(interval(np.zeros(0)))).all()


def test_equal_seeds_give_equal_intervals():
    """And others others."""
    values = np.random.default_rng(2).normal(size=60)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_differences_are_paired():
    """What images share leaves no trace: the interval is that of the differences."""
    draw = np.random.default_rng(3)
    hard, gain = draw.normal(size=(400, 1)), draw.normal(0.1, 0.05, (400, 2))
    mean, low, high = difference(hard + gain, np.repeat(hard, 2, 1))
    np.testing.assert_allclose(mean, gain.mean(0))
    np.testing.assert_allclose(high - low, 2 * 1.96 * 0.05 / 20, rtol=0.2)
    alone = interval(hard + gain)
    assert (alone[2] - alone[1] > 5 * (high - low)).all()


def test_differences_of_other_shapes_are_refused():
    """Both sizes are named."""
    with pytest.raises(ValueError, match=r"same images.*\[5\] and \[4\]; measure"):
        difference(np.zeros(5), np.zeros(4))


@pytest.mark.parametrize(("many", "others"), [(2, 2), (3, 3), (5, 4)])
def test_differences_of_few_seeds_hold_the_truth_as_often_as_they_say(many, others):
    """Two draws of a network differ by chance: 95 in 100 intervals hold the truth."""
    draw = np.random.default_rng(many)
    one, other = draw.normal(1, 1, (many, 1000)), draw.normal(3, 2, (others, 1000))
    mean, low, high = difference_of_means(one, other)
    np.testing.assert_allclose(mean, one.mean(0) - other.mean(0))
    # Welch's degrees of freedom are estimated: nearly 95.
    assert 0.925 <= ((low <= -2) & (high >= -2)).mean() <= 0.985


def test_students_distribution_is_that_of_its_tables():
    """Published quantiles (two-sided 95 and 99 %), and the normal one in the limit."""
    freedom = np.array([1, 2, 4, 10, 100, 1e5])
    half = student(freedom, 0.95)
    np.testing.assert_allclose(
        half, [12.706, 4.303, 2.776, 2.228, 1.984, 1.960], atol=2e-3
    )
    np.testing.assert_allclose(
        student(freedom[:3], 0.99), [63.657, 9.925, 4.604], atol=2e-3
    )


def test_seeds_spread_by_their_deviation():
    """NaN of one is NaN: the others are not so many seeds."""
    mean, low, high = spread(np.array([[1.0, 2], [2, np.nan], [6, 4]]))
    deviation = math.sqrt((4 + 1 + 9) / 2)
    assert (mean[0], high[0] - 3, 3 - low[0]) == pytest.approx(
        (3, deviation, deviation)
    )
    assert np.isnan([mean[1], low[1], high[1]]).all()
