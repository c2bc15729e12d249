"""Every classification network of torchvision, at the smallest size it allows.

`python tests/networks.py` writes docs/layers.md, which the tests compare with.
"""

from pathlib import Path

import torch
import torchvision

NAMES = torchvision.models.list_models(module=torchvision.models)
SAMPLE = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet",
    "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "swin_t", "vit_b_16",
]  # fmt: skip

# Pixels a side; vision transformers are built for their images.
_SIZES = {"alexnet": 63, "inception_v3": 299, "maxvit_t": 224, "squeezenet": 64}


def build(name, num_classes=7):
    """The network with random weights, and the side of its images."""
    options = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    size = next((s for start, s in _SIZES.items() if name.startswith(start)), 48)
    if name.startswith("vit"):
        size = 28 if name == "vit_h_14" else 32
        options["image_size"] = size
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **options), size


def table_row(name, layers):
    """One line of docs/layers.md."""
    return f"| {name} | {len(layers)} | `{layers[0]}` | `{layers[-1]}` |"


def write_table(path):
    """What "auto" takes of every network."""
    from dai_plugin import select_layers

    lines = [
        '# What `layers="auto"` takes',
        "",
        "The outputs of the blocks that a network repeats, else the activation after "
        "each convolution.",
        f"Every classification network of torchvision {torchvision.__version__} "
        f"({len(NAMES)}), written by `python tests/networks.py`;",
        "`make test-all` trains a step on each of them with these layers.",
        "",
        "| network | layers | first | last |",
        "|---|--:|---|---|",
    ]
    for name in NAMES:
        lines.append(table_row(name, select_layers(build(name)[0])))
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_table(Path(__file__).parents[1] / "docs" / "layers.md")
