"""Numbers of images that come batch by batch, one version after another."""

import torch
from torch import Tensor


class Columns:
    """By name, numbers `[N, K]` of N images: K columns of each batch, row after row."""

    def __init__(self) -> None:
        self._open: dict[str, list[Tensor]] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, name: str, column: Tensor) -> None:
        """Takes the next column `[B]` of the batch."""
        self._open.setdefault(name, []).append(column)

    def end(self) -> None:
        """Ends the batch."""
        for name, columns in self._open.items():
            self._rows.setdefault(name, []).append(torch.stack(columns, 1).cpu())
        self._open = {}

    def names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._rows)

    def values(self, name: str) -> Tensor:
        """All numbers `[N, K]` of that name, on the CPU."""
        return torch.cat(self._rows[name])
