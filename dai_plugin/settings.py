"""Every keyword of `attach` and of the explicit form: checked once, JSON both ways."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, TypedDict

from torch import nn

from dai_plugin import schedules
from dai_plugin.layers import Layers
from dai_plugin.losses.terms import NAMES, Function, Term
from dai_plugin.losses.weights import Law
from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import FirstView
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.policies import Named
from dai_plugin.views.rows import Layout
from dai_plugin.views.schemes import (
    AnyScheme,
    Given,
    Scheme,
    find_scheme,
    from_plain,
    plain,
)
from dai_plugin.views.statistics import Normalization
from dai_plugin.views.targets import KINDS, Kind

Schedule = Callable[[int], float]
When = Literal["training", "grad"]


class Watching(Protocol):
    """Who looks at a network while it is trained: `dai_plugin.Watch`."""

    @property
    def every(self) -> int:
        """Training forwards from one look to the next."""

    def look(
        self, model: nn.Module, known: Normalization
    ) -> tuple[Any, dict[str, dict[str, float]]]:
        """All that was found, and its numbers by measure and place."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained for invariance.

    Attributes:
        num_views: M, the views of each image.
        every: k: views are made in the training forwards number 0, k, 2 k, ..., where
            the terms weigh k times as much; the others are stock, to the bit, so that
            k > 1 takes images that need no scaling: no uint8 ones.
        share: q, in (0, 1]: further views are made of the first `round(q * B)` images
            of a batch, of one at least. The task loss is the mean over all rows, the
            terms are those of the images with further views.
        term: what alpha weighs: "ratio", the paper's invariance loss, "jsd", "cosine",
            "vicreg", "class", or a callable `(activations [M, B, ...], targets or None)
            -> scalar`; see `Term`. A `Term`, or a list of them, takes the place of
            alpha and beta: each has its own weight and layers, and the task loss keeps
            weight 1.
        alpha: weight of the invariance losses, spread over the layers; the task loss
            has weight 1 - alpha - beta.
        beta: weight of the class-wise invariance losses; needs hard labels.
        layers: "auto", "last", "penultimate", "output", names, glob patterns, module
            classes, or a callable `(name, module) -> bool`.
        layer_weights: "exponential", "linear", "uniform", or numbers, one a layer or by
            name.
        last_to_first: ratio of the last layer's weight to the first's.
        scheme: "light", "heavier", "photometric", "halved", a `Scheme`; "randaugment",
            "trivialaugment", "autoaugment", "augmix", "simclr", or one of their classes
            (`RandAugment` and so on); a callable (kornia or torchvision v2 pipeline) on
            float batches `[N, C, H, W]` in [0, 1]; a sum of these, applied in turn; or
            "given": the views that the loader made, a list of `num_views` batches or
            one batch `[B, num_views, C, H, W]`.
        mean: of the normalisation that the images carry, a number or one a channel;
            uint8 images are scaled to [0, 1] and get this normalisation.
        std: of that normalisation. Left out, both are taken from the model's
            configuration or guessed from the first batch, with a warning.
        first_view: "clean" keeps the batch as the loop made it as view 0; "augmented"
            transforms it too, as the paper does, which takes `every=1`. `attach` takes
            "clean" unless told, the explicit form "augmented".
        correction: 0 as in the paper, or 1 (distinct pairs only).
        sync: statistics over all ranks.
        alpha_schedule: from the number of training forwards so far to a multiplier of
            alpha and beta.
        when: "training" (model.training and gradients enabled) or "grad" (gradients
            enabled).
        seed: of the views; None takes `torch.initial_seed()`.
        strict: raise at the second training forward in a row whose loss was not
            trained; otherwise warn.
        loss: where a model with `criterion=None` returns its loss: an attribute, a key,
            or the index in a tuple.
        targets: which targets belong to pixels and so move with their view: "mask"
            (integers; found by themselves where they have the images' size), "heatmap"
            (floating point, of any resolution), "boxes" (`[B, 4]` or `[B, K, 4]`,
            x1, y1, x2, y2) or "keypoints" (`[B, K, 2]`, x, y), in pixels.
        ignore_index: the label of what has none: of a mask where a view shows what
            lies outside the image, and of images that class-wise terms leave out; None
            asks the criterion, else takes -100, for masks only if the criterion is
            seen to ignore it.
        watch: a `dai_plugin.Watch`, which measures the network every so many training
            forwards and changes nothing. It holds images and is no part of the JSON.

    Raises:
        TypeError: a setting is of a wrong type.
        ValueError: a number out of range, or settings that do not go together.
    """

    num_views: int = 2
    every: int = 1
    share: float = 1.0
    term: str | Function | Term | Sequence[Term] = "ratio"
    alpha: float = 0.1
    beta: float = 0.0
    layers: Layers = "auto"
    layer_weights: Law = "exponential"
    last_to_first: float = 10.0
    scheme: str | AnyScheme = "heavier"
    mean: Statistics | None = None
    std: Statistics | None = None
    first_view: FirstView = "clean"
    correction: int = 0
    sync: bool = False
    alpha_schedule: Schedule | None = None
    when: When = "training"
    seed: int | None = None
    strict: bool = True
    loss: str | int = "loss"
    targets: Kind | None = None
    ignore_index: int | None = None
    watch: Watching | None = None

    def __post_init__(self) -> None:
        self._count("num_views")
        self._count("every")
        if not 0 < self.share <= 1:
            raise ValueError(
                f"share must lie in (0, 1], got {self.share}: it is the part of a "
                "batch's images that get further views; 1 is all of them"
            )
        a, b = self.alpha, self.beta
        if not (0 <= a <= 1 and 0 <= b <= 1 and a + b <= 1 + 1e-9):
            raise ValueError(
                f"alpha and beta must lie in [0, 1], and so must their sum, got "
                f"alpha={a}, beta={b}; 1 - alpha - beta is the task loss's weight"
            )
        if self.correction not in (0, 1):
            raise ValueError(f"correction must be 0 or 1, got {self.correction}")
        self._one_of("first_view", "clean", "augmented")
        self._one_of("when", "training", "grad")
        self._one_of("targets", None, *KINDS)
        index = self.ignore_index
        if index is not None and (
            not isinstance(index, int) or isinstance(index, bool)
        ):
            raise TypeError(f"ignore_index must be an int or None, got {index!r}")
        if self.watch is not None and not hasattr(self.watch, "look"):
            raise TypeError(
                f"watch must be a dai_plugin.Watch, got {self.watch!r:.80}: "
                "Watch(images) holds the images that it looks at"
            )
        local = [each.name for each in self.terms if each.weight and not each.additive]
        if self.sync and local:
            raise ValueError(
                f"sync=True takes terms that add up over ranks, and {', '.join(local)} "
                f"(beta={b}) does not: its statistics are not brought together; leave "
                "it out (beta=0) or set sync=False"
            )
        if isinstance(self.loss, bool) or not isinstance(self.loss, str | int):
            raise TypeError(
                "loss must be the attribute, key or index of the loss in what the "
                f"model returns, got {self.loss!r}"
            )
        fewer = self.every > 1 or self.share < 1
        if isinstance(find_scheme(self.scheme), Given) and fewer:
            raise ValueError(
                'scheme="given" takes the views that the loader made of every image '
                f"in every step; got every={self.every}, share={self.share}, with "
                "which the loader is to return fewer: leave them at 1"
            )
        if self.every > 1 and self.first_view == "augmented":
            raise ValueError(
                f"every={self.every} leaves the images of the steps between as they "
                'came, and first_view="augmented" wants the first view transformed, '
                'too: set first_view="clean", and let the loader augment the images '
                "of every step"
            )

    def _count(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    def _one_of(self, name: str, *known: Any) -> None:
        value = getattr(self, name)
        if value not in known:
            words = " or ".join(repr(each) for each in known)
            raise ValueError(f"{name} is {words}, got {value!r}")

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the objective; alpha and beta build those of their own.

        Raises:
            TypeError: something in a list is no `Term`.
            ValueError: the list is empty, or alpha or beta are given beside Terms.
        """
        if isinstance(self.term, str) or callable(self.term):
            own: dict[str, Any] = {
                "layer_weights": self.layer_weights,
                "last_to_first": self.last_to_first,
            }
            # Where the layers are left open, a term has layers of its own.
            layers = None if self.layers == "auto" else self.layers
            first = Term(self.term, self.alpha, layers=layers, **own)
            classes = Term("class", self.beta, layers=self.layers, **own)
            return (first, classes) if self.beta else (first,)
        given = [self.term] if isinstance(self.term, Term) else self.term
        if not isinstance(given, Sequence) or not all(
            isinstance(each, Term) for each in given
        ):
            raise TypeError(
                f"term must be one of {', '.join(NAMES)}, a callable, a Term or a list "
                f"of Terms, got {self.term!r:.80}"
            )
        if not given:
            raise ValueError("term is an empty list; num_views=1, alpha=0 trains alone")
        theirs = ("alpha", "beta", "layers", "layer_weights", "last_to_first")
        told = [
            name for name in theirs if getattr(self, name) != getattr(Settings, name)
        ]
        if told:
            shown = ", ".join(f"{name}={getattr(self, name)}" for name in told)
            raise ValueError(
                f"got {shown} beside Terms, each of which has a weight, layers and a "
                "law of its own: give them to the Terms, or name one term (term="
                f"{given[0].name!r}), to which they belong"
            )
        return tuple(given)

    @property
    def needs_targets(self) -> bool:
        """Whether a term that weighs anything compares with the loop's targets."""
        return any(term.needs_targets and term.weight > 0 for term in self.terms)

    @property
    def convex(self) -> bool:
        """Whether the task loss has the weight that alpha and beta leave it."""
        return isinstance(self.term, str) or callable(self.term)

    @property
    def weight(self) -> float:
        """What the terms take from the task loss's weight of 1."""
        return self.alpha + self.beta if self.convex else 0.0

    def multiplier(self, step: int) -> float:
        """Of the terms' weights at a step, as `alpha_schedule` has it.

        Raises:
            ValueError: the schedule leaves [0, 1] / (alpha + beta), or is negative.
        """
        found = float(self.alpha_schedule(step)) if self.alpha_schedule else 1.0
        if not (0 <= found < math.inf and found * self.weight <= 1):
            raise ValueError(
                f"alpha_schedule returned {found} at step {step}; times "
                f"alpha + beta = {self.weight} it must lie in [0, 1]"
            )
        return found

    def ignored(self, told: int | None = None) -> int:
        """The label of what has none, in masks and class-wise terms.

        Args:
            told: the one that the criterion or the network names, None if none.
        """
        found = told if self.ignore_index is None else self.ignore_index
        return -100 if found is None else found  # torch's own default

    def has_views(self, step: int) -> bool:
        """Whether views are made in the training forward of that number, from 0."""
        return step % self.every == 0

    def layout(self, images: int) -> Layout:
        """The rows of a training forward of so many images that makes views."""
        return Layout.of(images, self.num_views, self.share)

    def cost(self, images: int) -> float:
        """Rows over images, averaged over the training forwards."""
        return 1 + (self.layout(images).rows / images - 1) / self.every

    def to_json(self) -> dict[str, Any]:
        """The settings as plain numbers, words and lists.

        All but `watch`, which has no part in what is trained.

        Raises:
            TypeError: a callable or a class, which JSON cannot hold, is among them.
        """
        return {
            field.name: _plain(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "watch"
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The settings that `to_json` wrote down."""
        return cls(**{name: _restored(value) for name, value in plain.items()})


class Keywords(TypedDict, total=False):
    """The fields of `Settings`, for editors and type checkers."""

    num_views: int
    every: int
    share: float
    term: str | Function | Term | Sequence[Term]
    alpha: float
    beta: float
    layers: Layers
    layer_weights: Law
    last_to_first: float
    scheme: str | AnyScheme
    mean: Statistics | None
    std: Statistics | None
    first_view: FirstView
    correction: int
    sync: bool
    alpha_schedule: Schedule | None
    when: When
    seed: int | None
    strict: bool
    loss: str | int
    targets: Kind | None
    ignore_index: int | None
    watch: Watching | None


def shows_settings(**defaults: Any) -> Callable[[Any], Any]:
    """Gives a function of `**settings` the signature that names them one by one."""

    def show(function: Any) -> Any:
        target: Any = vars(function).get("__init__", function)
        own = inspect.signature(target)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shown = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(field.name, field.default),
                annotation=field.type,
            )
            for field in dataclasses.fields(Settings)
        ]
        target.__signature__ = own.replace(parameters=[*kept, *shown])
        return function

    return show


_SCHEDULES = ("linear_warmup", "cosine", "milestones")


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Scheme | Named):
        return {"scheme": _plain(name, plain(value))}
    if isinstance(value, Composed):
        return {"schemes": [_plain(name, part) for part in value.parts]}
    if isinstance(value, Term):
        own = {**vars(value), **value.options}
        del own["options"]
        return {"term": {key: _plain(f"{name}.{key}", x) for key, x in own.items()}}
    kind = type(value).__name__
    if kind in _SCHEDULES and isinstance(value, getattr(schedules, kind)):
        return {"schedule": kind, **dataclasses.asdict(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(name, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, each) for each in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(
        f"{name}={value!r} is no plain value, which JSON could hold; give a name, a "
        "scheme of dai_plugin, numbers, or one of dai_plugin.schedules"
    )


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and "scheme" in value:
        return from_plain(value["scheme"])
    if isinstance(value, dict) and "schemes" in value:
        return Composed(tuple(_restored(part) for part in value["schemes"]))
    if isinstance(value, dict) and "term" in value:
        return Term(**value["term"])
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if isinstance(value, dict) and "schedule" in value:
        own = {key: each for key, each in value.items() if key != "schedule"}
        return getattr(schedules, value["schedule"])(**own)
    return value
