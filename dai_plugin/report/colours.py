"""What tells runs apart: colours that colour-blind readers can tell, and marks.

The nearest two of the colours are at least 15 apart in CIEDE2000 for normal sight and
for protanopia, deuteranopia and tritanopia as Machado, Oliveira and Fernandes simulate
them (A physiologically-based model for simulation of color vision deficiency, 2009).
"""

from collections.abc import Sequence

import matplotlib
import numpy as np

COLOURS = (
    *("#306bb2", "#e68726", "#4bd2c3", "#5a1e4b"),
    *("#a596ff", "#5a6900", "#965a69", "#1e3c1e"),
)
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
# Lightness grows from end to end for every kind of sight.
MAP = "viridis"
_LIGHTEST = 0.92  # of the map, on white paper


def look(i: int) -> tuple[str, str]:
    """Colour and mark of the i-th run; from the ninth on, colours come again."""
    around = i // len(COLOURS)
    return COLOURS[i % len(COLOURS)], MARKS[(i + around) % len(MARKS)]


def in_order(count: int) -> Sequence[tuple[float, float, float, float]]:
    """Colours of things in an order, from dark to light."""
    return [
        tuple(colour)
        for colour in matplotlib.colormaps[MAP](
            np.linspace(0, _LIGHTEST, max(count, 1))
        )
    ]
