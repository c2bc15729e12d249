"""Dissimilarity matrices in files, as numpy reads and writes them."""

import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
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


def load_subjects(path: str | PathLike[str]) -> Tensor:
    """The matrices `[S, N, N]` of S subjects in a file.

    Args:
        path: of an `.npz` (arrays `[N, N]` or `[S, N, N]`, one subject after another in
            the order of their names in the file), an `.npy` (one such array) or a
            `.csv` (N lines of N numbers, commas between them).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, holds other things, or matrices of several
            sizes.
    """
    kind = Path(path).suffix.lower()
    if kind not in _READERS:
        raise ValueError(
            f"{path} must be a file {', '.join(_READERS)} of dissimilarity matrices "
            "[N, N] or [S, N, N]"
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path} of dissimilarity matrices")
    try:
        found = _READERS[kind](path)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no matrices ({error})") from error
    sizes = {len(each[0]) for each in found}
    if len(sizes) != 1:
        raise ValueError(
            f"{path} holds matrices of {sorted(sizes) or 'no'} images; all subjects "
            "saw the same ones"
        )
    return torch.cat(found)


def _of_npz(path: str | PathLike[str]) -> list[Tensor]:
    return [_subjects(each) for each in load_matrices(path).values()]


def _of_npy(path: str | PathLike[str]) -> list[Tensor]:
    return [_subjects(_real(path, "the array", np.load(path, allow_pickle=False)))]


def _of_csv(path: str | PathLike[str]) -> list[Tensor]:
    array = np.loadtxt(path, delimiter=",", ndmin=2)
    return [_subjects(_real(path, "the table", array))]


_READERS = {".npz": _of_npz, ".npy": _of_npy, ".csv": _of_csv}


def _subjects(matrices: Tensor) -> Tensor:
    return matrices if matrices.dim() == 3 else matrices[None]


def _real(path: str | PathLike[str], name: str, array: Any) -> Tensor:
    square = array.ndim in (2, 3) and array.shape[-1] == array.shape[-2]
    if array.dtype.kind not in "fiu" or not square:
        raise ValueError(
            f"{path} holds {name!r} of shape {list(array.shape)} and type "
            f"{array.dtype}; matrices are [N, N] or [S, N, N] real numbers"
        )
    return torch.from_numpy(array.astype(np.float64))
