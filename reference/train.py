"""Train a classifier with data augmentation invariance, after torchvision's manner.

    python reference/train.py --model allcnn --width 0.25 --num-views 4 --batch-size 16
    accelerate launch reference/train.py --dataset imagefolder --data-path FOLDER
    torchrun --nproc_per_node 2 reference/train.py --device cpu --resume auto

`--alpha 0` is the baseline: the same views, the task loss alone. All that the method
takes is `import dai_plugin` and one call of `attach`.
"""

import argparse
import logging
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import augmentations
import best
import checkpoints
import machine
import models
import output
import recording
import scoring
import torch
import watched
from accelerate import Accelerator
from evaluation import test
from faults import Interrupted, guarded, on_first
from flags import parse
from measuring import epoch_row, measure
from meters import Pace
from optimization import advance
from run import Run, assemble
from torch import Tensor


def main(args: argparse.Namespace) -> None:
    """Trains, tests and saves."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    accelerator = machine.prepare(args)
    # What is only tested writes nothing.
    with nullcontext() if args.test_only else output.locked(Path(args.output_dir)):
        run, told = set_up(args, accelerator)
        recording.describe(run)
        for line in (*machine.mapped(args, accelerator), *run.notes, *told):
            run.say(line)
        with run.watch:
            try:
                test(run) if args.test_only else train(run)
            except Interrupted as interruption:
                leave(run, interruption)
        accelerator.end_training()


def set_up(args: argparse.Namespace, accelerator: Accelerator) -> tuple[Run, list[str]]:
    """The run, new or resumed, and what is to be told of its beginning."""
    folder = Path(args.output_dir)
    found = on_first(checkpoints.load, args.resume, folder, args.test_only)
    if args.test_only and not (found or args.weights):
        raise ValueError(checkpoints.UNTRAINED)
    path = found.path if found else None
    if not args.test_only:
        on_first(output.check, folder, path, args.resume, args.overwrite)
    run = assemble(args, accelerator)
    if found:
        told = checkpoints.resume(run, found)
    else:
        told, run.progress.epoch = [], args.start_epoch
        advance(run.scheduler, args.start_epoch)
    if not args.test_only:
        told += on_first(recording.begin, run, path)
    return run, told


def train(run: Run) -> None:
    """All epochs that are left."""
    progress, accelerator = run.progress, run.accelerator
    start = time.perf_counter()
    accelerator.init_trackers("dai_plugin", recording.plain(run.args))
    if progress.epoch >= run.args.epochs:
        run.say(f"{progress.epoch} epochs are done: --epochs asks no more")
    elif progress.epoch or progress.step:
        run.say(f"goes on in epoch {progress.epoch}, batch {progress.step}")
    if progress.epoch < run.args.epochs:
        watched.columns(run)  # what cannot be measured is told before an epoch is spent
    while progress.epoch < run.args.epochs:
        if progress.row is None:
            progress.row = train_epoch(run)
            run.scheduler.step()
        row = progress.row | test(run) | watched.columns(run)
        progress.finish(row)
        on_first(recording.write_results, run)
        recording.track(run, row)
        checkpoints.save_network(run)
        checkpoints.save(run)
    if progress.rows:
        run.say(best.told(progress.rows))
    scoring.show(run)
    took = timedelta(seconds=int(time.perf_counter() - start))
    run.say(f"Training time {took}")


def leave(run: Run, interruption: Interrupted) -> None:
    """Saves what there is to save, and ends the process with the signal's status."""
    told = f"train.py: {interruption}: "
    if not run.args.test_only:
        checkpoints.save(run)
        progress, path = run.progress, run.output / checkpoints.NAME
        told += (
            f"saved in epoch {progress.epoch}, batch {progress.step} of {run.batches}; "
            f"the same command with --resume {path} goes on from there"
        )
    run.say(told)
    run.accelerator.end_training()
    sys.exit(interruption.status)


def train_epoch(run: Run) -> dict[str, Any]:
    """What is left of an epoch; returns the row of metrics.csv."""
    args, progress, accelerator = run.args, run.progress, run.accelerator
    run.model.train()
    name = f"Epoch: [{progress.epoch}]"
    pace = Pace(name, args.print_freq, accelerator.is_main_process)
    first, seen = progress.step, progress.tally.seen
    batches = run.training.epoch(progress.epoch, first)
    mix = augmentations.of_batch(args, run.images.num_classes)
    problem = ""
    for i, shown, batch in pace.over(batches, progress.tally, first, run.batches):
        window, last = window_of(i, run.batches, args.gradient_accumulation_steps)
        with nullcontext() if last else accelerator.no_sync(run.model):
            images, targets = mix(*prepared(run, *batch))
            loss, outputs = loss_of(run, run.model(images), targets)
            accelerator.backward(loss / window)
        problem = measure(run, pace, shown, loss, outputs, targets) or problem
        if last:
            update(run)
            progress.step = i + 1
            run.watch.check(problem)
            ends = progress.step == run.batches
            if is_due(args.checkpoint_freq, progress.updates) and not ends:
                checkpoints.save(run)
    recording.tell_loading(run, pace)
    seen = progress.tally.seen - seen  # none, if it was resumed behind its last batch
    speed = seen * accelerator.num_processes / pace.total if seen else float("nan")
    return epoch_row(run, speed)


def prepared(run: Run, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The batch on the device, normalised."""
    device = run.accelerator.device
    images = images.to(device, non_blocking=True)
    targets = targets.to(device, non_blocking=True)
    images = run.images.preset.normalize(images)
    if run.args.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, targets


def loss_of(run: Run, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the output that it is about; auxiliary heads count by their weight.

    With `attach`, the invariance losses come with the first of the calls.
    """
    main, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = run.criterion(main, targets)
    for head in heads:
        weight = models.AUXILIARY[run.args.model]
        loss = loss + weight * run.criterion(head, targets)
    return loss, main


def window_of(batch: int, batches: int, steps: int) -> tuple[int, bool]:
    """Batches that share the batch's optimizer step, and whether it is their last."""
    first = batch - batch % steps
    window = min(steps, batches - first)
    return window, batch == first + window - 1


def is_due(every: int, updates: int) -> bool:
    """Whether a checkpoint is to be written after that many optimizer steps."""
    return every > 0 and updates % every == 0


def update(run: Run) -> None:
    """One optimizer step, and the average of weights after it."""
    args, progress = run.args, run.progress
    if args.clip_grad_norm:
        run.accelerator.clip_grad_norm_(run.model.parameters(), args.clip_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average:
        network = run.accelerator.unwrap_model(run.model)
        run.average.update(network, progress.updates, progress.epoch)
    progress.updates += 1


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(parse(sys.argv[1:]))))
