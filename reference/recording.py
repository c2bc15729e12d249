"""What is told and written down of a run: its start, its epochs, its trackers."""

import argparse
import csv
import datetime
import importlib.metadata
import importlib.util
import io
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import output
import torch
from best import best_of, results
from checkpoints import bring_best
from files import write, write_json
from loaders import in_memory
from meters import Pace
from run import Run, images_per_update

from dai_plugin.losses.weights import spread_weights

PACKAGES = ("torch", "torchvision", "kornia", "accelerate", "dai_plugin")
SLOW = 0.3  # share of an epoch spent waiting for images that is worth a line


def trackers(report_to: str) -> list[str] | None:
    """The names that accelerate knows them by.

    Raises:
        ImportError: its package is missing.
    """
    if report_to == "none":
        return None
    wanted = ["tensorboard", "wandb"] if report_to == "all" else [report_to]
    found = [name for name in wanted if importlib.util.find_spec(name)]
    if not found:
        raise ImportError(
            f"--report-to {report_to} needs {' or '.join(wanted)}: pip install "
            f"{wanted[0]}, or leave the flag out (metrics.csv is always written)"
        )
    return found


def begin(run: Run, resumed: Path | None) -> list[str]:
    """Writes run.json, and takes what lies in the folder away or takes it over.

    Args:
        run: before its first step.
        resumed: the checkpoint that it goes on from.

    Returns:
        What is to be told of it.
    """
    if run.args.overwrite:
        output.clear(run.output)
    missing = bring_best(run, resumed.parent) if resumed else ""
    run.about = description(run, resumed)
    _write_about(run)
    return [missing] if missing else []


def description(run: Run, resumed: Path | None) -> dict[str, Any]:
    """What one needs to know to repeat the run."""
    args, accelerator = run.args, run.accelerator
    device = accelerator.device
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "arguments": vars(args),
        "resumed": resumed,
        "seed": args.seed,
        "processes": accelerator.num_processes,
        "device": f"{device.type}: {name or platform.machine()}",
        "mixed_precision": accelerator.mixed_precision,
        "versions": {package: _version(package) for package in PACKAGES}
        | {"python": platform.python_version()},
        "git_commit": _commit(),
    }


def describe(run: Run) -> None:
    """States the size and cost of the run."""
    args, accelerator, images = run.args, run.accelerator, run.images
    processes, steps = accelerator.num_processes, args.gradient_accumulation_steps
    total, settings = images_per_update(args, accelerator), run.attachment.settings
    layout, cost = settings.layout(args.batch_size), settings.cost(args.batch_size)
    seldom = f", in one of {args.every} steps" if args.every > 1 else ""
    alone = accelerator.device.type == "cpu" and processes == 1
    hint = " (several come from torchrun --nproc_per_node N)" if alone else ""
    run.say(
        f"{args.model} on {args.dataset}: {len(images.train)} training images, "
        f"{len(images.test)} held out, {images.num_classes} classes, "
        f"{images.preset.crop} x {images.preset.crop} pixels\n"
        f"{processes} process(es) on {accelerator.device}{hint}, mixed precision "
        f"{accelerator.mixed_precision}\n"
        f"{layout} = {layout.rows} rows a step and process{seldom}: {cost:.4g} times "
        "the compute of a run without views\n"
        f"an optimizer step: {total} images, {round(total * cost)} rows "
        f"({processes} process(es) x {steps} accumulation step(s)), learning rate "
        f"{args.lr:g}"
    )


def tell_loading(run: Run, pace: Pace) -> None:
    """Prints which part of the epoch was spent waiting for images."""
    share = pace.waited / max(pace.total, 1e-9)
    run.say(f"loader: {share:.0%} of the epoch's time was waiting for it")
    if share > SLOW and not in_memory(run.images.train):
        workers, cores = run.training.workers, os.cpu_count() or 1
        more = f"more --workers than {workers} (of {cores} cores), "
        run.say(
            f"the loader is the bottleneck: give it {more if workers < cores else ''}"
            "smaller image files, or a faster disk"
        )


def write_results(run: Run) -> None:
    """Replaces metrics.csv, and the results in run.json, after an epoch."""
    write_metrics(run.output / "metrics.csv", run.progress.rows)
    _write_about(run)


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replaces metrics.csv by these rows."""
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    write(path, lambda file: file.write(text.getvalue().encode()))


def track(run: Run, row: dict[str, Any]) -> None:
    """Sends the row and the layers' weights to the trackers."""
    args, prefix = run.args, "layer:"
    fired = [name.removeprefix(prefix) for name in row if name.startswith(prefix)]
    law = args.layer_weights, args.last_to_first
    shares = spread_weights(*law, run.attachment.layers, fired) if fired else []
    alpha = run.attachment.stats()["alpha"]
    weights = {
        f"weight:{name}": alpha * share
        for name, share in zip(fired, shares, strict=True)
    }
    values = {name: value for name, value in row.items() if name != "epoch"}
    values |= {"alpha": alpha, "best_acc1": best_of(run.progress.rows)["acc1"]}
    run.accelerator.log(values | weights, step=row["epoch"])


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as trackers take them."""
    kept = (int, float, str, bool)
    return {k: v if isinstance(v, kept) else str(v) for k, v in vars(args).items()}


def _write_about(run: Run) -> None:
    progress = run.progress
    found = results(progress.rows, progress.epoch, run.args.epochs)
    write_json(run.output / "run.json", run.about | {"results": found})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
