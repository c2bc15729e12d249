"""A training run: its parts, wired together, and how far it is."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import augmentations
import data
import sharding
import torch
import weights
from accelerate import Accelerator
from accelerate.utils import set_seed
from faults import Watch, first_then_all
from loaders import TrainingBatches, test_batches
from meters import Tally
from network import start
from optimization import WeightAverage, build_optimizer, build_scheduler
from presets import Wanted
from torch import nn
from torch.utils.data import DataLoader
from weights import Pretrained

import dai_plugin
from dai_plugin.cli.sources import load_scheme, with_values

Parts = tuple[float, float, dict[str, float]]


@dataclass
class Progress:
    """How far a run is, always between two optimizer steps.

    Attributes:
        epoch: the one under way.
        step: batches of it that are done.
        updates: optimizer steps since the run began.
        row: of metrics.csv, while the epoch is trained and not tested yet.
        rows: of the epochs before it.
        tally: values of the epoch in this process.
        parts: of the last loss with views in this process: task loss, mean of the first
            term over its layers, and each term's loss at each layer.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    row: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    parts: Parts = (0.0, 0.0, {})

    def finish(self, row: dict[str, Any]) -> None:
        """Goes on to the next epoch."""
        self.rows.append(row)
        self.row, self.epoch, self.step = None, self.epoch + 1, 0
        self.tally = Tally()

    def state_dict(self) -> dict[str, Any]:
        """What is the same in all processes."""
        return {name: getattr(self, name) for name in _SHARED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        for name in _SHARED:
            setattr(self, name, state[name])


_SHARED = ("epoch", "step", "updates", "row", "rows")


@dataclass
class Run:
    """All that the files of this folder hand each other.

    `about` is what run.json says of the start, in the first process.
    """

    args: argparse.Namespace
    accelerator: Accelerator
    images: data.Data
    options: dict[str, Any]
    model: nn.Module
    criterion: nn.Module
    attachment: dai_plugin.Attachment
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage | None
    training: TrainingBatches
    testing: DataLoader
    watch: Watch
    progress: Progress
    output: Path
    notes: list[str]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """Of an epoch, in each process."""
        return len(self.training)

    def say(self, text: str) -> None:
        """Prints on the first process; `accelerator.print`: on one of each machine."""
        if self.accelerator.is_main_process:
            print(text, flush=True)


def assemble(args: argparse.Namespace, accelerator: Accelerator) -> Run:
    """The run that the flags ask for, before its first step."""
    sharding.check(args, accelerator)
    set_seed(args.seed)
    pretrained = first_then_all(weights.read, args)
    images = first_then_all(_images, args, pretrained)
    rank, processes = accelerator.process_index, accelerator.num_processes
    augment = augmentations.of_image(args, images.preset.mean)
    training = TrainingBatches(images.train, args, augment, rank, processes)
    testing = test_batches(images.test, args)
    network = start(args, accelerator, images.preset, images.num_classes, pretrained)
    model = network.model
    criterion = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    attachment = attach(model, criterion, images.preset, args, len(training))
    if args.compile:
        model.compile()  # in place: the names of its parameters stay
    average = None
    if args.model_ema:
        model.to(accelerator.device)
        average = WeightAverage(model, images_per_update(args, accelerator), args)
    optimizer = build_optimizer(model, args)
    scheduler = build_scheduler(optimizer, args)
    model, optimizer, testing = sharding.prepare(accelerator, model, optimizer, testing)
    return Run(
        args,
        accelerator,
        images,
        network.options,
        model,
        criterion,
        attachment,
        optimizer,
        scheduler,
        average,
        training,
        testing,
        Watch(processes, args.timeout),
        Progress(),
        Path(args.output_dir),
        network.notes,
    )


def attach(
    model: nn.Module,
    criterion: nn.Module,
    preset: Any,
    args: argparse.Namespace,
    batches: int,
) -> dai_plugin.Attachment:
    """The line that brings the method in; `batches` are those of an epoch."""
    warmup = args.alpha_warmup_epochs * batches  # a step is a training forward
    scheme = with_values(
        load_scheme(args.scheme), flip=args.flip, translation=args.translation
    )
    return dai_plugin.attach(
        model,
        criterion,
        num_views=args.num_views,
        every=args.every,
        share=args.share,
        term=args.term,
        # One view has no other to be like, but its image has others of its class.
        alpha=args.alpha if args.num_views > 1 or args.term == "class" else 0.0,
        beta=args.beta,
        layers=args.layers[0] if len(args.layers) == 1 else args.layers,
        layer_weights=args.layer_weights,
        last_to_first=args.last_to_first,
        scheme=scheme,
        mean=preset.mean,
        std=preset.std,
        first_view=args.first_view,
        sync=args.sync,
        alpha_schedule=dai_plugin.schedules.linear_warmup(warmup) if warmup else None,
        seed=args.seed,
    )


def images_per_update(args: argparse.Namespace, accelerator: Accelerator) -> int:
    """Images in an optimizer step, over all processes and accumulation steps."""
    steps = args.gradient_accumulation_steps
    return args.batch_size * accelerator.num_processes * steps


def _images(args: argparse.Namespace, pretrained: Pretrained | None) -> data.Data:
    wanted = Wanted(
        args.train_crop_size,
        args.val_crop_size,
        args.val_resize_size,
        args.interpolation,
        pretrained.statistics if pretrained else None,
    )
    return data.load(
        args.dataset,
        args.data_path,
        wanted,
        train_images=args.train_images,
        test_images=args.test_images,
        hold=args.cache_dataset,
    )
