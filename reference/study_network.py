"""Networks of studies: a small one, those of `models.py`, and functions in files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import models
import torch
from torch import nn

from dai_plugin.cli.sources import from_file


@dataclass(frozen=True)
class Network:
    """Which network a study trains.

    Attributes:
        name: "small", a name of `models.py`, or FILE.py:FUNCTION, the file beside this
            one or by its path; called with `num_classes` and the options.
        options: of its builder.
    """

    name: str = "small"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Self:
        """From a section of the file: name, and options beside it."""
        return cls(
            section.get("name", "small"),
            {name: value for name, value in section.items() if name != "name"},
        )

    def build(self, num_classes: int, seed: int) -> nn.Module:
        """The network with the weights of that seed; the global stream stays.

        Raises:
            ValueError: there is no such network.
            TypeError: it has no such option.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._build(num_classes)
        # A quarter faster on CPUs, and what GPUs like.
        return network.to(memory_format=torch.channels_last)

    def _build(self, num_classes: int) -> nn.Module:
        file, _, function = self.name.partition(".py:")
        if function:
            path = Path(f"{file}.py")
            path = path if path.is_file() else Path(__file__).parent / path
            make = from_file(path, function, "which returns a network")
            network: nn.Module = make(num_classes=num_classes, **self.options)
            return network
        if self.name == "small":
            return small(num_classes, **self.options)
        return models.build(self.name, num_classes=num_classes, **self.options)


def small(
    num_classes: int, channels: tuple[int, ...] = (24, 48, 96), inputs: int = 3
) -> nn.Sequential:
    """Two 3x3 convolutions a stage, batch norm and ReLU after each, a linear layer.

    The second convolution of each stage but the last has stride 2, as in All-CNN; the
    mean over the positions enters the linear layer. The ReLUs are relu1, relu2, ...

    Args:
        num_classes: number of outputs.
        channels: of each stage.
        inputs: channels of the images.
    """
    layers: dict[str, nn.Module] = {}
    for stage, width in enumerate(channels, 1):
        last = stage == len(channels)
        for number, stride in ((2 * stage - 1, 1), (2 * stage, 1 if last else 2)):
            convolution = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
            layers[f"conv{number}"] = convolution
            layers[f"norm{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            inputs = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["classifier"] = nn.Linear(inputs, num_classes)
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network
