"""All of a run that a checkpoint keeps: taken, and given back.

State comes from the checkpoint, hyperparameters from the flags: learning rate, momentum
and weight decay are those of a run that had these flags from its beginning.
"""

import random
from typing import Any

import changes
import torch
from accelerate.utils import gather_object
from measuring import parts
from optimization import advance
from run import Run
from torch.distributed.checkpoint import state_dict as states

FULL = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


def tested(run: Run) -> dict[str, Any]:
    """The weights that are tested: with `--model-ema` the averaged ones.

    Called by every process.
    """
    network = states.get_model_state_dict(run.model, options=FULL)
    return run.average.module.state_dict() if run.average else network


def capture(run: Run) -> dict[str, Any]:
    """All that an interrupted run needs to go on, in tensors and plain types.

    Called by every process, between two optimizer steps.
    """
    optimizer, scaler = run.optimizer.optimizer, run.accelerator.scaler
    own = {
        "random": random_states(),
        "tally": run.progress.tally.state_dict(),
        "parts": parts(run),
    }
    content = {
        "arguments": _facts(run),
        "progress": run.progress.state_dict(),
        "processes": gather_object([own]),
        "model": states.get_model_state_dict(run.model, options=FULL),
        "optimizer": states.get_optimizer_state_dict(
            run.model, optimizer, options=FULL
        ),
        "attachment": run.attachment.state_dict(),
    }
    if scaler is not None:
        content["scaler"] = scaler.state_dict()
    if run.average:
        content["average"] = run.average.state_dict()
    return content


def restore(run: Run, content: dict[str, Any]) -> list[str]:
    """Takes over what `capture` returned; a line for each flag that has changed.

    Raises:
        ValueError: it belongs to another network or another way of running.
    """
    changed = changes.check(
        content["arguments"], _facts(run), content["progress"]["step"]
    )
    _restore_network(run, content)
    _restore_optimizer(run, content["optimizer"])
    progress, own = run.progress, content["processes"][run.accelerator.process_index]
    progress.load_state_dict(content["progress"])
    progress.tally.load_state_dict(own["tally"])
    progress.parts = own["parts"]
    # Trained, and not tested yet.
    advance(run.scheduler, progress.epoch + (progress.row is not None))
    run.attachment.load_state_dict(content["attachment"])
    if run.accelerator.scaler is not None and "scaler" in content:
        run.accelerator.scaler.load_state_dict(content["scaler"])
    restore_random_states(own["random"])
    return changed


def restore_for_test(run: Run, content: dict[str, Any]) -> None:
    """Takes over the weights alone, of a checkpoint or of a network's file.

    Raises:
        ValueError: they are another network's.
    """
    if "arguments" in content:
        changes.check_network(content["arguments"], _facts(run))
    else:
        run.average = None  # the file holds what was tested, averaged or not
    _restore_network(run, content)


def random_states() -> dict[str, Any]:
    """Of the generators that a training step draws from, in plain types."""
    found = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore_random_states(found: dict[str, Any]) -> None:
    """Lets the generators go on from there."""
    random.setstate(found["python"])
    torch.set_rng_state(found["torch"])
    if "cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["cuda"])


def _facts(run: Run) -> dict[str, Any]:
    processes = run.accelerator.num_processes
    return changes.facts(run.args, run.images.num_classes, processes, run.batches)


def _restore_network(run: Run, content: dict[str, Any]) -> None:
    try:
        states.set_model_state_dict(run.model, content["model"], options=FULL)
        if run.average:
            run.average.load_state_dict(content["average"])
    except RuntimeError as error:
        raise ValueError(
            "--resume: these are the weights of another network than --model asks "
            f"for: {str(error)[:300]}"
        ) from error


def _restore_optimizer(run: Run, content: dict[str, Any]) -> None:
    optimizer = run.optimizer.optimizer
    # SGD without momentum keeps nothing for its parameters; torch 2.15 fails on that.
    if not content["state"]:
        return
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    states.set_optimizer_state_dict(run.model, optimizer, content, options=FULL)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
