"""Files that are whole at any time: checkpoint.pth for `--resume`, and model.pth.

Each is written beside its place and moved there once it is on the disk: whoever kills
the run meanwhile, or fills the disk, leaves the file of before.
"""

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from accelerate.utils import gather_object
from faults import on_first
from run import Run
from torch.distributed.checkpoint import state_dict as states

NAME = "checkpoint.pth"
FULL = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


def write(path: Path, put: Callable[[IO[bytes]], None]) -> None:
    """Replaces a file by what `put` writes, all at once.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch's writer raises its own error after the system's.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        raise OSError(
            f"{path} cannot be written ({cause}); what was saved before is whole: make "
            "room there, then go on with --resume"
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    write(path, lambda file: file.write(text.encode()))


def save(run: Run) -> None:
    """Writes checkpoint.pth: all that an interrupted run needs to go on.

    Called by every process, between two optimizer steps.
    """
    content = _capture(run)
    path = run.output / NAME
    on_first(_save, path, content)


def save_network(run: Run) -> None:
    """Writes model.pth, for `dai-plugin score`: the network that was tested.

    With `--model-ema` it is the averaged one.
    """
    network = states.get_model_state_dict(run.model, options=FULL)
    if run.average:
        network = run.average.module.state_dict()
    preset = run.images.preset
    content = {
        "model": network,
        "model_args": run.options,
        "mean": list(preset.mean),
        "std": list(preset.std),
        "resize": preset.resize,
        "crop": preset.crop,
    }
    on_first(_save, run.output / "model.pth", content)


def resume(run: Run, content: dict[str, Any]) -> None:
    """Takes over what `load` returned.

    Raises:
        ValueError: it belongs to another network or another way of running.
    """
    if ("average" in content) != bool(run.average):
        change = "leave out" if run.average else "add"
        raise ValueError(f"--resume: the checkpoint asks to {change} --model-ema")
    try:
        states.set_model_state_dict(run.model, content["model"], options=FULL)
        if run.average:
            run.average.load_state_dict(content["average"])
    except RuntimeError as error:
        raise ValueError(
            "--resume: this is the checkpoint of another network than --model asks "
            f"for: {str(error)[:300]}"
        ) from error
    if not run.args.test_only:
        _restore_training(run, content)


def find(name: str, output: Path) -> Path | None:
    """The file that `--resume` means, None for `auto` without one."""
    path = output / NAME if name == "auto" else Path(name)
    path = path / NAME if path.is_dir() else path
    if name == "auto" and not path.is_file():
        return None
    return path


def load(name: str, output: Path) -> dict[str, Any] | None:
    """The content of a checkpoint; None for `auto` without one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or damaged.
    """
    path = find(name, output)
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume {name}: there is no file {path}; give the {NAME} of a run"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        cause = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(
            f"--resume: {path} is damaged or no checkpoint ({cause}); start anew "
            "without --resume"
        ) from error
    if not isinstance(content, dict) or "progress" not in content:
        raise ValueError(f"--resume: {path} is no checkpoint; give the {NAME} of a run")
    return content


def _save(path: Path, content: dict[str, Any]) -> None:
    for name, value in content["model"].items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} holds NaN or infinite values and is not saved; what was saved "
                "before is whole; try a lower --lr"
            )
    write(path, lambda file: torch.save(content, file))


def _capture(run: Run) -> dict[str, Any]:
    optimizer, scaler = run.optimizer.optimizer, run.accelerator.scaler
    own = {"random": random_states(), "tally": run.progress.tally.state_dict()}
    content = {
        "progress": run.progress.state_dict() | {"batches": run.batches},
        "processes": gather_object([own]),
        "model": states.get_model_state_dict(run.model, options=FULL),
        "optimizer": states.get_optimizer_state_dict(
            run.model, optimizer, options=FULL
        ),
        "scheduler": run.scheduler.state_dict(),
        "attachment": run.attachment.state_dict(),
    }
    if scaler is not None:
        content["scaler"] = scaler.state_dict()
    if run.average:
        content["average"] = run.average.state_dict()
    return content


def _restore_training(run: Run, content: dict[str, Any]) -> None:
    processes, progress = content["processes"], content["progress"]
    if len(processes) != run.accelerator.num_processes:
        raise ValueError(
            f"--resume: the checkpoint is of {len(processes)} process(es), this run "
            f"has {run.accelerator.num_processes}: start as many"
        )
    if progress["step"] and progress["batches"] != run.batches:
        raise ValueError(
            f"--resume: the checkpoint is of an epoch of {progress['batches']} "
            f"batches, this run's has {run.batches}: keep --batch-size and the data"
        )
    _restore_optimizer(run, content["optimizer"])
    run.scheduler.load_state_dict(content["scheduler"])
    run.attachment.load_state_dict(content["attachment"])
    if run.accelerator.scaler is not None and "scaler" in content:
        run.accelerator.scaler.load_state_dict(content["scaler"])
    own = processes[run.accelerator.process_index]
    run.progress.load_state_dict(progress)
    run.progress.tally.load_state_dict(own["tally"])
    restore_random_states(own["random"])


def _restore_optimizer(run: Run, content: dict[str, Any]) -> None:
    optimizer = run.optimizer.optimizer
    if content["state"]:
        states.set_optimizer_state_dict(run.model, optimizer, content, options=FULL)
        return
    # SGD without momentum keeps nothing for its parameters; torch 2.15 fails on that.
    for group, saved in zip(
        optimizer.param_groups, content["param_groups"], strict=True
    ):
        group["lr"] = saved["lr"]


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
