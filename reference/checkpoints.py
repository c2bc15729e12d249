"""The files of weights in a run's folder, written and found again.

checkpoint.pth is for `--resume`, previous.pth the one before it; model.pth is the
network of the last epoch, best.pth that of the best one.
"""

from pathlib import Path
from typing import Any, NamedTuple

import state
from best import best_of
from faults import on_first
from files import damage, keep_as, read_sealed, write_sealed
from run import Run

NAME, PREVIOUS, MODEL, BEST = "checkpoint.pth", "previous.pth", "model.pth", "best.pth"
UNTRAINED = (
    "--test-only without weights would test an untrained network: add --resume FILE, "
    f"the {NAME}, {MODEL} or {BEST} of a run, or --weights"
)


class Found(NamedTuple):
    """A file that `--resume` means, and what it holds."""

    path: Path
    content: dict[str, Any]


def save(run: Run) -> None:
    """Writes checkpoint.pth: all that an interrupted run needs to go on.

    Called by every process, between two optimizer steps.
    """
    on_first(_replace, run.output / NAME, state.capture(run))


def save_network(run: Run) -> None:
    """Writes model.pth, for `dai-plugin score`: the network that was tested.

    It is best.pth too, if no epoch before it was as good.
    """
    preset, rows = run.images.preset, run.progress.rows
    content = {
        "model": state.tested(run),
        "model_args": run.options,
        "mean": list(preset.mean),
        "std": list(preset.std),
        "resize": preset.resize,
        "crop": preset.crop,
        "epoch": rows[-1]["epoch"],
        "acc1": rows[-1]["acc1"],
    }
    names = [MODEL, BEST] if best_of(rows) is rows[-1] else [MODEL]
    for name in names:
        on_first(_save, run.output / name, content)


def resume(run: Run, found: Found) -> list[str]:
    """Takes over what `load` found; lines that tell what is not as it was.

    Raises:
        ValueError: it belongs to another network or another way of running.
    """
    if run.args.test_only:
        state.restore_for_test(run, found.content)
        return []
    return [f"--resume: {line}" for line in state.restore(run, found.content)]


def bring_best(run: Run, folder: Path) -> str:
    """Brings the best.pth of a resumed run along; what is wrong with it, if anything.

    Args:
        run: resumed from a file in that folder.
        folder: where its best.pth lies.
    """
    if not run.progress.rows:
        return ""
    row, path = best_of(run.progress.rows), folder / BEST
    try:
        content = read_sealed(path)
    except ValueError as error:
        missing = str(error)
    else:
        if (content["epoch"], content["acc1"]) == (row["epoch"], row["acc1"]):
            if path.resolve() != (run.output / BEST).resolve():
                write_sealed(run.output / BEST, content)
            return ""
        missing = f"it is of epoch {content['epoch']}"
    return (
        f"{path} is not the network of epoch {row['epoch']}, the best so far "
        f"({missing}): best.pth is written again after an epoch better than its "
        f"Acc@1 {row['acc1']:.3f}"
    )


def find(name: str, output: Path) -> Path | None:
    """The file that `--resume` means, None for `auto` without one."""
    path = output if name == "auto" else Path(name)
    if path.is_dir():
        path = path / NAME if (path / NAME).is_file() else path / PREVIOUS
    if name == "auto" and not path.is_file():
        return None
    return path


def load(name: str, output: Path, test_only: bool = False) -> Found | None:
    """A checkpoint, or for `test_only` any file of weights.

    Returns:
        None for a run that starts anew: without `--resume`, or `auto` and none there.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or damaged.
    """
    path = find(name, output) if name else None
    if path is None:
        return None
    if not path.is_file():
        raise FileNotFoundError(
            f"--resume {name}: there is no file {path}; give the {NAME} of a run"
        )
    try:
        content = read_sealed(path)
    except ValueError as error:
        raise ValueError(
            f"--resume: {path} is damaged or no checkpoint of train.py ({error}); "
            f"{_instead(path)}"
        ) from error
    if "progress" not in content and not (test_only and "model" in content):
        raise ValueError(
            f"--resume: {path} holds a network and no run to go on with; test it with "
            f"--test-only, or give the {NAME} of a run"
        )
    return Found(path, content)


def _instead(path: Path) -> str:
    """What to resume from instead of a damaged file."""
    others = [path.with_name(name) for name in (NAME, PREVIOUS)]
    others = [p for p in others if p != path and p.is_file() and not damage(p)]
    if not others:
        return (
            "no intact one lies beside it: start anew with --overwrite in place of "
            "--resume"
        )
    newest = max(others, key=lambda other: other.stat().st_mtime)
    progress = read_sealed(newest)["progress"]
    return (
        f"the newest intact one is of epoch {progress['epoch']}, batch "
        f"{progress['step']}: --resume {newest}"
    )


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, and keeps the one before it."""
    _check_finite(content["model"])
    if path.is_file() and not damage(path):
        keep_as(path, PREVIOUS)
    write_sealed(path, content)


def _save(path: Path, content: dict[str, Any]) -> None:
    _check_finite(content["model"])
    write_sealed(path, content)


def _check_finite(weights: dict[str, Any]) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} holds NaN or infinite values and is not saved; what was saved "
                "before is whole; try a lower --lr"
            )
