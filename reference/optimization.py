"""What changes the weights: optimizer, learning-rate schedule, average of weights."""

import argparse
import warnings
from typing import Any

import torch
import torch.distributed as dist
from parameters import decay_groups
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_optimizer(
    model: nn.Module, args: argparse.Namespace
) -> torch.optim.Optimizer:
    """The optimizer of `--opt`, with the weight decay of each kind of parameter."""
    parameters = decay_groups(model, args)
    common: dict[str, Any] = {"lr": args.lr}
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
        "multisteplr": lambda: schedules.MultiStepLR(
            optimizer, [m - warmup for m in args.lr_milestones], gamma=args.lr_gamma
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


def advance(schedule: torch.optim.lr_scheduler.LRScheduler, epochs: int) -> None:
    """Brings a schedule to where a run of so many epochs has it."""
    with warnings.catch_warnings():
        # torch misses the optimizer's steps, which were those of another process.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        while schedule.last_epoch < epochs:
            schedule.step()


def agree(network: nn.Module) -> None:
    """Gives every process the buffers of the first, which are those that are saved.

    Batch norm's differ: DistributedDataParallel sends them around before a forward,
    FSDP never, and an average of weights follows its own process.
    """
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


class WeightAverage:
    """Exponential moving average of weights and buffers, as torchvision takes it.

    Args:
        model: on its device; the average is a stock copy of it.
        images: of all processes in an optimizer step.
        args: `--model-ema-steps`, `--model-ema-decay`, `--epochs` and the warm-up.

    Attributes:
        module: the averaged network.
    """

    def __init__(self, model: nn.Module, images: int, args: argparse.Namespace) -> None:
        self._every, self._warmup = args.model_ema_steps, args.lr_warmup_epochs
        # torchvision's: the decay is stated for one image a step and one epoch.
        adjust = images * args.model_ema_steps / max(args.epochs, 1)
        decay = 1 - min(1.0, (1 - args.model_ema_decay) * adjust)
        average = get_ema_multi_avg_fn(decay)
        self._model = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.module: nn.Module = self._model.module

    def update(self, model: nn.Module, updates: int, epoch: int) -> None:
        """Takes in the weights after optimizer step number `updates`, from 0."""
        if updates % self._every:
            return
        self._model.update_parameters(model)
        if epoch < self._warmup:
            self._model.n_averaged.zero_()  # the next update starts over from a copy

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers and the number of updates."""
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._model.load_state_dict(state)
