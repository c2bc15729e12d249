"""A trial: one network with one seed, and the name of what comes of it."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study_length import Length
from study_measures import asked_for
from study_network import Network
from study_settings import Data, Section, Training, attach_keywords

from dai_plugin import __version__

REPORTED, TUNED = "test", "validation"


@dataclass(frozen=True)
class Setting:
    """Everything of a trial but its seed: the sections, laid over each other."""

    sections: Section

    @property
    def data(self) -> Data:
        """Which images."""
        return Data.of(self.sections["data"])

    @property
    def network(self) -> Network:
        """Which network."""
        return Network.of(self.sections["network"])

    @property
    def training(self) -> Training:
        """How it is trained."""
        return Training.of(self.sections["training"])

    @property
    def attach(self) -> dict[str, Any] | None:
        """Keywords of attach; None: it is not called."""
        return attach_keywords(self.sections["attach"])

    @property
    def length(self) -> Length:
        """Of the training."""
        return Length.of(self.training, self.attach, self.data.train)

    def with_values(self, values: Mapping[str, Any]) -> "Setting":
        """With other values at some paths, as "training.lr" or "attach.term.0.weight".

        Raises:
            ValueError: a path leads nowhere.
        """
        sections = json.loads(json.dumps(self.sections))
        for path, value in values.items():
            *way, last = path.split(".")
            place = sections
            try:
                for name in way:
                    place = place[int(name) if isinstance(place, list) else name]
                place[int(last) if isinstance(place, list) else last] = value
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(
                    f"tune: there is nothing at {path}; give the path to a setting"
                ) from error
        return Setting(sections)

    def check(self) -> None:
        """Raises unless all sections can be made what they stand for.

        Raises:
            ValueError: a section is wrong.
            TypeError: a setting of attach or of a measure is.
        """
        Data.of(self.sections["data"])
        _ = self.network, self.length
        asked_for(self.sections["measures"])


@dataclass(frozen=True)
class Cell:
    """A row of the table: one arm in one regime.

    Attributes:
        regime: its name.
        arm: its name.
        setting: before the tuning.
        grid: values to try, by path.
    """

    regime: str
    arm: str
    setting: Setting
    grid: Mapping[str, list[Any]]

    @property
    def name(self) -> str:
        """Of both."""
        return ", ".join(filter(None, (self.regime, self.arm)))

    def candidates(self) -> list[dict[str, Any]]:
        """Every point of the grid, in the order of the file; one without a grid."""
        points = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, point, strict=True)) for point in points]


@dataclass(frozen=True)
class Trial:
    """One network, trained and measured once.

    Attributes:
        setting: of everything but the seed.
        seed: of initialisation, training images, their order and the views.
        part: which images it is measured on, "validation" or "test".
        name: of regime and arm.
        label: of the trial, for people.
    """

    setting: Setting
    seed: int
    part: str
    name: str
    label: str

    def trained(self, about: Mapping[str, Any]) -> str:
        """Name of what training it gives: a hash of all that it depends on.

        Args:
            about: facts beside the file, as the hash of the training images.
        """
        own = {k: self.setting.sections[k] for k in ("network", "training", "attach")}
        data = {k: v for k, v in self.setting.sections["data"].items() if k != "test"}
        own |= {"data": data, "seed": self.seed, "version": __version__}
        return _hash({**own, **about})

    def measured(self, about: Mapping[str, Any]) -> str:
        """Name of what measuring it gives, beside `trained`."""
        if self.part == TUNED:
            return TUNED
        test = self.setting.sections["data"].get("test")
        measures = self.setting.sections["measures"]
        return f"{self.part}-{_hash({'test': test, 'measures': measures, **about})}"


def _hash(content: Section) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
