"""Intervals agree with the theory of means, and depend on nothing but the seed."""

import math

import numpy as np
import pytest

from dai_plugin.report.bootstrap import difference, difference_of_means, interval


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


def test_differences_of_seeds_add_their_variances():
    """Rows of both sides are drawn on their own."""
    draw = np.random.default_rng(4)
    one, other = draw.normal(2, 3, 400), draw.normal(1, 4, 900)
    mean, low, high = difference_of_means(one, other)
    assert mean == pytest.approx(one.mean() - other.mean())
    error = math.sqrt(one.var() / 400 + other.var() / 900)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.2)
