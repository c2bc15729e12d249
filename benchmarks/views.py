"""Time of making views: the heavier scheme on ready rows, beside the alternatives.

python benchmarks/views.py --output benchmarks/results
"""

import argparse
from pathlib import Path

import rivals
import timing
import torch

from dai_plugin import Scheme
from dai_plugin.views.expand import expand
from dai_plugin.views.normalization import Normalization

KNOWN = Normalization.given(0.0, 1.0)


def case(
    rows: int, side: int, device: torch.device, compiled: bool, rounds: int
) -> dict:
    """Every arm makes `rows` transformed images of `side` x `side` pixels."""
    images = torch.rand(rows // 8, 3, side, side, device=device)
    batch = images.repeat(8, 1, 1, 1)
    whole = (images * 255).to(torch.uint8)
    scheme, pipeline = Scheme.heavier(), rivals.kornia_pipeline()
    one_by_one = rivals.torchvision_pipeline()
    seeds = iter(range(10**9))

    def ours(source):
        return expand(
            KNOWN.prepare(source),
            8,
            scheme,
            first_view="augmented",
            normalization=KNOWN,
            seed=next(seeds),
        )

    arms = {
        "dai_plugin": lambda: _drop(ours(images)),
        "dai_plugin, uint8": lambda: _drop(ours(whole)),
        "kornia": lambda: _drop(pipeline(batch)),
        "torchvision, image by image": lambda: _drop(one_by_one(batch)),
    }
    if compiled:
        fast = torch.compile(rivals.kornia_pipeline())
        arms["kornia, compiled"] = lambda: _drop(fast(batch))
    with torch.no_grad():
        seconds = timing.compare(arms, "dai_plugin", device, rounds, warmup=3)
    return {"rows": rows, "side": side, "reference": "dai_plugin", "seconds": seconds}


def _drop(_: object) -> None:
    """Keeps an arm from returning what it made."""


def main() -> None:
    """Writes the results of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results", type=Path)
    parser.add_argument("--rounds", default=31, type=int)
    parser.add_argument("--sides", default=[32, 224], nargs="+", type=int)
    parser.add_argument("--rows", default=[128, 32], nargs="+", type=int)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    cases = [
        case(rows, side, device, not args.no_compile, args.rounds)
        for rows, side in zip(args.rows, args.sides, strict=True)
    ]
    print(timing.write(args.output, "views", device, cases))


if __name__ == "__main__":
    main()
