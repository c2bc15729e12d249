"""Tiny networks and pictures for the tests of the command line."""

import torch
from PIL import Image

NETWORKS = """
import torch
from torch import nn

def build(seed=0, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )
"""


def draw_pictures(folder, count=20, side=24, seed=0):
    """Images of smooth random colours in two classes."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        image = nn_resize(coarse, side)[0]
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i:03}.png")
    return folder


def nn_resize(images, side):
    return torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear")


def arguments(command, file, data, output, *more):
    """The words of a command that measures a network of a file."""
    return [
        command, "--model", f"{file}:build", "--data", str(data), "--output",
        str(output), "--resize", "24", "--crop", "24", "--workers", "0",
        "--num-transforms", "2", *map(str, more),
    ]  # fmt: skip
