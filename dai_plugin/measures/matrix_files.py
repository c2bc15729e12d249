"""Dissimilarity matrices in `.npz` files, as numpy reads and writes them."""

import zipfile
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor


def save_matrices(path: str | PathLike[str], matrices: Mapping[str, Tensor]) -> None:
    """Writes matrices to an `.npz` file, one array by the name of each."""
    # numpy.savez takes names as keywords, among which some are its own ("file").
    with zipfile.ZipFile(path, "w") as archive:
        for name, matrix in matrices.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                array = matrix.detach().cpu().numpy()
                np.lib.format.write_array(file, array, allow_pickle=False)


def load_matrices(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The arrays of an `.npz` file by name, `[N, N]` or of subjects `[S, N, N]`.

    Raises:
        ValueError: the file is no `.npz`, or an array holds no real numbers or has
            another shape.
    """
    arrays = np.load(path, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(
            f"{path} holds one array without a name; write it with "
            "numpy.savez(file, name=array)"
        )
    with arrays:
        return {name: _real(path, name, arrays[name]) for name in arrays.files}


def _real(path: str | PathLike[str], name: str, array: Any) -> Tensor:
    square = array.ndim in (2, 3) and array.shape[-1] == array.shape[-2]
    if array.dtype.kind not in "fiu" or not square:
        raise ValueError(
            f"{path} holds {name!r} of shape {list(array.shape)} and type "
            f"{array.dtype}; matrices are [N, N] or [S, N, N] real numbers"
        )
    return torch.from_numpy(array.astype(np.float64))
