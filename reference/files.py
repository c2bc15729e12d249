"""Files that are whole at any time, and tell when they are not.

Whoever kills the run while one is written, or fills the disk, leaves that of before.
What torch writes is a ZIP archive; the comment at its end is used for the SHA-256 of
all bytes before it.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from dai_plugin import files

ARCHIVE = b"PK\x03\x04"  # how a ZIP archive begins
LABEL = b"sha256:"
SEAL = len(LABEL) + 2 * hashlib.sha256().digest_size


def write(path: Path, put: Callable[[IO[bytes]], object]) -> None:
    """Replaces a file by what `put` writes, all at once.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    try:
        files.write(path, put)
    except (OSError, RuntimeError) as error:
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


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file of `torch.save` by one that any changed byte gives away."""

    def put(file: IO[bytes]) -> None:
        torch.save(content, file)
        file.seek(-2, os.SEEK_END)  # the length of the archive's comment: none so far
        file.write(SEAL.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(LABEL + digest.encode())

    write(path, put)


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote, on the CPU.

    Raises:
        ValueError: not a byte more or less or other than that was found.
    """
    if found := damage(path):
        raise ValueError(found)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(str(error).partition("\n")[0][:200]) from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def damage(path: Path) -> str:
    """What is wrong with a file of `write_sealed`, if anything."""
    try:
        with path.open("rb") as file:
            return _damage(file)
    except OSError as error:
        return str(error)


def keep_as(path: Path, name: str) -> None:
    """Keeps the file under a second name, even when its own is given to another."""
    kept = path.with_name(name)
    partial = _beside(kept)
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without links
        shutil.copyfile(path, partial)
    os.replace(partial, kept)
    partial.unlink(missing_ok=True)  # it stays if both are names of one file already


def _damage(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return "it is empty"
    file.seek(0)
    if file.read(len(ARCHIVE)) != ARCHIVE:
        return "it is no file of torch.save"
    file.seek(max(size - SEAL, 0))
    seal = file.read()
    if not seal.startswith(LABEL):
        return "its end, with the checksum, is missing"
    if seal != LABEL + _digest(file, size - SEAL):
        return "its bytes are not those that were written: their SHA-256 is another"
    return ""


def _digest(file: IO[bytes], count: int) -> bytes:
    """Of the first so many bytes."""
    file.seek(0)
    sha256 = hashlib.sha256()
    while count:
        part = file.read(min(count, 2**20))
        sha256.update(part)
        count -= len(part)
    return sha256.hexdigest().encode()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
