"""The network before its first step: built, tried, given weights, frozen in part."""

import argparse
from dataclasses import dataclass
from typing import Any

import models
import torch
import weights
from accelerate import Accelerator
from parameters import freeze
from presets import Preset
from torch import nn


@dataclass(frozen=True)
class Network:
    """What a run starts with.

    Attributes:
        model: on the CPU.
        options: arguments that its builder got: what model.pth has to remember.
        notes: lines that say which weights it has, and which of them stay.
    """

    model: nn.Module
    options: dict[str, Any]
    notes: list[str]


def start(
    args: argparse.Namespace,
    accelerator: Accelerator,
    preset: Preset,
    num_classes: int,
    pretrained: weights.Pretrained | None,
) -> Network:
    """The network that the flags ask for.

    Raises:
        ValueError: there is none, it does not run on images of that size, or flags do
            not go with it.
    """
    options = models.arguments(args.model, num_classes, args.width)
    if pretrained:
        options = {**pretrained.options, **options}
    model = models.build(args.model, **options)
    sides = {
        "--train-crop-size": preset.training().crop,
        "--val-crop-size": preset.crop,
    }
    for flag, side in sides.items():
        model.train(flag == "--train-crop-size")
        models.try_size(model, args.model, side, flag)
    notes = []
    if pretrained:
        notes.append(weights.take(model, pretrained, num_classes))
    if args.freeze:
        notes.append(f"--freeze: {freeze(model, args.freeze)} parameters stay")
    return Network(_converted(model.train(), args, accelerator), options, notes)


def _converted(
    model: nn.Module, args: argparse.Namespace, accelerator: Accelerator
) -> nn.Module:
    if args.sync_bn:
        if accelerator.device.type == "cpu":
            raise ValueError(
                "--sync-bn: torch's SyncBatchNorm runs on GPUs alone, and this run is "
                "on the CPU: leave the flag out"
            )
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model
