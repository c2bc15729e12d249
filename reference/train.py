"""Train a classifier with data augmentation invariance, after torchvision's manner.

    python reference/train.py --model allcnn --width 0.25 --num-views 4 --batch-size 16
    accelerate launch reference/train.py --dataset imagefolder --data-path FOLDER

`--alpha 0` is the baseline: the same views, the task loss alone. All that the method
takes is `import dai_plugin` and one call of `attach`.
"""

import argparse
import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import data
import models
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from meters import Meters, append_row
from torch import nn
from torch.utils.data import DataLoader

import dai_plugin
from dai_plugin.normalization import Normalization
from dai_plugin.views import expand, mix_seed


def main(args: argparse.Namespace) -> None:
    """Trains, tests and saves."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    accelerator = Accelerator(
        cpu=args.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
    )
    set_seed(args.seed)
    images = data.load(
        args.dataset, args.data_path, args.train_crop_size, args.val_resize_size
    )
    options = models.arguments(args.model, images.num_classes, args.width)
    model = models.build(args.model, **options)
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    attachment = attach(model, criterion, images.preset, args)
    optimizer = build_optimizer(model, args)
    scheduler = build_scheduler(optimizer, args)
    train_loader, test_loader = loaders(images, args)
    model, optimizer, train_loader, test_loader = accelerator.prepare(
        model, optimizer, train_loader, test_loader
    )
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, attachment, progress)
    if args.resume:
        resume(accelerator, args.resume)
    describe(accelerator, images, args)
    if progress.epoch >= args.epochs and not args.test_only:
        accelerator.print(f"{progress.epoch} epochs are done: --epochs asks no more")

    def test() -> dict[str, float]:
        return {
            f"acc1{name}": accuracy(
                accelerator, model, test_loader, images.preset, scheme
            )
            for name, scheme in (("", None), ("_augmented", attachment.scheme))
        }

    if args.test_only:
        show_accuracy(accelerator, test())
        return
    output, start = Path(args.output_dir), time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process and not args.resume:
        (output / "metrics.csv").unlink(missing_ok=True)
    for epoch in range(progress.epoch, args.epochs):
        row = train_epoch(
            accelerator,
            model,
            criterion,
            optimizer,
            train_loader,
            attachment,
            epoch,
            args,
        )
        scheduler.step()
        progress.epoch = epoch + 1
        row |= test()
        show_accuracy(accelerator, row)
        save(accelerator, model, output, images.preset, options)
        if accelerator.is_main_process:
            append_row(output / "metrics.csv", row)
    took = timedelta(seconds=int(time.perf_counter() - start))
    accelerator.print(f"Training time {took}")
    accelerator.end_training()


def attach(
    model: nn.Module, criterion: nn.Module, preset: Any, args: argparse.Namespace
) -> dai_plugin.Attachment:
    """The line that brings the method in."""
    scheme = dai_plugin.schemes.find_scheme(args.scheme)
    if args.flip is not None:
        scheme = type(scheme)(**{**vars(scheme), "flip": args.flip})
    return dai_plugin.attach(
        model,
        criterion,
        num_views=args.num_views,
        alpha=args.alpha,
        beta=args.beta,
        layers=args.layers[0] if len(args.layers) == 1 else args.layers,
        layer_weights=args.layer_weights,
        last_to_first=args.last_to_first,
        scheme=scheme,
        mean=preset.mean,
        std=preset.std,
        first_view=args.first_view,
        seed=args.seed,
    )


def train_epoch(
    accelerator: Accelerator,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    attachment: dai_plugin.Attachment,
    epoch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One pass over the training images; returns the row of metrics.csv.

    Losses are read at each step on the CPU; on an accelerator, where reading waits for
    the device, at the steps that are printed.
    """
    model.train()
    meters = Meters(f"Epoch: [{epoch}]", args.print_freq, accelerator.is_main_process)
    layers = Meters("layers", args.print_freq, False)
    learning_rate = optimizer.param_groups[0]["lr"]
    start, seen, right = time.perf_counter(), 0, torch.zeros(())
    on_cpu = accelerator.device.type == "cpu"
    for shown, (images, targets) in meters.over(loader):
        with accelerator.accumulate(model):
            outputs = model(images)
            loss = criterion(outputs, targets)
            accelerator.backward(loss)
            if args.clip_grad_norm and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), args.clip_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        seen += len(images)
        correct = outputs.argmax(1).eq(targets).sum()
        right = right.to(outputs.device) + correct
        if shown or on_cpu:
            stats = attachment.stats()
            check_loss(stats)
            meters.update(
                len(images),
                lr=learning_rate,
                loss=stats["total_loss"],
                task=stats["task_loss"],
                inv=sum(stats["layers"].values()) / len(stats["layers"]),
                acc1=100 * correct.item() / len(images),
                **{"img/s": len(images) * accelerator.num_processes / meters.seconds},
            )
            layers.update(len(images), **stats["layers"])
    losses = {name: meter.mean for name, meter in layers.meters.items()}
    cells = " | ".join(f"{name} {value:.3f}" for name, value in losses.items())
    accelerator.print(f"inv[{cells}] alpha {attachment.stats()['alpha']:.3f}")
    return {
        "epoch": epoch,
        "lr": learning_rate,
        "loss": meters["loss"],
        "task_loss": meters["task"],
        "invariance_loss": meters["inv"],
        "train_acc1": 100 * right.item() / seen,
        "images_per_second": seen
        * accelerator.num_processes
        / (time.perf_counter() - start),
        **{f"layer:{name}": value for name, value in losses.items()},
    }


