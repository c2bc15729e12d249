"""Tables of the terminal: columns apart, numbers right, nothing cut."""

import random
import re

import pytest

from dai_plugin.cli.tables import table


def drawn(seed):
    """A table of random names and numbers."""
    draw = random.Random(seed)
    head = ["layer"] + ["m" * draw.randint(1, 40) for _ in range(draw.randint(1, 9))]
    rows = [
        ["l" * draw.randint(1, 60), *(draw.uniform(-1e6, 1e6) for _ in head[1:])]
        for _ in range(draw.randint(1, 6))
    ]
    return head, rows


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [None, 20, 80])
def test_every_cell_is_there_and_apart_from_the_next(seed, width):
    """Whatever the names are, and however narrow the terminal is."""
    head, rows = drawn(seed)
    parts = table(head, rows, width).split("\n\n")
    found = []
    for part in parts:
        lines = [re.split(r" {2,}", line.strip()) for line in part.splitlines()]
        assert [line[0] for line in lines] == [head[0], *(row[0] for row in rows)]
        assert len({len(line) for line in lines}) == 1
        found += [list(column) for column in zip(*lines, strict=True)][1:]
        widest = max(map(len, part.splitlines()))
        assert width is None or widest <= width or len(lines[0]) == 2
    columns = zip(
        head[1:], *([f"{v:.3f}" for v in row[1:]] for row in rows), strict=True
    )
    assert found == [list(column) for column in columns]


def test_what_is_no_number_is_a_dash():
    """NaN and None; a name that would break lines is spelt out."""
    shown = table(["a", "b"], [["x\ny", float("nan")], ["z", None]])
    assert shown.splitlines() == ["a       b", "'x\\ny'  -", "z       -"]
