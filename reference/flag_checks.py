"""What flags may be, alone and together: said before anything is loaded."""

import argparse
import math

import torch

INF = math.inf
# Smallest and largest value of each flag that is a number; None is left alone.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        (
            "train_crop_size",
            "val_crop_size",
            "val_resize_size",
            "batch_size",
            "ra_reps",
            "num_views",
            "every",
            "lr_step_size",
            "gradient_accumulation_steps",
            "model_ema_steps",
            "world_size",
            "timeout",
            "print_freq",
        ),
        (1, INF),
    ),
    **dict.fromkeys(
        (
            "workers",
            "mixup_alpha",
            "cutmix_alpha",
            "alpha_warmup_epochs",
            "epochs",
            "lr",
            "weight_decay",
            "norm_weight_decay",
            "bias_weight_decay",
            "transformer_embedding_decay",
            "lr_warmup_epochs",
            "lr_gamma",
            "lr_min",
            "clip_grad_norm",
            "start_epoch",
            "checkpoint_freq",
            "watch",
        ),
        (0, INF),
    ),
    **dict.fromkeys(
        (
            "random_erase",
            "flip",
            "momentum",
            "label_smoothing",
            "lr_warmup_decay",
            "model_ema_decay",
        ),
        (0, 1),
    ),
    "ra_magnitude": (0, 30),
    "augmix_severity": (1, 10),
    "seed": (0, 2**32 - 1),
}

WARPS = ("nearest", "bilinear")


def check(args: argparse.Namespace) -> None:
    """Refuses flags that make no sense.

    Raises:
        ValueError: a number out of range, flags that exclude each other, or a device
            that is not there.
    """
    for name, (low, high) in RANGES.items():
        _within(name, getattr(args, name), low, high)
    _check_device(args.device)
    by_class = f"--beta {args.beta}" if args.beta else "--term class"
    if args.beta or args.term == "class":
        if mixed := args.mixup_alpha or args.cutmix_alpha:
            raise ValueError(
                f"{by_class} needs images of one class each, and --mixup-alpha or "
                f"--cutmix-alpha {mixed} mixes them: leave one of the two out"
            )
        if args.sync:
            raise ValueError(
                f"{by_class} compares images of one class, and --sync brings no "
                "classes together over the processes: leave one of the two out"
            )
    if args.every > 1 and args.first_view == "augmented":
        raise ValueError(
            f"--every {args.every} leaves the images of the steps between as the "
            "workers made them, so that all others have to be: add --first-view clean, "
            "and augment in the workers (--auto-augment, --random-erase)"
        )
    if args.amp and args.mixed_precision:
        raise ValueError(
            "--amp and --mixed-precision say the same thing: leave one of the two out"
        )
    if args.auto_augment == "augmix" and args.interpolation not in WARPS:
        raise ValueError(
            f"--auto-augment augmix warps tensors, and torchvision does that with "
            f"--interpolation {' or '.join(WARPS)} alone, not {args.interpolation}"
        )
    if args.watch == 1:
        raise ValueError("--watch 1: measures compare images, give 2 or more, or 0")
    if args.lr_scheduler == "multisteplr" and not args.lr_milestones:
        raise ValueError("--lr-scheduler multisteplr needs --lr-milestones")
    if args.start_epoch and args.start_epoch >= args.epochs:
        raise ValueError(
            f"--start-epoch {args.start_epoch} leaves nothing of --epochs "
            f"{args.epochs}: epochs are counted from 0"
        )


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is None or (low <= value <= high and value != INF):
        return
    flag = f"--{name.replace('_', '-')}"
    if high < INF:
        raise ValueError(f"{flag} {value} must lie between {low} and {high}")
    raise ValueError(f"{flag} {value} must be a number of at least {low}")


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is no device: give {_present()}") from error
    there = {
        "cpu": 1,
        # Without any, `cuda`, which is the default, means the CPU.
        "cuda": max(torch.cuda.device_count(), int(device.index is None)),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= there.get(device.type, 0):
        raise ValueError(f"--device {name} is not there: give {_present()}")


def _present() -> str:
    """The devices of this machine, in words."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return " or ".join(["cpu", *found])
