"""Which flags may change when a run is resumed, by what its saved state depends on."""

import argparse
from typing import Any

NETWORK = {
    "model": "the network's weights",
    "width": "the network's weights",
    "classes": "the network's weights",
    "model_ema": "the averaged weights",
}
# State that goes on in any case, and belongs to one value alone.
ALWAYS = NETWORK | {
    "opt": "the optimizer's state",
    "momentum_kept": "the optimizer's state",
    "freeze": "the optimizer's state",
    "seed": "the random numbers of the views",
    "processes": "each process's random numbers",
}
# The images that are still to come in an epoch: those in its order that have not been.
WITHIN_AN_EPOCH = dict.fromkeys(
    (
        "dataset",
        "train_images",
        "batch_size",
        "gradient_accumulation_steps",
        "ra_sampler",
        "ra_reps",
        "batches",
    ),
    "the place in an epoch's images",
)
# Where a run lies, how it looks and how fast it is.
UNTOLD = {
    "output_dir",
    "resume",
    "overwrite",
    "test_only",
    "checkpoint_freq",
    "print_freq",
    "report_to",
    "watch",
    "workers",
    "timeout",
    "cache_dataset",
    "world_size",
    "dist_url",
    "recipe",
    "keep_rows",
    "weights",
    "start_epoch",
}
NAMES = {
    "classes": "the number of classes",
    "momentum_kept": "whether --momentum is kept",
    "processes": "the number of processes",
    "batches": "the number of batches in an epoch",
}


def facts(
    args: argparse.Namespace, classes: int, processes: int, batches: int
) -> dict[str, Any]:
    """What the state of a run may depend on, in plain types."""
    return vars(args) | {
        "classes": classes,
        "processes": processes,
        "batches": batches,
        "momentum_kept": bool(args.momentum),
    }


def differences(was: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Line by name, of what both know and is another now."""
    return {
        name: f"{NAMES.get(name) or flag(name)} was {was[name]}, is {now[name]}"
        for name in was
        if name in now and was[name] != now[name]
    }


def check_network(was: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses what other weights than the saved ones would be needed for.

    Raises:
        ValueError: such a flag is another.
    """
    _refuse(NETWORK, differences(was, now))


def check(was: dict[str, Any], now: dict[str, Any], step: int) -> list[str]:
    """What has changed and can; one line a flag.

    Args:
        was: `facts` of the run that was saved.
        now: those of the one that goes on from there.
        step: batches of the epoch that were done.

    Raises:
        ValueError: what was saved cannot go on under a value that is given now.
    """
    found = differences(was, now)
    _refuse(ALWAYS, found)
    if step:
        _refuse(WITHIN_AN_EPOCH, found, f", batch {step} of {was['batches']}")
    derived = NAMES.keys()
    return [line for k, line in found.items() if k not in UNTOLD and k not in derived]


def flag(name: str) -> str:
    """As it is typed."""
    return "--" + name.replace("_", "-")


def _refuse(table: dict[str, str], found: dict[str, str], where: str = "") -> None:
    lines = [line for name, line in found.items() if name in table]
    if lines:
        states = dict.fromkeys(table[name] for name in found if name in table)
        raise ValueError(
            f"--resume: {'; '.join(lines)}. What was saved depends on that "
            f"({' and '.join(states)}{where}): give it what it was, or start anew in "
            "another --output-dir"
        )
