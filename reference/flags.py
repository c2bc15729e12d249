"""Flags of the command line, in the names and defaults of torchvision's references."""

import argparse
from typing import Any

import data
from recipes import RECIPES, recipe

Defaults = argparse.ArgumentDefaultsHelpFormatter


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags; hyphens and underscores are the same.

    A recipe's values stand where no flag says otherwise.

    Raises:
        ValueError: flags that exclude each other.
    """
    arguments = [_hyphens(argument) for argument in arguments]
    parser = argparse.ArgumentParser(
        description="Training with data augmentation invariance",
        formatter_class=Defaults,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", choices=RECIPES, help="defaults of a published run")
    named = parser.parse_known_args([a for a in arguments if a not in _HELP])[0].recipe
    _add_task(parser.add_argument_group("data and network"))
    _add_optimization(parser.add_argument_group("optimization"))
    _add_run(parser.add_argument_group("the run"))
    _add_method(parser.add_argument_group("data augmentation invariance"))
    if named:
        parser.set_defaults(**recipe(named))
    args = parser.parse_args(arguments)
    # What is there already, argparse leaves alone unless the flag is given.
    given = parser.parse_args(arguments, argparse.Namespace(batch_size=None))
    if named and args.keep_rows and given.batch_size is None:
        raise ValueError(_counted(named))
    return _checked(args)


def _add_task(group: Any) -> None:
    add = group.add_argument
    add("--dataset", default="digits", choices=data.NAMES)
    add("--data-path", default="data", help="folder of the data set")
    add("--train-images", default=None, type=int, help="use so many alone")
    add("--test-images", default=None, type=int, help="use so many alone")
    add("--train-crop-size", default=None, type=int, help="of image folders")
    add("--val-resize-size", default=None, type=int, help="of image folders")
    add("--model", default="resnet18", help="our own, or a classifier of torchvision")
    add("--width", default=1.0, type=float, help="factor of allcnn's channels")
    add("--sync-bn", action="store_true", help="batch norm over all processes")
    add("-b", "--batch-size", default=32, type=int, help="images a step and process")
    add("--keep-rows", action="store_true", help="--batch-size counts images x views")
    add("--mixup-alpha", default=0.0, type=float, help="0: no mixup")
    add("-j", "--workers", default=16, type=int, help="at most one a core is used")


def _add_optimization(group: Any) -> None:
    add = group.add_argument
    add("--epochs", default=90, type=int)
    add("--opt", default="sgd", choices=["sgd", "sgd-nesterov", "rmsprop", "adamw"])
    add("--lr", default=0.1, type=float)
    add("--momentum", default=0.9, type=float)
    add("--wd", "--weight-decay", dest="weight_decay", default=1e-4, type=float)
    add("--label-smoothing", default=0.0, type=float)
    schedules = ["steplr", "multisteplr", "cosineannealinglr", "exponentiallr"]
    add("--lr-scheduler", default="steplr", choices=schedules)
    add("--lr-warmup-epochs", default=0, type=int)
    add("--lr-warmup-method", default="constant", choices=["constant", "linear"])
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


def _add_run(group: Any) -> None:
    add = group.add_argument
    add("--device", default="cuda", help="cpu, or cuda where there is one")
    precisions = ["no", "bf16", "fp16"]
    add("--mixed-precision", default=None, choices=precisions, help="else accelerate's")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--channels-last", action="store_true")
    add("--seed", default=0, type=int)
    add("--output-dir", default=".")
    add("--resume", default="", help="checkpoint.pth or its folder; auto: if there")
    add("--overwrite", action="store_true", help="replace the run in --output-dir")
    add("--checkpoint-freq", default=0, type=int, help="save every N optimizer steps")
    add("--test-only", action="store_true")
    add("--print-freq", default=10, type=int)
    trackers = ["none", "tensorboard", "wandb", "all"]
    add("--report-to", default="none", choices=trackers)
    add("--timeout", default=600, type=int, help="seconds to wait for another process")


def _add_method(group: Any) -> None:
    add = group.add_argument
    add("--num-views", default=2, type=int, help="views of each image in a step")
    add("--alpha", default=0.1, type=float, help="weight of the invariance losses")
    add("--alpha-warmup-epochs", default=0, type=int, help="alpha rises from 0 so long")
    add("--beta", default=0.0, type=float, help="weight of the class-wise ones")
    add("--layers", nargs="+", default=["auto"], help="names or patterns")
    add("--layer-weights", default="exponential", help="or linear, uniform")
    add("--last-to-first", default=10.0, type=float)
    add("--scheme", default="heavier", help="or light, photometric, halved")
    add("--flip", default=None, type=float, help="probability, else the scheme's")
    add("--translation", default=None, type=float, help="bound, else the scheme's")
    add("--first-view", default="augmented", choices=["augmented", "clean"])
    add("--sync", action="store_true", help="invariance statistics of all processes")


def _checked(args: argparse.Namespace) -> argparse.Namespace:
    if args.mixup_alpha and args.beta:
        raise ValueError(
            f"--beta {args.beta} needs images of one class each, and --mixup-alpha "
            f"{args.mixup_alpha} mixes them: leave one of the two out"
        )
    if args.sync and args.beta:
        raise ValueError(
            f"--beta {args.beta} compares images of one class, and --sync brings no "
            "classes together over the processes: leave one of the two out"
        )
    if args.alpha_warmup_epochs < 0:
        raise ValueError(
            f"--alpha-warmup-epochs {args.alpha_warmup_epochs} must be 0 or more"
        )
    if args.lr_scheduler == "multisteplr" and not args.lr_milestones:
        raise ValueError("--lr-scheduler multisteplr needs --lr-milestones")
    for name in ("batch_size", "num_views", "gradient_accumulation_steps", "timeout"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {getattr(args, name)} must be at least 1")
    if args.keep_rows:
        args.batch_size = _images(args.batch_size, args.num_views)
    return args


def _counted(name: str) -> str:
    """What is wrong with `--keep-rows` and nothing but the recipe's batch size."""
    images, views = (recipe(name)[key] for key in ("batch_size", "num_views"))
    rows = images * views
    return (
        f"--keep-rows divides --batch-size, and --recipe {name} counts images already "
        f"({images} x {views} views = {rows} rows): leave --keep-rows out, or add "
        f"--batch-size {rows}"
    )


def _images(rows: int, num_views: int) -> int:
    if rows % num_views:
        raise ValueError(
            f"--keep-rows: {rows} rows (--batch-size) are no multiple of --num-views "
            f"{num_views}; {rows // num_views * num_views or num_views} are"
        )
    return rows // num_views


def _hyphens(argument: str) -> str:
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-") if name.startswith("--") else name
    return name + equals + value


_HELP = ("-h", "--help")
