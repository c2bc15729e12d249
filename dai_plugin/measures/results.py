"""What was measured, of what, and how: in memory, as a table, in a file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from dai_plugin.measures.archive import pack, unpack
from dai_plugin.measures.passes import Tables

FILE = "measures.npz"
_FORMAT = 2


@dataclass(frozen=True)
class Axis:
    """Along which the versions of a series change.

    Attributes:
        name: "rotation", "severity".
        unit: of the values, "" if there is none.
        values: one for each version.
    """

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Pictures:
    """Images that are worth a look, each beside one of its versions.

    Attributes:
        images: which of the N images `[k]`.
        versions: the number of the version `[k]`.
        pixels: the image and the version `[k, 2, C, h, w]`, uint8, made smaller.
        words: what was done to each of k.
    """

    images: Tensor
    versions: Tensor
    pixels: Tensor
    words: list[str]


@dataclass(frozen=True)
class Measures:
    """The measures of one network on one set of images.

    Attributes:
        tables: by group, measure and place (a layer, or "output"), on the CPU. Of the
            groups "layers" and "output": `[N, T]` of N images and T versions each,
            `[N]`, or one number. Of a series ("strength:rotation", "corruptions:fog",
            "attacks:pgd"), whose versions lie along an axis of G points: `[N, G]`, of
            what is not known of each image `[G]`. Of "similarity": matrices. The mean
            of a table, NaN left out, is the measure (along an axis, at each point);
            tables of integers are the classes that were predicted.
        about: what was run: model, weights, data, scheme, seed, versions; "missing"
            names what was asked for and not done, because it does not suit the images
            or the network, or ("interrupted") because of an interrupt.
        labels: of the images `[N]`, None if there were none.
        names: of the images, None if there were none.
        axes: of the groups that are series.
        pictures: "breaks", the images whose predictions change most, and "holds",
            those whose predictions change least.
    """

    tables: Mapping[str, Tables]
    about: Mapping[str, Any]
    labels: Tensor | None = None
    names: list[str] | None = None
    axes: Mapping[str, Axis] = field(default_factory=dict)
    pictures: Mapping[str, Pictures] = field(default_factory=dict)

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
        """A row for each measure, place and point: mean, median, quartiles, count.

        "at" is the point of the axis, None where there is none. The count is of numbers
        that are not NaN; depth 0 is "input", of the layers. Matrices have no row.
        """
        return [
            {
                "group": group,
                "measure": measure,
                "place": place,
                "depth": depth,
                "at": at,
                **_statistics(column),
            }
            for group, tables in self.tables.items()
            for measure, places in tables.items()
            for depth, (place, table) in enumerate(places.items())
            if table.dtype != torch.int64
            for at, column in self._columns(group, table)
        ]

    def _columns(
        self, group: str, table: Tensor
    ) -> Iterator[tuple[float | None, Tensor]]:
        if group in self.axes:
            yield from zip(
                self.axes[group].values, table.movedim(-1, 0).unbind(0), strict=True
            )
        elif group != "similarity" or table.dim() < 2:
            yield None, table

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
        places = [
            (group, measure, place)
            for group, tables in self.tables.items()
            for measure, found in tables.items()
            for place in found
        ]
        arrays = {
            str(i): self.tables[group][measure][place]
            for i, (group, measure, place) in enumerate(places)
        }
        if self.labels is not None:
            arrays["labels"] = self.labels
        for name, shown in self.pictures.items():
            for part in _PICTURES:
                arrays[f"{name}/{part}"] = getattr(shown, part)
        told = {
            "format": _FORMAT,
            "places": places,
            "about": dict(self.about),
            "names": self.names,
            "axes": {group: asdict(axis) for group, axis in self.axes.items()},
            "words": {name: shown.words for name, shown in self.pictures.items()},
        }
        pack(path, arrays, told)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: nothing was saved there.
            ValueError: the file is damaged, or of another version of this package.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {folder}; Measures.save writes it")
        arrays, told = unpack(path)
        if told["format"] != _FORMAT:
            raise ValueError(
                f"{path} has the format {told['format']}, but this package reads "
                f"{_FORMAT}; install the version that wrote it, or measure again"
            )
        tables: dict[str, Tables] = {}
        for i, (group, measure, place) in enumerate(told["places"]):
            found = tables.setdefault(group, {}).setdefault(measure, {})
            found[place] = arrays[str(i)]
        pictures = {
            name: Pictures(
                **{part: arrays[f"{name}/{part}"] for part in _PICTURES}, words=words
            )
            for name, words in told["words"].items()
        }
        axes = {
            group: Axis(axis["name"], axis["unit"], tuple(axis["values"]))
            for group, axis in told["axes"].items()
        }
        labels, names = arrays.get("labels"), told["names"]
        return cls(tables, told["about"], labels, names, axes, pictures)


_PICTURES = ("images", "versions", "pixels")


def hash_of_weights(model: nn.Module) -> str:
    """16 digits of the SHA-256 of all names, types, shapes and bytes of its state."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        # A copy: a storage that numpy shares cannot be freed by FSDP afterwards.
        plain = whole.detach().to("cpu", copy=True).contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


_SPREAD = ("mean", "lower", "median", "upper")


def _statistics(table: Tensor) -> dict[str, Any]:
    values = table.double().flatten()
    values = values[~values.isnan()]
    if not len(values):
        return {**dict.fromkeys(_SPREAD, float("nan")), "count": 0}
    if len(values) == 1:
        return {**dict.fromkeys(_SPREAD, values.item()), "count": 1}
    # Not torch.quantile, which takes no more than 16 million numbers.
    lower, median, upper = np.quantile(values.numpy(), (0.25, 0.5, 0.75)).tolist()
    spread = {"lower": lower, "median": median, "upper": upper}
    return {"mean": values.mean().item(), **spread, "count": len(values)}
