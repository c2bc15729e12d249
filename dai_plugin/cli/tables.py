"""Tables for the terminal, whose columns never run into each other."""

import math
import shutil
import sys
from collections.abc import Iterator, Sequence

_GAP = "  "


def terminal_width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None
) -> str:
    """Lines with a head; numbers stand at the right of their column.

    Args:
        head: of each column.
        rows: of as many cells; None and NaN are shown as "-".
        width: of the terminal. Columns that do not fit stand below the others, in a
            table of their own that begins with the first column again.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    columns = [list(column) for column in zip(head, *cells, strict=True)]
    right = [False] + [_numbers(column) for column in list(zip(*rows, strict=True))[1:]]
    widths = [max(len(cell) for cell in column) for column in columns]
    parts = []
    for part in _parts(widths, width):
        lines = [
            _GAP.join(
                line[i].rjust(widths[i]) if right[i] else line[i].ljust(widths[i])
                for i in part
            ).rstrip()
            for line in zip(*columns, strict=True)
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _parts(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """Which columns stand beside each other."""
    part, used = [0], widths[0]
    for i, own in enumerate(widths[1:], start=1):
        if width is not None and len(part) > 1 and used + len(_GAP) + own > width:
            yield part
            part, used = [0], widths[0]
        part.append(i)
        used += len(_GAP) + own
    yield part


def _numbers(column: Sequence[object]) -> bool:
    return all(value is None or isinstance(value, int | float) for value in column)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else _printable(str(value))


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)
