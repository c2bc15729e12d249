"""Colours that readers of all kinds of sight can tell apart, and marks beside them."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sight import SIGHTS, ciede2000, lab

from dai_plugin.report.colours import COLOURS, MAP, MARKS, in_order, look

# Pairs of Sharma, Wu and Dalal's table 1 with their differences: hues on both sides of
# 0, greys, lightness, blues.
PUBLISHED = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
]


@pytest.mark.parametrize(("one", "other", "apart"), PUBLISHED)
def test_the_formula_agrees_with_its_published_data(one, other, apart):
    assert ciede2000(one, other) == pytest.approx(apart, abs=5e-5)


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_nearest_two_colours_of_eight_runs_are_15_apart(sight):
    """In CIEDE2000, for each kind of sight; 10 from the paper's white."""
    seen = lab([to_rgb(colour) for colour in COLOURS], sight)
    assert len(seen) == 8
    assert min(ciede2000(a, b) for a, b in combinations(seen, 2)) >= 15
    assert min(ciede2000(a, (100, 0, 0)) for a in seen) >= 10


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_map_grows_lighter_from_end_to_end(sight):
    colours = matplotlib.colormaps[MAP](np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(lab(colours, sight)[:, 0]) > 0).all()
    assert (np.diff(lab([c[:3] for c in in_order(54)], sight)[:, 0]) > 0).all()


def test_runs_differ_in_colour_and_mark():
    """Each of eight in both; each of 64 in one of them."""
    looks = [look(i) for i in range(64)]
    assert len(set(looks)) == 64
    assert len(set(MARKS)) == len(COLOURS) == len({c for c, _ in looks[:8]}) == 8
    assert len({mark for _, mark in looks[:8]}) == 8
