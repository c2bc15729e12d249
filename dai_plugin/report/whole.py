"""Files that are written as a whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_whole(files: Mapping[Path, bytes]) -> list[Path]:
    """Writes files beside their places, then moves all of them there.

    A full disk or an interrupt while they are written leaves what was there before.

    Args:
        files: contents by path; their folders are made.

    Returns:
        The paths.
    """
    unfinished = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished[path].write_bytes(content)
        for path, beside in unfinished.items():
            beside.replace(path)
    finally:
        for beside in unfinished.values():
            beside.unlink(missing_ok=True)
    return list(files)