@torch.no_grad()
def accuracy(
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
    preset: Any,
    scheme: Any,
) -> float:
    """Per cent of the held-out images that are classified right.

    With a scheme, every image is transformed once, the same way each time.
    """
    model.eval()
    known = Normalization.given(preset.mean, preset.std)
    correct = total = 0
    for step, (images, targets) in enumerate(loader):
        if scheme is not None:
            seed = mix_seed(step, accelerator.process_index)
            images = expand(
                images,
                1,
                scheme,
                first_view="augmented",
                normalization=known,
                seed=seed,
            )
        predictions = model(images).argmax(1)
        predictions, targets = accelerator.gather_for_metrics((predictions, targets))
        correct += predictions.eq(targets).sum().item()
        total += len(targets)
    return 100 * correct / total


def show_accuracy(accelerator: Accelerator, row: dict[str, Any]) -> None:
    """Prints what the test found."""
    accelerator.print(
        f"Test:  Acc@1 {row['acc1']:.3f}  Acc@1 augmented {row['acc1_augmented']:.3f}"
    )


def build_optimizer(
    model: nn.Module, args: argparse.Namespace
) -> torch.optim.Optimizer:
    """The optimizer of `--opt`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = {"lr": args.lr, "weight_decay": args.weight_decay}
    if args.opt == "adamw":
        return torch.optim.AdamW(parameters, **common)
    common["momentum"] = args.momentum
    if args.opt == "rmsprop":
        return torch.optim.RMSprop(parameters, **common, eps=0.0316, alpha=0.9)
    return torch.optim.SGD(parameters, **common, nesterov="nesterov" in args.opt)


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: argparse.Namespace
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of `--lr-scheduler`, stepped once an epoch, after its warm-up."""
    schedules = torch.optim.lr_scheduler
    warmup = args.lr_warmup_epochs
    main_schedule = {
        "steplr": lambda: schedules.StepLR(
            optimizer, step_size=args.lr_step_size, gamma=args.lr_gamma
        ),
        "cosineannealinglr": lambda: schedules.CosineAnnealingLR(
            optimizer, T_max=max(args.epochs - warmup, 1), eta_min=args.lr_min
        ),
        "exponentiallr": lambda: schedules.ExponentialLR(
            optimizer, gamma=args.lr_gamma
        ),
    }[args.lr_scheduler]()
    if not warmup:
        return main_schedule
    if args.lr_warmup_method == "linear":
        rise = schedules.LinearLR(optimizer, args.lr_warmup_decay, total_iters=warmup)
    else:
        rise = schedules.ConstantLR(optimizer, args.lr_warmup_decay, total_iters=warmup)
    return schedules.SequentialLR(optimizer, [rise, main_schedule], milestones=[warmup])


def loaders(
    images: data.Data, args: argparse.Namespace
) -> tuple[DataLoader, DataLoader]:
    """Batches of training and of held-out images."""
    in_memory = isinstance(images.train, data.InMemory)
    workers = 0 if in_memory else min(args.workers, os.cpu_count() or 1)
    common: dict[str, Any] = {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
    }
    train = DataLoader(images.train, args.batch_size, shuffle=True, **common)
    rows = args.batch_size * args.num_views
    return train, DataLoader(images.test, rows, **common)


class Progress:
    """How far the run is, for checkpoints."""

    def __init__(self) -> None:
        self.epoch = 0

    def state_dict(self) -> dict[str, int]:
        """The next epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from there."""
        self.epoch = state["epoch"]


def save(
    accelerator: Accelerator,
    model: nn.Module,
    output: Path,
    preset: Any,
    options: dict[str, float],
) -> None:
    """Writes checkpoint/ (for `--resume`) and model.pth (for `dai-plugin score`)."""
    accelerator.save_state(str(output / "checkpoint"))
    network = accelerator.unwrap_model(model)
    content = {
        "model": network.state_dict(),
        "model_args": options,
        "mean": list(preset.mean),
        "std": list(preset.std),
        "resize": preset.resize,
        "crop": preset.crop,
    }
    accelerator.save(content, output / "model.pth")


