"""Accuracy and loss on held-out images, as they are and transformed."""

from typing import Any

import torch
from optimization import agree
from run import Run
from torch import Tensor
from torch.nn.functional import cross_entropy

from dai_plugin.measures.versions import Transformations
from dai_plugin.views.normalization import Normalization

TOP = 5  # as torchvision has it; of more classes than these


def test(run: Run) -> dict[str, float]:
    """Accuracies in per cent and the mean loss on the held-out images.

    With `--model-ema` they are those of the averaged network.

    Returns:
        acc1; acc5 where there are more than 5 classes; test_loss, with
        `--label-smoothing` as in training; acc1_augmented on transformed images.
    """
    network = run.average.module if run.average else run.model
    agree(network)
    plain = measure(run, network, None)
    augmented = measure(run, network, run.attachment.settings.scheme)
    found = plain | {"acc1_augmented": augmented["acc1"]}
    top = f"  Acc@{TOP} {found['acc5']:.3f}" if "acc5" in found else ""
    run.say(
        f"Test:  Acc@1 {found['acc1']:.3f}{top}  loss {found['test_loss']:.4f}  "
        f"Acc@1 augmented {found['acc1_augmented']:.3f}"
    )
    return found


@torch.no_grad()
def measure(run: Run, network: torch.nn.Module, scheme: Any) -> dict[str, float]:
    """What `test` returns, of one pass over the held-out images.

    With a scheme, every image is transformed once, the same way each time, whatever the
    size of the batches and the number of processes.
    """
    network.eval()
    accelerator, preset = run.accelerator, run.images.preset
    known = Normalization.given(preset.mean, preset.std)
    rank, processes = accelerator.process_index, accelerator.num_processes
    transformations = Transformations(scheme, 1, 0, rank, processes) if scheme else None
    parts = []
    for images, targets in run.testing:
        images = preset.normalize(images)
        if transformations:
            (images,) = transformations(images, known)
        with accelerator.autocast():
            outputs = network(images)
        own = of_images(outputs, targets, run.args.label_smoothing)
        parts.append(accelerator.gather_for_metrics(own).cpu())
        run.watch.check()
    names = ("acc1", "acc5", "test_loss")
    means = torch.cat(parts).double().mean(0).tolist()
    found = dict(zip(names, means, strict=True))
    if run.images.num_classes <= TOP:
        del found["acc5"]
    return found


def of_images(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """100 where an image's class is the first, or one of the first five; its loss.

    Args:
        outputs: logits `[N, C]`.
        targets: classes `[N]`.
        smoothing: of the labels, for the loss.

    Returns:
        `[N, 3]`, in float32.
    """
    outputs = outputs.float()
    first = outputs.topk(min(TOP, outputs.shape[1])).indices
    hits = 100.0 * first.eq(targets[:, None])
    loss = cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
    return torch.stack([hits[:, 0], hits.sum(1), loss], 1)
