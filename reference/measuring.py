"""What is taken down of a training step, and the row that an epoch comes to."""

from typing import Any

from accelerate.utils import gather_object
from meters import Pace
from run import Parts, Run
from torch import Tensor


def measure(
    run: Run, pace: Pace, shown: bool, loss: Tensor, outputs: Tensor, targets: Tensor
) -> str:
    """Adds the step to the tally; returns what is wrong with its loss, if anything.

    Losses are read at each step on the CPU; on an accelerator, where reading waits for
    the device, at the steps that are printed.
    """
    tally, images = run.progress.tally, len(targets)
    if targets.dim() == 2:  # mixed: the larger share counts
        targets = targets.argmax(1)
    correct = outputs.argmax(1).eq(targets).sum()
    tally.seen += images
    tally.rows += rows_of(run, images)
    tally.right = tally.right + correct
    if not shown and run.accelerator.device.type != "cpu":
        return ""
    task, inv, layers = parts(run)
    values = {
        "lr": run.optimizer.param_groups[0]["lr"],
        "loss": loss.item(),
        "task": task,
        "inv": inv,
        "acc1": 100 * correct.item() / images,
        "img/s": images * run.accelerator.num_processes / pace.seconds,
    }
    tally.update(images, values, layers)
    if abs(values["loss"]) < float("inf"):
        return ""
    return (
        f"the loss is {values['loss']} (task {values['task']}, layers {layers}); what "
        "was saved before is whole; try a lower --lr"
    )


def rows_of(run: Run, images: int) -> int:
    """What the training forward just done made of so many images."""
    settings, step = run.attachment.settings, run.attachment.state_dict()["step"] - 1
    return settings.layout(images).rows if settings.has_views(step) else images


def parts(run: Run) -> Parts:
    """Of the loss of the last step with views (`--every`).

    A run that was resumed behind that step has them from its checkpoint.
    """
    stats = run.attachment.stats()
    if stats["task_loss"] is not None:
        first = stats["layers"].values()
        inv = sum(first) / max(len(first), 1)
        run.progress.parts = stats["task_loss"], inv, columns(stats["terms"])
    return run.progress.parts


def columns(terms: dict[str, dict[str, float]]) -> dict[str, float]:
    """Losses by column: "layer:NAME" of the first term, "TERM:NAME" of the others."""
    names = ["layer", *list(terms)[1:]]
    return {
        f"{name}:{layer}": value
        for name, losses in zip(names, terms.values(), strict=True)
        for layer, value in losses.items()
    }


def epoch_row(run: Run, speed: float) -> dict[str, Any]:
    """Means over all processes."""
    parts = gather_object([run.progress.tally.means()])
    means = {k: sum(part[k] for part in parts) / len(parts) for k in parts[0]}
    layers = {k: v for k, v in means.items() if k.startswith("layer:")}
    cells = " | ".join(f"{k.removeprefix('layer:')} {v:.3f}" for k, v in layers.items())
    alpha = run.attachment.stats()["alpha"]
    run.say(f"inv[{cells}] alpha {alpha:.3f}")
    return {
        "epoch": run.progress.epoch,
        **seen_by(run),
        "lr": run.optimizer.param_groups[0]["lr"],
        "images_per_second": speed,
        **means,
    }


def seen_by(run: Run) -> dict[str, int]:
    """Images since the run began, and their rows, views among them."""
    before = run.progress.rows[-1] if run.progress.rows else {"images": 0, "rows": 0}
    tally = run.progress.tally
    parts = gather_object([{"images": tally.seen, "rows": tally.rows}])
    return {
        name: count + sum(part[name] for part in parts)
        for name, count in (("images", before["images"]), ("rows", before["rows"]))
    }