def resume(accelerator: Accelerator, folder: str) -> None:
    """Continues from the folder `checkpoint` of an earlier run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it belongs to another network.
    """
    if (Path(folder) / "checkpoint").is_dir():
        folder = str(Path(folder) / "checkpoint")
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"--resume {folder} is no folder; give OUTPUT_DIR/checkpoint of a run"
        )
    try:
        accelerator.load_state(folder)
    except RuntimeError as error:
        raise ValueError(
            f"--resume {folder} holds the checkpoint of another network than --model "
            f"asks for: {str(error)[:300]}"
        ) from error


def check_loss(stats: dict[str, Any]) -> None:
    """Stops a run whose loss is no number any more.

    Raises:
        FloatingPointError: so it is.
    """
    loss = stats["total_loss"]
    if loss != loss or abs(loss) == float("inf"):
        raise FloatingPointError(
            f"the loss is {loss} (task {stats['task_loss']}, layers "
            f"{stats['layers']}); what was saved stays whole; try a lower --lr"
        )


def describe(
    accelerator: Accelerator, images: data.Data, args: argparse.Namespace
) -> None:
    """States the size and cost of the run."""
    rows = args.batch_size * args.num_views
    accelerator.print(
        f"{args.model} on {args.dataset}: {len(images.train)} training images, "
        f"{len(images.test)} held out, {images.num_classes} classes, "
        f"{images.preset.crop} x {images.preset.crop} pixels\n"
        f"{accelerator.num_processes} process(es) on {accelerator.device}, mixed "
        f"precision {accelerator.mixed_precision}\n"
        f"{args.batch_size} images x {args.num_views} views = {rows} rows a step and "
        f"process: {args.num_views} times the compute of a run without views"
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags of the command line; hyphens and underscores are the same."""
    parser = argparse.ArgumentParser(
        description="Training with data augmentation invariance",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", default="digits", choices=data.NAMES)
    add("--data-path", default="data", help="folder of the data set")
    add("--model", default="resnet18", help="allcnn or a classifier of torchvision")
    add("--width", default=1.0, type=float, help="factor of allcnn's channels")
    add("--device", default="cuda", help="cpu, or cuda where there is one")
    add("-b", "--batch-size", default=32, type=int, help="images a step and process")
    add("--epochs", default=90, type=int)
    add("-j", "--workers", default=16, type=int, help="at most one a core is used")
    add("--opt", default="sgd", choices=["sgd", "sgd-nesterov", "rmsprop", "adamw"])
    add("--lr", default=0.1, type=float)
    add("--momentum", default=0.9, type=float)
    add("--wd", "--weight-decay", dest="weight_decay", default=1e-4, type=float)
    add("--label-smoothing", default=0.0, type=float)
    schedules = ["steplr", "cosineannealinglr", "exponentiallr"]
    add("--lr-scheduler", default="steplr", choices=schedules)
    add("--lr-warmup-epochs", default=0, type=int)
    add("--lr-warmup-method", default="constant", choices=["constant", "linear"])
    add("--lr-warmup-decay", default=0.01, type=float)
    add("--lr-step-size", default=30, type=int)
    add("--lr-gamma", default=0.1, type=float)
    add("--lr-min", default=0.0, type=float)
    add("--clip-grad-norm", default=None, type=float)
    add("--print-freq", default=10, type=int)
    add("--output-dir", default=".")
    add("--resume", default="", help="folder `checkpoint` of an earlier run")
    add("--test-only", action="store_true")
    add("--train-crop-size", default=None, type=int, help="of image folders")
    add("--val-resize-size", default=None, type=int, help="of image folders")
    add("--seed", default=0, type=int)
    precisions = ["no", "bf16", "fp16"]
    add("--mixed-precision", default=None, choices=precisions, help="else accelerate's")
    add("--gradient-accumulation-steps", default=1, type=int)

    group = parser.add_argument_group("data augmentation invariance")
    add = group.add_argument
    add("--num-views", default=2, type=int, help="views of each image in a step")
    add("--alpha", default=0.1, type=float, help="weight of the invariance losses")
    add("--beta", default=0.0, type=float, help="weight of the class-wise ones")
    add("--layers", nargs="+", default=["auto"], help="names or patterns")
    add("--layer-weights", default="exponential", help="or linear, uniform")
    add("--last-to-first", default=10.0, type=float)
    add("--scheme", default="heavier", help="or light, photometric, halved")
    add("--flip", default=None, type=float, help="probability, else the scheme's")
    add("--first-view", default="augmented", choices=["augmented", "clean"])
    return parser.parse_args([_hyphens(argument) for argument in arguments])


def _hyphens(argument: str) -> str:
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-") if name.startswith("--") else name
    return name + equals + value


if __name__ == "__main__":
    try:
        main(parse(sys.argv[1:]))
    except (ValueError, TypeError, KeyError, OSError, ArithmeticError) as error:
        sys.exit(f"train.py: error: {error}")
