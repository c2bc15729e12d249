"""What a network does under transformations while it is trained: `--watch`.

Some held-out images are measured after each epoch, always the same ones. Every process
measures all of them: a sharded network runs on all processes or not at all.
"""

import dataclasses
from typing import Any

import torch
from run import Run
from torch import Tensor

import dai_plugin
from dai_plugin.training.untouched import untouched
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import find_scheme

# Of each layer, as "watch:MEASURE:LAYER", and of the output, as "watch:MEASURE".
OF_LAYERS = ("score", "first_component", "effective_rank")
OF_OUTPUT = (
    "consistency",
    "effective_invariance",
    "accuracy_transformed",
    "calibration_error_transformed",
)


def columns(run: Run) -> dict[str, float]:
    """Measures and tells, for a row of metrics.csv; nothing without `--watch`.

    With `--model-ema` of the averaged network. Weights, statistics and random numbers
    stay as they are.
    """
    if not run.args.watch:
        return {}
    network = run.accelerator.unwrap_model(run.model)
    network = run.average.module if run.average else network
    images, labels = held_out(run, run.args.watch)
    watch = dai_plugin.Watch(
        images,
        labels=labels,
        scheme=protocol(run),
        layers=run.attachment.layers,
        seed=run.args.seed,
    )
    known = Normalization.given(run.images.preset.mean, run.images.preset.std)
    with untouched(network):
        _, found = watch.look(network, known)
    of_layers = {
        f"watch:{measure}:{layer}": value
        for measure in OF_LAYERS
        for layer, value in found[measure].items()
    }
    of_output = {name: found[name]["output"] for name in OF_OUTPUT}
    cells = [f"{name} {value:.3f}" for name, value in of_output.items()]
    *_, last = found["score"].values()
    run.say(f"Watch: last layer's score {last:.3f}  {'  '.join(cells)}")
    return of_layers | {f"watch:{name}": value for name, value in of_output.items()}


def held_out(run: Run, most: int) -> tuple[Tensor, Tensor]:
    """Images `[n, 3, H, W]`, uint8, and classes `[n]` of at most so many.

    Evenly over the data set: an image folder is in the order of its classes.
    """
    test: Any = run.images.test
    count = len(test)
    places = torch.linspace(0, count - 1, min(count, most)).long().tolist()
    items = [test[i] for i in places]
    images = torch.stack([image for image, _ in items])
    return images, torch.tensor([int(label) for _, label in items])


def protocol(run: Run) -> dai_plugin.Scheme:
    """The paper's scheme for scores, with the flips of this run."""
    scheme = find_scheme("halved")
    assert isinstance(scheme, dai_plugin.Scheme)
    if run.args.flip is not None:
        scheme = dataclasses.replace(scheme, flip=run.args.flip)
    return scheme
