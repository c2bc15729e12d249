"""Files that are whole at any time: written beside their places, then moved there.

Whoever kills the process meanwhile, or fills the disk, leaves what was there before.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BESIDE = ".unfinished"


def write(path: Path, put: Callable[[IO[bytes]], object]) -> None:
    """Replaces a file by what `put` writes, all at once.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def together(folder: Path, last: str, earlier: Iterable[str] = ()) -> Iterator[Path]:
    """A new folder, whose files take their places in `folder` at the end, all of them.

    While they move, the file `last` is missing: a folder without it holds no results,
    so that new and old ones are never taken for those of one run.

    Args:
        folder: where the files are to be; made if it is not there.
        last: name of the file that is moved last.
        earlier: names of files that an earlier run may have left, removed if they are
            not written anew.

    Raises:
        OSError: they cannot be written; what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / _BESIDE
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    beside.mkdir()
    try:
        yield beside
        written = sorted(beside.iterdir(), key=lambda path: (path.name == last, path))
        for path in written:
            _sync(path)
        for name in (last, *earlier):  # the last one first
            (folder / name).unlink(missing_ok=True)
        for path in written:
            os.replace(path, folder / path.name)
        _sync(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Has the system bring it to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
