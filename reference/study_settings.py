"""What a study's file may say of images and training, and what follows from it."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import dai_plugin
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import AnyScheme

Section = Mapping[str, Any]


class Checked:
    """A section that names what it does not know."""

    @classmethod
    def of(cls, section: Section) -> Self:
        """The section.

        Raises:
            ValueError: it holds what is not known, or lacks what is needed.
        """
        known = list(inspect.signature(cls).parameters)
        if unknown := [name for name in section if name not in known]:
            raise ValueError(
                f"{cls.__name__.lower()} has no {', '.join(map(str, unknown))}; it has "
                f"{', '.join(known)}"
            )
        try:
            return cls(**section)
        except TypeError as error:
            raise ValueError(f"{cls.__name__.lower()}: {error}") from error


@dataclass(frozen=True)
class Data(Checked):
    """Which images, and how many of them.

    Validation and training images are drawn from the training part of the data set,
    test images from its held-out part, as many of each class as far as that goes.
    Validation and test images are the same in every trial; training images are drawn
    from the rest anew for each seed.

    Attributes:
        name: a data set of `data.py`.
        size: side of the images in pixels.
        train: number of training images.
        validation: number of images that settings are chosen on.
        test: number of images that results are reported on.
        classes: names of some of the classes; None is all.
        mean: of the normalisation, None is the data set's own.
        std: of the normalisation.
    """

    name: str
    size: int
    train: int
    validation: int
    test: int
    classes: list[str] | None = None
    mean: float | None = None
    std: float | None = None

    def normalization(self, own: Normalization) -> Normalization:
        """What the images carry, if `own` is that of the data set."""
        if self.mean is None or self.std is None:
            return own
        return Normalization.given((self.mean,), (self.std,))


@dataclass(frozen=True)
class Training(Checked):
    """How every network is trained: SGD, Nesterov, a cosine from `lr` to 0.

    One of `images` and `rows` gives the size of a step, one of `steps`, `epochs` and
    `total_rows` the length. A row is one view of one image.

    Attributes:
        lr: learning rate of the first step.
        weight_decay: of all parameters.
        images: different images in a step.
        rows: of a step, on average over the steps: the arm's views of fewer images.
        steps: so many.
        epochs: so many times the training images.
        total_rows: so many rows in all.
        augment: the loop's own augmentation, before any view: a scheme, None is none.
    """

    lr: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    images: int | None = None
    rows: int | None = None
    steps: int | None = None
    epochs: float | None = None
    total_rows: int | None = None
    augment: str | Section | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and field.name != "augment":
                raise ValueError(
                    f"training.{field.name} is the text {value!r}; give a number "
                    "(YAML reads 5e-4 as text, 5.0e-4 and 0.0005 as a number)"
                )
        self._one_of("images", "rows")
        self._one_of("steps", "epochs", "total_rows")

    def _one_of(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"training needs one of {', '.join(names)}, got "
                f"{' and '.join(given) or 'none'}; an arm or regime takes one of them "
                "back with null"
            )


def scheme_of(told: str | Section) -> str | AnyScheme:
    """A scheme by its name, or `{kind: heavier, flip: 0.0}` with ranges of its own.

    Raises:
        ValueError: there is no such scheme.
    """
    if isinstance(told, str):
        return told
    kinds = ("heavier", "light", "photometric", "halved")
    changes = dict(told)
    kind = changes.pop("kind", None)
    if kind not in kinds:
        raise ValueError(
            f"a scheme with ranges has a kind, one of {', '.join(kinds)}; got {told}"
        )
    scheme: AnyScheme = getattr(dai_plugin.Scheme, kind)(**changes)
    return scheme


def attach_keywords(section: Section | None) -> dict[str, Any] | None:
    """The keywords of `attach`, as the file has them; None: it is not called.

    A term is a name, or a mapping `{loss: jsd, weight: 5.0, layers: output}` or a list
    of these.

    Raises:
        ValueError: a setting is out of range or belongs to each trial.
        TypeError: a setting is unknown or of a wrong type.
    """
    if section is None:
        return None
    if own := {"mean", "std", "seed"} & set(section):
        raise ValueError(f"attach: {sorted(own)} are set by the study; leave them out")
    told = dict(section)
    if "scheme" in told:
        told["scheme"] = scheme_of(told["scheme"])
    term = told.get("term")
    if isinstance(term, Mapping):
        told["term"] = dai_plugin.Term(**term)
    elif isinstance(term, list):
        told["term"] = [dai_plugin.Term(**each) for each in term]
    _ = dai_plugin.Settings(**told).terms
    return told
