"""Terms of the objective: which loss, how much of it, at which layers."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dai_plugin.layers import Layers
from dai_plugin.losses.consistency import cosine_distance, jensen_shannon, vicreg
from dai_plugin.losses.weights import Law

Function = Callable[[Tensor, Tensor | None], Tensor]

# Of the views alone: `[M, B, ...]` to a scalar.
_OF_VIEWS: dict[str, Callable[..., Tensor]] = {
    "jsd": jensen_shannon,
    "cosine": cosine_distance,
    "vicreg": vicreg,
}
# Taken by the tap on the way: the ratio of variances, of images or of classes.
_RATIOS = ("ratio", "class")
_ADDITIVE = ("ratio", "jsd", "cosine")
NAMES = (*_RATIOS, *_OF_VIEWS)


@dataclass(frozen=True, init=False)
class Term:
    """One loss that is added to the task loss.

        attach(model, criterion, term=[
            Term("ratio", 0.1),
            Term("jsd", 12.0),
            Term(my_loss, 0.5, layers="penultimate"),
        ])

    Args:
        loss: a name or a callable. "ratio" is the invariance loss of arXiv:1906.04547
            (`dai_plugin.invariance_loss`), "class" its class-wise form, "jsd" the
            divergence of the predictions, "cosine" one minus the cosine of each view to
            its image's mean, "vicreg" invariance, variance and covariance (all of
            `dai_plugin.losses.consistency`). A callable `(activations, targets)` gets
            `[M, B, ...]` and the loop's targets `[B, ...]`, or None where there are
            none, and returns a scalar; autograd follows it, which costs passes over
            the activations and their memory (docs/terms.md).
        weight: of the term; the layers share it.
        layers: where it is taken, as in `attach`; left out, "output" for "jsd" and
            "auto" for the others.
        layer_weights: the law over these layers, as in `attach`.
        last_to_first: as in `attach`.
        **options: keywords of the loss (of "vicreg": invariance, variance, covariance,
            gamma, eps).

    Raises:
        ValueError: an unknown name, or a weight that is negative or not finite.
        TypeError: neither a name nor a callable, a weight that is no number, or an
            option that the loss has not.
    """

    loss: str | Function
    weight: float
    layers: Layers
    layer_weights: Law
    last_to_first: float
    options: dict[str, Any]

    def __init__(
        self,
        loss: str | Function = "ratio",
        weight: float = 1.0,
        *,
        layers: Layers | None = None,
        layer_weights: Law = "exponential",
        last_to_first: float = 10.0,
        **options: Any,
    ) -> None:
        _check_loss(loss, options)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(
                f"the weight of a term must be a number, got {weight!r} for {loss!r}"
            )
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"the weight of a term must be a number from 0 up, got {weight} for "
                f"{loss!r}"
            )
        if layers is None:
            layers = "output" if loss == "jsd" else "auto"
        own: dict[str, Any] = vars(self)
        own.update(
            loss=loss,
            weight=float(weight),
            layers=layers,
            layer_weights=layer_weights,
            last_to_first=last_to_first,
            options=options,
        )

    @property
    def name(self) -> str:
        """What users see."""
        if isinstance(self.loss, str):
            return self.loss
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    @property
    def tapped(self) -> bool:
        """Whether sums of squares taken on the way are all that it needs."""
        return self.loss == "ratio"

    @property
    def needs_targets(self) -> bool:
        """Whether it waits for the loop's targets."""
        return self.loss == "class" or not isinstance(self.loss, str)

    @property
    def additive(self) -> bool:
        """Whether ranks can add it up to that of the global batch."""
        return self.loss in _ADDITIVE

    def of_views(self, activations: Tensor, targets: Tensor | None = None) -> Tensor:
        """The loss of `[M, B, ...]`, where it is no ratio."""
        if isinstance(self.loss, str):
            return _OF_VIEWS[self.loss](activations, **self.options)
        return self.loss(activations, targets, **self.options)


def _check_loss(loss: Any, options: dict[str, Any]) -> None:
    if isinstance(loss, str):
        if loss not in NAMES:
            raise ValueError(
                f"unknown term {loss!r}: take one of {', '.join(NAMES)}, or a callable "
                "(activations [M, B, ...], targets or None) -> scalar"
            )
        of_views = _OF_VIEWS.get(loss)
        keywords = inspect.signature(of_views).parameters if of_views else {}
        known = list(keywords)[1:]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(
                f"the term {loss!r} has no keyword {', '.join(unknown)}; it has "
                f"{', '.join(known) or 'none'}"
            )
    elif not callable(loss):
        raise TypeError(
            "a term is a name, a callable (activations [M, B, ...], targets or None) "
            f"-> scalar, or a Term; got {loss!r:.80}"
        )
