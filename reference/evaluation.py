"""The accuracy on held-out images, as they are and transformed."""

from typing import Any

import torch
from optimization import agree
from run import Run

from dai_plugin.measures.data import Transformations
from dai_plugin.views.normalization import Normalization


def test(run: Run) -> dict[str, float]:
    """Accuracies in per cent: on the held-out images, and on augmented ones.

    With `--model-ema` they are those of the averaged network.
    """
    network = run.average.module if run.average else run.model
    agree(network)
    accuracies = {
        "acc1": accuracy(run, network, None),
        "acc1_augmented": accuracy(run, network, run.attachment.settings.scheme),
    }
    plain, augmented = accuracies.values()
    run.say(f"Test:  Acc@1 {plain:.3f}  Acc@1 augmented {augmented:.3f}")
    return accuracies


@torch.no_grad()
def accuracy(run: Run, network: torch.nn.Module, scheme: Any) -> float:
    """Per cent of the held-out images that are classified right.

    With a scheme, every image is transformed once, the same way each time, whatever the
    size of the batches and the number of processes.
    """
    network.eval()
    accelerator, preset = run.accelerator, run.images.preset
    known = Normalization.given(preset.mean, preset.std)
    rank, processes = accelerator.process_index, accelerator.num_processes
    transformations = Transformations(scheme, 1, 0, rank, processes) if scheme else None
    correct = total = 0
    for images, targets in run.testing:
        images = preset.normalize(images)
        if transformations:
            (images,) = transformations(images, known)
        with accelerator.autocast():
            predictions = network(images).argmax(1)
        predictions, targets = accelerator.gather_for_metrics((predictions, targets))
        correct += predictions.eq(targets).sum().item()
        total += len(targets)
        run.watch.check()
    return 100 * correct / total
