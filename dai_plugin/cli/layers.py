"""`dai-plugin layers`: what would be looked at, with shapes."""

import argparse

import torch

from dai_plugin.cli import chosen
from dai_plugin.cli.tables import table
from dai_plugin.measures.taps import activation_shapes


def run(options: argparse.Namespace) -> int:
    """Prints the layers in the order in which they fire; returns the exit status."""
    loaded = chosen.network(options)
    names = chosen.layers(options, loaded)
    _, size = chosen.size(options, loaded)
    example = torch.zeros(1, loaded.channels, size, size)
    shapes = activation_shapes(loaded.model, names, example)
    modules = dict(loaded.model.named_modules())
    rows = []
    for depth, (name, shape) in enumerate(shapes.items(), start=1):
        module = modules.get(name, modules.get(name.rpartition(":")[0]))
        sizes = " x ".join(str(n) for n in shape[1:])
        rows.append((str(depth), name, type(module).__name__, sizes))
    print(
        f"{len(shapes)} layers of {options.model} for images {list(example.shape[1:])}"
    )
    print(table(["depth", "layer", "module", "shape"], rows))
    return 0
