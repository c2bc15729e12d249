"""Time of each corruption, in batches, beside an independent package image by image.

python benchmarks/corruptions.py     # needs --group integrations
"""

import argparse
import statistics
import time
from collections.abc import Callable

import imagecorruptions
import timing
import torch
from torch import Tensor

from dai_plugin.measures.constants import EXTRA_NAMES, NAMES
from dai_plugin.measures.corruptions import corrupt

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
OURS, OTHER = "dai_plugin", "imagecorruptions"


def photographs(count: int, side: int) -> Tensor:
    """Smooth images in whole grey levels."""
    coarse = torch.rand(count, 3, 8, 8)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return (images.clamp(0, 1) * 255).round() / 255


def arms(
    images: Tensor, name: str, severity: int, device: torch.device, clock: Clock
) -> dict[str, Callable[[], float]]:
    """The same images, with the constants of ImageNet-C; a sixteenth for the other.

    Each arm returns the seconds of the clock that it took.
    """
    ours, seeds = images.to(device), range(len(images))
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()

    def batch() -> float:
        start = clock()
        corrupt(ours, name, severity, seeds, constants="imagenet")
        timing.synchronize(device)
        return clock() - start

    def one_by_one() -> float:
        start = clock()
        for image in arrays[: -(-len(arrays) // 16)]:
            imagecorruptions.corrupt(image, severity, name)
        return clock() - start

    return {OURS: batch, OTHER: one_by_one}


def main() -> None:
    """Prints milliseconds an image, and how many times as fast the batch is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", default=224, type=int)
    parser.add_argument("--images", default=16, type=int)
    parser.add_argument("--severity", default=3, type=int)
    parser.add_argument("--rounds", default=7, type=int)
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    args = parser.parse_args()
    device, images = torch.device(args.device), photographs(args.images, args.side)
    print(timing.machine(device))
    print(f"| corruption | {OURS}, ms | {OTHER}, ms | times as fast |")
    print("|---|---:|---:|---:|")
    took = {}
    for name in (*NAMES, *EXTRA_NAMES):
        pair = arms(images, name, args.severity, device, CLOCKS[args.clock])
        seconds = timing.compare(pair, OURS, device, args.rounds, warmup=2)
        counts = {OURS: len(images), OTHER: -(-len(images) // 16)}
        took[name] = [
            1e3 * statistics.median(seconds[arm]) / count
            for arm, count in counts.items()
        ]
        show(name, *took[name])
    both = zip(*(took[name] for name in NAMES), strict=True)
    show(f"the {len(NAMES)} of the benchmark", *map(sum, both))


def show(name: str, ours: float, other: float) -> None:
    """A row of the table."""
    print(f"| {name} | {ours:.3f} | {other:.3f} | {other / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
