"""What was measured, of what, and how: in memory, as a table, in a file."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from dai_plugin.measures.passes import Tables

FILE = "measures.npz"
_FORMAT = 1
_ABOUT = "about.json"


@dataclass(frozen=True)
class Measures:
    """The measures of one network on one set of images.

    Attributes:
        tables: by group ("layers", "output"), measure and place (a layer, or "output"),
            on the CPU: `[N, T]` of N images and T versions each, `[N]`, or one number.
            The mean of a table, NaN left out, is the measure; tables of integers are
            the classes that were predicted.
        about: what was run: model, weights, data, scheme, seed, versions.
        labels: of the images `[N]`, None if there were none.
        names: of the images, None if there were none.
    """

    tables: Mapping[str, Tables]
    about: Mapping[str, Any]
    labels: Tensor | None = None
    names: list[str] | None = None

    @property
    def scores(self) -> dict[str, Tensor]:
        """Invariance scores `[N, T]` by layer, as `invariance_scores` returns them.

        Raises:
            KeyError: the layers were not measured.
        """
        if "layers" not in self.tables:
            raise KeyError(
                f"the layers were not measured, only {', '.join(self.tables)}; ask for "
                'measures=("layers", ...)'
            )
        return self.tables["layers"]["score"]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each measure and place: mean, median, quartiles, count.

        The count is of numbers that are not NaN; depth 0 is "input", of the layers.
        """
        return [
            {
                "group": group,
                "measure": measure,
                "place": place,
                "depth": depth,
                **_statistics(table),
            }
            for group, tables in self.tables.items()
            for measure, places in tables.items()
            for depth, (place, table) in enumerate(places.items())
            if table.dtype != torch.int64
        ]

    def frame(self) -> Any:
        """`rows` as a pandas.DataFrame.

        Raises:
            RuntimeError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise RuntimeError(
                f"the table needs pandas ({error}): pip install 'dai-plugin[report]'; "
                "rows() has the same without it"
            ) from error
        return pandas.DataFrame(self.rows())

    def save(self, folder: str | Path) -> Path:
        """Writes all into one file of a folder, as a whole or not at all.

        Returns:
            Its path; a file of that name is replaced.
        """
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        places = [
            (group, measure, place)
            for group, tables in self.tables.items()
            for measure, found in tables.items()
            for place in found
        ]
        arrays: dict[str, Any] = {
            str(i): self.tables[group][measure][place].numpy()
            for i, (group, measure, place) in enumerate(places)
        }
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        told = {
            "format": _FORMAT,
            "places": places,
            "about": dict(self.about),
            "names": self.names,
        }
        arrays[_ABOUT] = np.array(json.dumps(told))
        unfinished = path.with_name(f".{FILE}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, **arrays)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
            ValueError: the file is damaged, or of a later version of this package.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {folder}; Measures.save writes it")
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                told = json.loads(str(file[_ABOUT]))
                names = [name for name in file if name != _ABOUT]
                arrays = {name: torch.from_numpy(file[name]) for name in names}
        # What damaged bytes lead to is not for numpy to foresee: errors of any kind.
        except Exception as error:
            raise ValueError(f"{path} holds no measures ({error})") from error
        if told["format"] != _FORMAT:
            raise ValueError(
                f"{path} has the format {told['format']}, but this package reads "
                f"{_FORMAT}; install the version that wrote it, or measure again"
            )
        tables: dict[str, Tables] = {}
        for i, (group, measure, place) in enumerate(told["places"]):
            found = tables.setdefault(group, {}).setdefault(measure, {})
            found[place] = arrays[str(i)]
        return cls(tables, told["about"], arrays.get("labels"), told["names"])


def hash_of_weights(model: nn.Module) -> str:
    """16 digits of the SHA-256 of all names, types, shapes and bytes of its state."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _statistics(table: Tensor) -> dict[str, Any]:
    values = table.double().flatten()
    values = values[~values.isnan()]
    if not len(values):
        empty = dict.fromkeys(("mean", "lower", "median", "upper"), float("nan"))
        return {**empty, "count": 0}
    # Not torch.quantile, which takes no more than 16 million numbers.
    lower, median, upper = np.quantile(values.numpy(), (0.25, 0.5, 0.75)).tolist()
    spread = {"lower": lower, "median": median, "upper": upper}
    return {"mean": values.mean().item(), **spread, "count": len(values)}
