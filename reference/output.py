"""The folder of a run: one run at a time, and nothing in it overwritten unasked."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from checkpoints import BEST, MODEL, NAME, PREVIOUS
from faults import on_first

LOCK = ".lock"
# What somebody may want to keep: without one of them nothing has been trained yet.
RESULTS = (
    *(NAME, PREVIOUS, MODEL, BEST, "metrics.csv"),
    *("measures.npz", "scores.csv", "summary.json", "invariance.png"),
)
EVENTS = "dai_plugin/**/events*"  # of TensorBoard, which adds to what is there


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it.

    The system takes the lock away from a process that ends, whatever ended it; those
    that it has forked never have it.

    Raises:
        OSError: the folder cannot be written.
        ValueError: another run is in it.
    """
    held: list[IO[str]] = []
    was_there = folder.exists()
    on_first(lambda: held.append(_take(folder)))
    try:
        yield
    finally:
        for file in held:
            _leave(folder, was_there)
            file.close()


def check(folder: Path, resumed: Path | None, resume: str, overwrite: bool) -> None:
    """Refuses a folder whose results would be lost.

    Args:
        folder: of the run.
        resumed: the checkpoint that it goes on from.
        resume: how that was asked for.
        overwrite: whether what lies there may go.

    Raises:
        ValueError: there are results that this run does not go on from.
    """
    goes_on = resumed is not None and resumed.resolve().parent == folder.resolve()
    if goes_on and overwrite:
        raise ValueError(
            f"--overwrite would take {resumed} away, which --resume {resume} goes on "
            "from: leave one of the two out"
        )
    found = [name for name in RESULTS if (folder / name).exists()]
    if not found or goes_on or overwrite:
        return
    has = [name for name in (NAME, PREVIOUS) if name in found]
    go_on = "go on from them with --resume auto, " if has else ""
    raise ValueError(
        f"--output-dir {folder} holds the results of a run ({_about(folder)}"
        f"{', '.join(found)}): {go_on}replace them with --overwrite, or choose another "
        "folder"
    )


def clear(folder: Path) -> None:
    """Takes the results away, for `--overwrite`."""
    for pattern in (*RESULTS, EVENTS):
        for path in folder.glob(pattern):
            path.unlink()


def _take(folder: Path) -> IO[str]:
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise OSError(
            f"--output-dir {folder} cannot be written: {error}; choose another folder"
        ) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            file.seek(0)
            raise _taken(folder, file.read().strip(), error) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {_now()}\n")
    file.flush()
    return file


def _leave(folder: Path, was_there: bool) -> None:
    """Takes away what the lock brought, if nothing came of the run."""
    if [path.name for path in folder.iterdir()] == [LOCK]:
        (folder / LOCK).unlink()
        if not was_there:
            folder.rmdir()


def _taken(folder: Path, holder: str, error: OSError) -> Exception:
    if isinstance(error, BlockingIOError | PermissionError):
        return ValueError(
            f"--output-dir {folder} is in use by another run ({holder}): wait until it "
            "has ended, or choose another folder"
        )
    return OSError(
        f"--output-dir {folder} cannot be locked ({error}), so that two runs could "
        "write into it: choose a folder on a file system with locks"
    )


def _about(folder: Path) -> str:
    """Which run it was, as far as it says so."""
    try:
        about: dict[str, Any] = json.loads((folder / "run.json").read_text())
        flags, done = about["arguments"], about["results"]["epochs_done"]
        return (
            f"{flags['model']} on {flags['dataset']}, {done} of {flags['epochs']} "
            f"epochs, begun {about['date']}: "
        )
    except (OSError, ValueError, KeyError):
        return ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
