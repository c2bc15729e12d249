"""Every keyword of `attach` and of the explicit form: checked once, JSON both ways."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict

from dai_plugin import schedules
from dai_plugin.layers import Layers
from dai_plugin.losses.weights import Law
from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import FirstView
from dai_plugin.views.named import Named
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import AnyScheme, Scheme, find_scheme, from_plain, plain

Schedule = Callable[[int], float]
When = Literal["training", "grad"]


@dataclass(frozen=True)
class Settings:
    """How a network is trained for invariance.

    Attributes:
        num_views: M, the views of each image.
        alpha: weight of the invariance losses, spread over the layers.
        beta: weight of the class-wise invariance losses; needs hard labels.
        layers: "auto", names, glob patterns, module classes, or a callable
            `(name, module) -> bool`.
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
            transforms it too, as the paper does. `attach` takes "clean" unless told,
            the explicit form "augmented".
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

    Raises:
        TypeError: a setting is of a wrong type.
        ValueError: a number out of range, or settings that do not go together.
    """

    num_views: int = 2
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

    def __post_init__(self) -> None:
        if not isinstance(self.num_views, int) or isinstance(self.num_views, bool):
            raise TypeError(f"num_views must be an int, got {self.num_views!r}")
        if self.num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {self.num_views}")
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
        if self.sync and b:
            raise ValueError(
                f"sync=True takes no class-wise term, got beta={b}: classes are not "
                "brought together over ranks; set beta=0 or sync=False"
            )
        if isinstance(self.loss, bool) or not isinstance(self.loss, str | int):
            raise TypeError(
                "loss must be the attribute, key or index of the loss in what the "
                f"model returns, got {self.loss!r}"
            )
        find_scheme(self.scheme)

    def _one_of(self, name: str, first: Any, second: Any) -> None:
        value = getattr(self, name)
        if value not in (first, second):
            raise ValueError(f"{name} is {first!r} or {second!r}, got {value!r}")

    def multiplier(self, step: int) -> float:
        """Of alpha and beta at a step, as `alpha_schedule` has it.

        Raises:
            ValueError: the schedule leaves [0, 1] / (alpha + beta).
        """
        found = float(self.alpha_schedule(step)) if self.alpha_schedule else 1.0
        if not 0 <= found * (self.alpha + self.beta) <= 1:
            raise ValueError(
                f"alpha_schedule returned {found} at step {step}; times "
                f"alpha + beta = {self.alpha + self.beta} it must lie in [0, 1]"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """The settings as plain numbers, words and lists.

        Raises:
            TypeError: a callable or a class, which JSON cannot hold, is among them.
        """
        return {
            field.name: _plain(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The settings that `to_json` wrote down."""
        return cls(**{name: _restored(value) for name, value in plain.items()})


class Keywords(TypedDict, total=False):
    """The fields of `Settings`, for editors and type checkers."""

    num_views: int
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
    if isinstance(value, dict) and "schedule" in value:
        own = {key: each for key, each in value.items() if key != "schedule"}
        return getattr(schedules, value["schedule"])(**own)
    return value
