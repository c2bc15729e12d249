"""What flags there are, group by group, in the order in which a batch meets them.

Names, meanings and defaults are those of torchvision's `references/classification`
wherever it has the flag; reference/README.md lists what differs.
"""

from collections.abc import Callable
from typing import Any

import augmentations
import data

from dai_plugin.losses.terms import NAMES

Add = Callable[..., Any]


def _data(add: Add) -> None:
    add("--dataset", default="digits", choices=data.NAMES)
    add("--data-path", default="data", help="folder of the data set")
    add("--train-images", default=None, type=int, help="use so many alone")
    add("--test-images", default=None, type=int, help="use so many alone")
    add("--train-crop-size", default=None, type=int, help="pixels, else as in testing")
    add("--val-crop-size", default=None, type=int, help="else the data's, at most 224")
    resize = "shorter side of held-out images before the crop; training keeps the ratio"
    add("--val-resize-size", default=None, type=int, help=resize)
    kinds = ["nearest", "nearest-exact", "bilinear", "bicubic"]
    add("--interpolation", default="bilinear", type=_word, choices=kinds)
    add("--cache-dataset", action="store_true", help="decode once, hold all in memory")
    backends = ["pil", "tensor"]
    same = "torchvision's; any gives the same images here"
    add("--backend", default=None, type=_word, choices=backends, help=same)
    add("--use-v2", action="store_true", help="torchvision's; always so here")


def _loading(add: Add) -> None:
    add("-b", "--batch-size", default=32, type=int, help="images a step and process")
    add("--keep-rows", action="store_true", help="--batch-size counts images x views")
    add("-j", "--workers", default=16, type=int, help="at most one a core is used")
    repeated = "show each image --ra-reps times an epoch, in as many steps as before"
    add("--ra-sampler", action="store_true", help=repeated)
    add("--ra-reps", default=3, type=int, help="of --ra-sampler")


def _augmentation(add: Add) -> None:
    policies = augmentations.POLICIES
    policy = "by the loader's workers, as torchvision has it"
    add("--auto-augment", default=None, type=str.lower, choices=policies, help=policy)
    add("--ra-magnitude", default=9, type=int, help="of --auto-augment ra")
    add("--augmix-severity", default=3, type=int, help="of --auto-augment augmix")
    add("--random-erase", default=0.0, type=float, help="probability; by the workers")
    add("--mixup-alpha", default=0.0, type=float, help="0: none; on the device")
    add("--cutmix-alpha", default=0.0, type=float, help="0: none; on the device")


def _method(add: Add) -> None:
    add(
        "--num-views",
        default=2,
        type=int,
        help="of an image in a step; 1: no terms but class",
    )
    seldom = "views and terms in each k-th step alone; what the workers do is in all"
    add("--every", default=1, type=int, help=seldom)
    add("--share", default=1.0, type=float, help="of the images that get further views")
    add(
        "--term",
        default="ratio",
        choices=NAMES,
        help="what alpha weighs, docs/terms.md",
    )
    add("--alpha", default=0.1, type=float, help="weight of the invariance losses")
    add("--alpha-warmup-epochs", default=0, type=int, help="alpha rises from 0 so long")
    add("--beta", default=0.0, type=float, help="weight of the class-wise ones")
    words = "auto, last, penultimate, output; or names and patterns"
    add("--layers", nargs="+", default=["auto"], help=words)
    add("--layer-weights", default="exponential", help="or linear, uniform")
    add("--last-to-first", default=10.0, type=float)
    add("--scheme", default="heavier", help="any scheme's name, or FILE.py:FUNCTION")
    add("--flip", default=None, type=float, help="probability, else the scheme's")
    add("--translation", default=None, type=float, help="bound, else the scheme's")
    views = "clean: as the workers leave it; else augmented, with --every clean"
    add("--first-view", default=None, choices=["augmented", "clean"], help=views)
    add("--sync", action="store_true", help="invariance statistics of all processes")


