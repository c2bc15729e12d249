"""Folders for results: looked at before the work, filled after it, all at once."""

import csv
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dai_plugin.cli.failures import UsageError
from dai_plugin.files import together
from dai_plugin.measures.results import FILE

SCORES = "scores.csv"
SUMMARY = "summary.json"
ROWS = "measures.csv"
PICTURE = "invariance.png"
# What `measure` and `score` may leave; a folder holds the results of one of them.
_MEASURED = (FILE, ROWS, SCORES, SUMMARY, PICTURE)


def output_folder(path: str, inputs: Iterable[str] = ()) -> Path:
    """The folder of `--output`, once it is clear that files can be written there.

    Args:
        path: of the folder, which need not be there.
        inputs: folders of images; pictures of results below them would be taken for
            more of these.

    Raises:
        UsageError: it is no folder, or lies in one of the inputs.
        OSError: nothing can be written there.
    """
    folder = Path(path)
    for given in map(Path, inputs):
        if given.is_dir() and folder.resolve().is_relative_to(given.resolve()):
            raise UsageError(
                f"argument --output: {folder} lies in the data folder {given}, whose "
                "images are read at any depth; give a folder outside it"
            )
    for each in (folder, *folder.parents):
        if each.exists() and not each.is_dir():
            raise UsageError(f"argument --output: {each} is no folder")
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"nothing can be written to --output {folder} ({error.strerror})"
        ) from error
    finally:
        for each in missing:  # they are made again when there is something to write
            if each.exists():
                each.rmdir()
    return folder


@contextmanager
def results(
    folder: Path, last: str = FILE, earlier: Iterable[str] = _MEASURED
) -> Iterator[Path]:
    """A folder to write results to, which take their places at the end, all of them.

    Raises:
        OSError: the disk is full, or the folder cannot be written any more.
    """
    try:
        with together(folder, last, earlier) as beside:
            yield beside
    except OSError as error:
        raise OSError(
            f"the results cannot be written to {folder} "
            f"({error.strerror or error}); what was there before is whole: make room, "
            "or give another folder"
        ) from error


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a table: six digits of each float, nothing for None."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(
                [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
            )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with six digits behind the point; what is not finite becomes null."""
    path.write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
