"""Time and memory of scores and of all measures, beside the bare forward passes.

python benchmarks/scores.py --output benchmarks/results
"""

import argparse
import resource
import sys
from pathlib import Path

import timing
import torch

import dai_plugin

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
import models

TRANSFORMS = 5
BATCH = 128


def case(images: int, device: torch.device, rounds: int) -> dict:
    """Scores of that many images of 32 x 32, All-CNN at quarter width."""
    model = models.build("allcnn", num_classes=10, width=0.25).to(device).eval()
    data = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (images,))
    labelled = list(zip(data.split(BATCH), labels.split(BATCH), strict=True))
    ready = data[:BATCH].to(device).float().div(255)
    batches = -(-images // BATCH)

    @torch.no_grad()
    def bare() -> None:
        # One pass for the moments, one for the clean images, one a transformation.
        for _ in range(batches * (2 + TRANSFORMS)):
            model(ready)

    def scores() -> None:
        dai_plugin.invariance_scores(
            model, data, num_transforms=TRANSFORMS, mean=0.0, std=1.0
        )

    def measures() -> None:
        dai_plugin.measure(
            model, labelled, num_transforms=TRANSFORMS, mean=0.0, std=1.0
        )

    arms = {
        "bare forward passes": bare,
        "invariance_scores": scores,
        "measure": measures,
    }
    warmup = int(images < 5000)  # a long round needs none
    seconds = timing.compare(arms, "bare forward passes", device, rounds, warmup=warmup)
    return {
        "images": images,
        "reference": "bare forward passes",
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """A part, then everything: time grows with the images, memory does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results", type=Path)
    parser.add_argument("--images", default=[1280, 10240], nargs="+", type=int)
    parser.add_argument("--rounds", default=[9, 5], nargs="+", type=int)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    cases = [
        case(images, device, rounds)
        for images, rounds in zip(args.images, args.rounds, strict=True)
    ]
    print(timing.write(args.output, "scores", device, cases))


if __name__ == "__main__":
    main()
