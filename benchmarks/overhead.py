"""Time and memory of a training step: plain, with the method, with the alternatives.

python benchmarks/overhead.py --output benchmarks/results
python benchmarks/overhead.py --device cuda --output benchmarks/results

All arms run the same network on the same rows in one process, interleaved; "plain" is
the step without views and without an invariance loss.
"""

import argparse
import dataclasses
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timing
import torch
from steps import ARMS, Setting, Step, saved_mib

sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
import models

PAIR = ["plain", "invariance loss"]
FEW = ["plain", "invariance loss", "bandwidth floor", "views", "method"]
COMPILED = ["plain", "invariance loss", "views", "method"]
# Beside the plain step with the same images, a view of each.
SPENT = ["plain", "M = 2", "M = 2, every=4", "M = 2, share=.25"]
EVERY = 4
STAGES = ["layer1", "layer2", "layer3", "layer4"]


def networks(device: torch.device) -> dict[str, tuple[Setting, list[str]]]:
    """What is measured, and with which arms."""

    def setting(name: str, images: int, views: int, side: int, width: float = 1.0):
        options = models.arguments(name, 10, width)
        return Setting(
            lambda: models.build(name, **options), images, views, side, device
        )

    every = [arm for arm in ARMS if arm == "plain" or arm not in SPENT]
    if device.type == "cpu":
        return {
            "All-CNN-C": (setting("allcnn", 16, 8, 32), every),
            "All-CNN-C, width 1/4": (setting("allcnn", 16, 8, 32, 0.25), every),
            "WRN-28-10, width 1/10": (setting("wrn28_10", 16, 8, 32, 0.1), FEW),
            "ResNet-50": (setting("resnet50", 8, 2, 224), FEW),
            "All-CNN-C, 128 images": (setting("allcnn", 128, 1, 32), SPENT),
            "ResNet-50, 16 images": (setting("resnet50", 16, 1, 224), SPENT),
        }
    half = {"bf16": True, "channels_last": True}
    big = setting("resnet50", 128, 2, 224)
    settings = {
        "All-CNN-C": (setting("allcnn", 16, 8, 32), every),
        "WRN-28-10": (setting("wrn28_10", 16, 8, 32), every),
        "ResNet-50, 4 stages": (dataclasses.replace(big, layers=STAGES), FEW),
        "ResNet-50": (big, FEW),
        "All-CNN-C, 128 images": (setting("allcnn", 128, 1, 32), SPENT),
        "ResNet-50, 256 images": (setting("resnet50", 256, 1, 224), SPENT),
    }
    return {
        name: (dataclasses.replace(each, **half), arms)
        for name, (each, arms) in settings.items()
    }


def case(
    name: str, setting: Setting, arms: list[str], rounds: int, memory: bool
) -> dict:
    """Seconds of every arm, saved tensors, and peak memory of fresh processes."""
    built = {arm: ARMS[arm](setting) for arm in arms}
    saved = {arm: saved_mib(built[arm]) for arm in PAIR if memory}
    steps = block(built["plain"], setting.device)
    if arms is SPENT:  # whole rounds of steps with and without views
        steps = EVERY * math.ceil(steps / EVERY)
    seconds = timing.compare(built, "plain", setting.device, rounds, steps, warmup=3)
    rows = setting.images * setting.views
    plain = statistics.median(seconds["plain"])
    return {
        "network": name,
        "images": setting.images,
        "views": setting.views,
        "side": setting.side,
        "dtype": "bfloat16" if setting.bf16 else "float32",
        "rows_per_second": rows / plain,
        "reference": "plain",
        "seconds": seconds,
        "saved_mib": saved,
        "peak_mib": {arm: peak(name, arm, setting) for arm in PAIR if memory},
    }


def block(step: Step, device: torch.device) -> int:
    """Steps that take about a second."""
    if device.type != "cpu":
        return 20
    step()
    start = time.perf_counter()
    step()
    return max(round(1 / (time.perf_counter() - start)), 1)


def peak(name: str, arm: str, setting: Setting) -> float:
    """Peak memory of three steps in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--device", str(setting.device)]
    command += ["--peak", name, arm]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def steps_alone(step: Step, device: torch.device) -> float:
    """Runs three steps; peak memory of the device, or of this process, in MiB."""
    for _ in range(3):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not getrusage: its maximum begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Writes the results of all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results", type=Path)
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--only", nargs="+", help="names of networks")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    chosen = networks(device)
    if args.peak:
        name, arm = args.peak
        print(steps_alone(ARMS[arm](chosen[name][0]), device))
        return
    torch.backends.cudnn.benchmark = True
    # The arms' networks are of one class and differ in their hooks alone.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    cases = []
    for name, (setting, arms) in chosen.items():
        if args.only and name not in args.only:
            continue
        variants = [(name, setting, arms)]
        if not args.no_compile:
            fast = dataclasses.replace(setting, compiled=True)
            few = SPENT if arms is SPENT else COMPILED
            variants.append((f"{name}, compiled", fast, few))
        if device.type == "cuda" and arms is not SPENT:
            graph = dataclasses.replace(setting, captured=True)
            variants.append((f"{name}, captured", graph, PAIR))
        for title, variant, few in variants:
            memory = variant is setting and PAIR[1] in few and not args.no_memory
            cases.append(case(title, variant, few, args.rounds, memory))
            timing.write(args.output, "overhead", device, cases)
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
