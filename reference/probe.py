"""What frozen features are good for: two classifiers on top of a run's network.

    python reference/probe.py runs/invariance runs/baseline

What enters the network's last layer is taken of all training and held-out images, as
they are. A linear probe (multinomial logistic regression) and the nearest class mean
are fitted to the training images, and tested on the held-out ones. Beside their
accuracies stands how far the features have collapsed, and an untrained network of the
same kind, which says how much of it the training has brought.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import data
import models
import torch
from faults import guarded
from files import read_sealed, write_json
from presets import Preset, Wanted
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from dai_plugin.layers import select_layers
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.units import Spectrum

NAME = "probe.json"
DECAY = 1e-3  # of the probe's weights, on features of standard deviation 1
STEPS = 200
BATCH = 256


def main(arguments: list[str]) -> None:
    """Prints and writes what was found of each run's network.

    Raises:
        ValueError: a folder holds no finished run.
    """
    parser = argparse.ArgumentParser(
        usage="probe.py RUN... [flags]", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of train.py")
    parser.add_argument("--weights", default="model.pth", help="which file of the run")
    parser.add_argument("--data-path", help="of the images, if they have moved")
    args = parser.parse_args(arguments)
    for folder in args.runs:
        found = probed(folder, args.weights, args.data_path)
        write_json(folder / NAME, found)
        for name, row in found.items():
            cells = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"{folder.name}, {name}: {cells}", flush=True)


def probed(
    folder: Path, file: str, data_path: str | None = None
) -> dict[str, dict[str, float]]:
    """What the network of a run is good for, and what it was before it was trained."""
    flags, content = _read(folder, file)
    images = data.load(
        flags["dataset"],
        data_path or flags["data_path"],
        Wanted(
            flags["train_crop_size"],
            content["crop"],
            content["resize"],
            flags["interpolation"],
            (tuple(content["mean"]), tuple(content["std"])),
        ),
        train_images=flags["train_images"],
        test_images=flags["test_images"],
    )
    torch.manual_seed(flags["seed"])
    network = models.build(flags["model"], **content["model_args"])
    untrained = of_network(network, images)
    network.load_state_dict(content["model"])
    return {"trained": of_network(network, images), "untrained": untrained}


def of_network(network: nn.Module, images: data.Data) -> dict[str, float]:
    """Accuracies in per cent of both classifiers, and how far the features collapsed.

    `first_component` and `effective_rank` are those of `dai_plugin.measure`: of the
    held-out images' features, here averaged over the positions of a map, as the
    classifiers get them. The rank exceeds neither `features` nor the images less one.
    """
    train, test = (
        features(network, part, images.preset) for part in (images.train, images.test)
    )
    collapsed = spectrum(test[0])
    return {
        "linear_probe": accuracy(linear_probe(*train, images.num_classes), test),
        "class_mean": accuracy(class_means(*train, images.num_classes), test),
        **collapsed,
        "features": train[0].shape[1],
    }


@torch.no_grad()
def features(
    network: nn.Module, images: Dataset, preset: Preset
) -> tuple[Tensor, Tensor]:
    """What enters the last layer `[N, D]`, maps averaged; the classes `[N]`."""
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    taps = Taps(network, select_layers(network, "penultimate"))

    def keep(_: Any, activation: Tensor) -> None:
        maps = activation.dim() == 4
        rows.append(activation.mean((2, 3)) if maps else activation.flatten(1))

    with taps.looking():
        for batch, targets in DataLoader(images, BATCH):
            taps.run(preset.normalize(batch), keep)
            labels.append(targets)
    return torch.cat(rows).double(), torch.cat(labels).long()


Classifier = Any


def linear_probe(rows: Tensor, labels: Tensor, classes: int) -> Classifier:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    Minimises the mean cross entropy plus DECAY / 2 times the squared weights, which is
    convex: the result does not depend on where it starts.

    Args:
        rows: features `[N, D]`.
        labels: `[N]`.
        classes: C.

    Returns:
        From features `[n, D]` to class scores `[n, C]`.
    """
    mean, std = rows.mean(0), rows.std(0)
    scale = torch.where(std > 0, std, 1)
    inputs = (rows - mean) / scale
    weight = torch.zeros(classes, rows.shape[1], dtype=rows.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=rows.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(inputs @ weight.T + bias, labels)
        loss = loss + DECAY / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return lambda others: ((others - mean) / scale) @ weight.detach().T + bias.detach()


def class_means(rows: Tensor, labels: Tensor, classes: int) -> Classifier:
    """The class whose mean is nearest, by the Euclidean distance of the features.

    Args and returns as of `linear_probe`; a class without images is never chosen.
    """
    members = torch.nn.functional.one_hot(labels, classes).to(rows.dtype)
    counts = members.sum(0)
    means = members.T @ rows / counts.clamp(min=1)[:, None]
    away = torch.where(counts > 0, 0.0, -torch.inf)
    return lambda others: away - torch.cdist(others, means)


def accuracy(classifier: Classifier, test: tuple[Tensor, Tensor]) -> float:
    """In per cent, of features and their classes."""
    rows, labels = test
    return 100 * classifier(rows).argmax(1).eq(labels).double().mean().item()


def spectrum(rows: Tensor) -> dict[str, float]:
    """Share of the first component and effective rank of features `[N, D]`."""
    mean = rows.mean(0)
    found = Spectrum(mean)
    found.update(rows - mean)
    share, rank = found.values()
    return {"first_component": float(share), "effective_rank": float(rank)}


def _read(folder: Path, file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags of a run, and the file of its network."""
    about = folder / "run.json"
    if not about.is_file():
        raise ValueError(f"{folder} holds no run.json: give the folder of a run")
    flags = json.loads(about.read_text())["arguments"]
    try:
        content = read_sealed(folder / file)
    except ValueError as error:
        raise ValueError(
            f"{folder / file} holds no network ({error}); it is written after the "
            "first epoch"
        ) from error
    if "model_args" not in content:
        raise ValueError(
            f"{folder / file} is a checkpoint, which a run goes on from: give "
            "model.pth or best.pth to --weights"
        )
    return flags, content


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
