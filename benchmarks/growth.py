"""Cost of the invariance loss against rows, features and layers: it grows linearly.

python benchmarks/growth.py --output benchmarks/results --plot docs/growth.png
"""

import argparse
import statistics
from pathlib import Path

import timing
import torch

from dai_plugin import invariance_loss

VIEWS = 8
BASE = {"rows": 64, "features": 16384, "layers": 2}
FACTORS = (1, 2, 3, 4, 6, 8)


def case(axis: str, device: torch.device, rounds: int) -> dict:
    """Forward and backward for multiples of the base along one axis."""
    arms = {}
    for factor in FACTORS:
        size = BASE | {axis: BASE[axis] * factor}
        layers = [
            torch.randn(
                size["rows"], size["features"], device=device, requires_grad=True
            )
            for _ in range(size["layers"])
        ]
        arms[str(size[axis])] = Losses(layers)
    reference = str(BASE[axis])
    seconds = timing.compare(arms, reference, device, rounds, warmup=3)
    seconds.pop(timing.AGAIN)
    return {"axis": axis, "base": BASE, "reference": reference, "seconds": seconds}


class Losses:
    """Loss and gradient at some layers."""

    def __init__(self, layers: list[torch.Tensor]) -> None:
        self.layers = layers

    def __call__(self) -> None:
        """Forward and backward."""
        total = sum(invariance_loss(layer, VIEWS) for layer in self.layers)
        torch.autograd.grad(total, self.layers)


def plot(cases: list[dict], place: Path) -> None:
    """Milliseconds against size, and the line from the origin to the last point."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure, axes = pyplot.subplots(1, len(cases), figsize=(10, 3.2), sharey=True)
    for axis, each in zip(axes, cases, strict=True):
        sizes = [int(size) for size in each["seconds"]]
        times = [1e3 * statistics.median(s) for s in each["seconds"].values()]
        axis.plot([0, sizes[-1]], [0, times[-1]], color="0.7", zorder=1)
        axis.scatter(sizes, times, color="#b5364c", zorder=2)
        others = ", ".join(
            f"{value:,} {name}"
            for name, value in each["base"].items()
            if name != each["axis"]
        )
        axis.set(xlabel=f"{each['axis']} ({others})", xlim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[0].set_ylim(0, None)
    axes[0].set_ylabel("forward and backward, ms")
    figure.tight_layout()
    figure.savefig(place, dpi=150)


def main() -> None:
    """Writes the results, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rounds", default=15, type=int)
    args = parser.parse_args()
    device = torch.device(args.device)
    cases = [case(axis, device, args.rounds) for axis in BASE]
    print(timing.write(args.output, "growth", device, cases))
    if args.plot:
        plot(cases, args.plot)


if __name__ == "__main__":
    main()