def _network(add: Add) -> None:
    add("--model", default="resnet18", help="our own, or a classifier of torchvision")
    add("--width", default=1.0, type=float, help="factor of our own's channels")
    start = "start from torchvision's (DEFAULT, IMAGENET1K_V1, ...) or from a file"
    add("--weights", default=None, help=start)
    patterns = "leave the parameters of these names or patterns as they are"
    add("--freeze", default=[], nargs="+", metavar="PATTERN", help=patterns)
    add("--sync-bn", action="store_true", help="batch norm over all processes")
    add("--channels-last", action="store_true")
    add("--compile", action="store_true", help="torch.compile the network")


def _optimization(add: Add) -> None:
    add("--epochs", default=90, type=int)
    optimizers = ["sgd", "sgd-nesterov", "rmsprop", "adamw"]
    add("--opt", default="sgd", type=_word, choices=optimizers)
    add("--lr", default=0.1, type=float)
    add("--momentum", default=0.9, type=float)
    add("--wd", "--weight-decay", dest="weight_decay", default=1e-4, type=float)
    add("--norm-weight-decay", default=None, type=float, help="else --wd")
    add("--bias-weight-decay", default=None, type=float, help="else --wd")
    embeddings = "of class tokens and position embeddings, else --wd"
    add("--transformer-embedding-decay", default=None, type=float, help=embeddings)
    add("--label-smoothing", default=0.0, type=float)
    schedules = ["steplr", "multisteplr", "cosineannealinglr", "exponentiallr"]
    add("--lr-scheduler", default="steplr", type=_word, choices=schedules)
    add("--lr-warmup-epochs", default=0, type=int)
    methods = ["constant", "linear"]
    add("--lr-warmup-method", default="constant", choices=methods)
    add("--lr-warmup-decay", default=0.01, type=float)
    add("--lr-step-size", default=30, type=int)
    add("--lr-milestones", default=[], nargs="+", type=int, help="of multisteplr")
    add("--lr-gamma", default=0.1, type=float)
    add("--lr-min", default=0.0, type=float)
    add("--clip-grad-norm", default=None, type=float)
    add("--gradient-accumulation-steps", default=1, type=int)
    add("--model-ema", action="store_true", help="test and keep averaged weights")
    add("--model-ema-steps", default=32, type=int)
    add("--model-ema-decay", default=0.99998, type=float)


def _machine(add: Add) -> None:
    add(
        "--device", default="cuda", help="cpu, mps, or cuda (cuda:1) where there is one"
    )
    precisions = ["no", "bf16", "fp16"]
    add("--mixed-precision", default=None, choices=precisions, help="else accelerate's")
    add("--amp", action="store_true", help="--mixed-precision fp16; on the CPU bf16")
    add("--use-deterministic-algorithms", action="store_true")
    add("--world-size", default=1, type=int, help="as the launcher has it")
    add("--dist-url", default="env://", help="where the launcher's processes meet")
    add("--timeout", default=600, type=int, help="seconds to wait for another process")
    add("--seed", default=0, type=int)


def _run(add: Add) -> None:
    add("--output-dir", default=".")
    add("--resume", default="", help="checkpoint.pth or its folder; auto: if there")
    add("--overwrite", action="store_true", help="replace the run in --output-dir")
    add("--start-epoch", default=0, type=int, help="with its order and learning rate")
    add("--checkpoint-freq", default=0, type=int, help="save every N optimizer steps")
    add("--test-only", action="store_true")
    add("--print-freq", default=10, type=int)
    same = "measure so many held-out images after each epoch, docs/runs.md; 0: none"
    add("--watch", default=0, type=int, help=same)
    trackers = ["none", "tensorboard", "wandb", "all"]
    add("--report-to", default="none", choices=trackers)


def _word(text: str) -> str:
    """A choice in torchvision's spelling, too: `sgd_nesterov`, `PIL`."""
    return text.lower().replace("_", "-")


GROUPS: dict[str, Callable[[Add], None]] = {
    "data": _data,
    "batches": _loading,
    "augmentation": _augmentation,
    "data augmentation invariance": _method,
    "network": _network,
    "optimization": _optimization,
    "device and processes": _machine,
    "the run": _run,
}
