"""A term at the layers of one network: its weights there, its losses in a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dai_plugin.losses.ratio import class_invariance_loss
from dai_plugin.losses.terms import Term
from dai_plugin.losses.weights import Key, key_name, spread_weights
from dai_plugin.settings import Settings
from dai_plugin.training.step import Step
from dai_plugin.views.expand import repeat_targets

_FIRST = 3  # steps with views in which values of terms of one's own are looked at


class Placed:
    """A term and its layers.

    Args:
        term: the term.
        chosen: names of its layers, first to last.
        settings: of the run.

    Attributes:
        term: the term.
        chosen: names of its layers.
    """

    def __init__(self, term: Term, chosen: Sequence[str], settings: Settings) -> None:
        self.term, self.chosen, self._settings = term, list(chosen), settings
        self._own = frozenset(self.chosen)
        self._law = term.layer_weights, term.last_to_first
        self._kept: dict[object, Tensor] = {}
        self.nominal()

    def nominal(self) -> list[float]:
        """Shares of the layers, which sum to 1, if each fires once."""
        keys = [(name, 0) for name in self.chosen]
        return spread_weights(*self._law, self.chosen, keys)

    def keys(self, step: Step) -> list[Key]:
        """The calls of the layers in a step, in their order."""
        return [key for key in step.fired if key[0] in self._own]

    def shares(self, step: Step) -> list[float]:
        """Of the calls of a step; they sum to 1."""
        return spread_weights(*self._law, self.chosen, self.keys(step))

    def weights(self, step: Step, like: Tensor) -> Tensor:
        """The same `[calls]`, kept on the device: a copy from the host waits for it."""
        key = (*self.keys(step), like.device, like.dtype)
        if key not in self._kept:
            self._kept[key] = torch.tensor(
                self.shares(step), device=like.device, dtype=like.dtype
            )
        return self._kept[key]

    def losses(
        self, step: Step, targets: Tensor | None = None, ignore_index: int = -100
    ) -> Tensor:
        """Losses `[calls]` of the activations that the step kept.

        Args:
            step: of the forward.
            targets: `[B, ...]` of the loop, for a term that needs them.
            ignore_index: the label of rows that have none.

        Raises:
            ValueError: the class-wise term without labels.
            RuntimeError: after a backward of the step, or a loss that trains nothing.
            TypeError: a term of one's own returned no scalar.
        """
        keys = self.keys(step)
        if not all(key in step.activations for key in keys):
            raise RuntimeError(
                f"a loss with the term {self.term.name!r} was asked for after a "
                "backward of this step, which let go of the activations; take all "
                "losses of a step before the first backward"
            )
        if self.term.loss == "class":
            found = [self._of_classes(step, k, targets, ignore_index) for k in keys]
        else:
            found = [self._of_views(step, key, targets) for key in keys]
        return torch.stack([loss.to(found[-1].device) for loss in found])

    def _of_classes(
        self, step: Step, key: Key, labels: Tensor | None, ignore_index: int
    ) -> Tensor:
        if labels is None:
            raise ValueError(
                "the class-wise term (beta > 0) needs labels, and none were given"
            )
        return class_invariance_loss(
            step.groups.grouped(step.activations[key]),
            repeat_targets(labels[: step.groups.images], self._settings.num_views),
            correction=self._settings.correction,
            ignore_index=ignore_index,
        )

    def _of_views(self, step: Step, key: Key, targets: Tensor | None) -> Tensor:
        activation, groups = step.activations[key], step.groups
        if groups.alone and targets is not None:
            targets = targets[: groups.images]
        found = self.term.of_views(groups.views(activation), targets)
        where = f"the term {self.term.name!r} at the layer {key_name(key)!r} returned"
        if not isinstance(found, Tensor) or found.numel() != 1:
            shape = (
                f" of shape {list(found.shape)}" if isinstance(found, Tensor) else ""
            )
            raise TypeError(
                f"{where} a {type(found).__name__}{shape}; it must return a scalar "
                "tensor: take the mean over images and features"
            )
        if activation.requires_grad and not found.requires_grad:
            raise RuntimeError(
                f"{where} a number without a gradient (is there a detach, a no_grad, "
                "an item or an argmax in it?), which would train nothing; compute it "
                "from the activations with differentiable operations"
            )
        early = step.number < _FIRST * self._settings.every
        own = early and not isinstance(self.term.loss, str)
        if own and not found.isfinite() and bool(activation.isfinite().all()):
            raise RuntimeError(
                f"{where} {found.item()} for finite activations; look for a division "
                "by zero, or a root or a logarithm of zero"
            )
        return found.reshape(())
