"""Interleaved timing: every arm does its work once a round, in random order.

Ratios are taken within a round, so that whatever slows the machine for a while slows
all arms alike; the reference runs twice a round, and the ratio of its two runs is the
noise (A/A).
"""

import datetime
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Arm = Callable[[], Any]
AGAIN = "again"  # the reference's second run of a round


def compare(
    arms: Mapping[str, Arm],
    reference: str,
    device: torch.device,
    rounds: int = 15,
    steps: int = 1,
    warmup: int = 2,
) -> dict[str, list[float]]:
    """Seconds a step of each arm in each round; the reference has a twin, "again".

    Args:
        arms: what is compared. An arm may return a number of seconds, which is then
            taken instead of the time of the call (for work that has to be prepared).
        reference: the arm to which the others are compared.
        device: waited for at both ends of a block of steps.
        rounds: rounds that are kept.
        steps: calls of an arm in a round.
        warmup: rounds that are not kept.
    """
    arms = {**arms, AGAIN: arms[reference]}
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    gc.collect()
    gc.disable()
    try:
        for kept in [False] * warmup + [True] * rounds:
            for name in order.sample(list(arms), len(arms)):
                took = _block(arms[name], steps, device)
                if kept:
                    seconds[name].append(took)
    finally:
        gc.enable()
    return seconds


def _block(arm: Arm, steps: int, device: torch.device) -> float:
    synchronize(device)
    start, own = time.perf_counter(), 0.0
    for _ in range(steps):
        own += arm() or 0.0
    synchronize(device)
    return (own or time.perf_counter() - start) / steps


def synchronize(device: torch.device) -> None:
    """Waits for an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(seconds: Mapping[str, list[float]], arm: str, reference: str) -> list[float]:
    """Median of the ratios a round, and its 95 % interval by the bootstrap."""
    ratios = [a / b for a, b in zip(seconds[arm], seconds[reference], strict=True)]
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000)
    )
    return [statistics.median(ratios), medians[25], medians[974]]


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on, and with what."""
    packages = ("torch", "torchvision", "kornia", "accelerate")
    accelerator = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if accelerator else _cpu(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "allocator": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "PYTORCH_"))
        },
    }


def _commit() -> str:
    """Of the code; what was changed since is told, results apart."""
    code = [":/dai_plugin", ":/reference", ":/benchmarks", ":!/benchmarks/results"]
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return result.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def write(folder: Path, suite: str, device: torch.device, cases: list[Any]) -> Path:
    """Writes `folder/SUITE--DEVICE.json` with the seconds of every round."""
    about = machine(device)
    place = folder / f"{suite}--{device.type}.json"
    folder.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"machine": about, "cases": cases}, indent=1) + "\n")
    return place
