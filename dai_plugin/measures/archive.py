"""Arrays and what is told of them in one file, whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dai_plugin.files import write

_TOLD = "about.json"


def pack(path: Path, arrays: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Writes arrays by name, and what can be told in JSON; replaces a file.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    found[_TOLD] = np.array(json.dumps(told))
    write(path, lambda file: np.savez_compressed(file, **found))


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `pack` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            told = json.loads(str(file[_TOLD]))
            names = [name for name in file if name != _TOLD]
            return {name: torch.from_numpy(file[name]) for name in names}, told
    # What damaged bytes lead to is not for numpy to foresee: errors of any kind.
    except Exception as error:
        raise ValueError(f"{path} holds no measures ({error})") from error
