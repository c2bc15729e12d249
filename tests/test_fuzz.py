"""Random networks in random loops train the literal objective, or are refused.

`python tests/test_fuzz.py SEED ...` runs these cases and tells what they consist of.
"""

import sys
from collections import Counter

import pytest
import torch
from fuzz.cases import run_case
from fuzz.plans import draw_plan

CASES, CHUNK = 200, 20
MORE_CASES, MORE_CHUNK = 5000, 250


def run(seeds):
    """Runs cases, all of them, and fails with all their faults."""
    torch.set_num_threads(1)
    faults, ends = [], Counter()
    for seed in seeds:
        try:
            ends[run_case(seed)] += 1
        except AssertionError as error:
            faults.append(str(error))
    if faults:
        told = "\n\n".join([f"{len(faults)} of {len(seeds)} cases", *faults])
        pytest.fail(told, pytrace=False)
    return ends


@pytest.mark.parametrize("start", range(0, CASES, CHUNK))
def test_random_cases(start):
    """Loss, gradients, rows and outputs of 200 cases are those of the formulas."""
    ends = run(range(start, start + CHUNK))
    assert ends["right"] > CHUNK // 3, f"most cases are refused: {ends}"


@pytest.mark.all
@pytest.mark.parametrize("start", range(CASES, CASES + MORE_CASES, MORE_CHUNK))
def test_more_random_cases(start):
    """And those of 5,000 more."""
    run(range(start, start + MORE_CHUNK))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(draw_plan(int(argument)))
        print("=>", run_case(int(argument)))
