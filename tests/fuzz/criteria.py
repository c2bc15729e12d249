"""The criteria of random loops, and the ways in which loops call them."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.networks import pick

STOCK = F.cross_entropy


def script_criterion(output, target):
    """A function of the script's own, looked up by its name in this module."""
    return STOCK(output, target) * 0.5 + output.square().mean() * 0.1


STOCK_SCRIPT = script_criterion


class Whole(nn.Module):
    """A criterion of the whole output, auxiliary head included."""

    def __init__(self, has_aux: bool) -> None:
        super().__init__()
        self.has_aux = has_aux

    def forward(self, output, target):
        loss = STOCK(pick(output, "logits"), target)
        if self.has_aux:
            loss = loss + 0.4 * STOCK(pick(output, "aux"), target)
        return loss


class Focal:
    """A callable object that is no module."""

    gamma = 2.0

    def __call__(self, output, target):
        likelihood = -STOCK(output, target, reduction="none")
        return -((1 - likelihood.exp()) ** self.gamma * likelihood).mean()


@dataclass(frozen=True)
class Criterion:
    """A criterion in its parts.

    Attributes:
        given: what attach gets; None if the network returns its loss.
        stock: the same, never attached.
        call: how the loop calls it; its first argument is what attach returned.
        reduction: "mean", "sum" or "none".
        targets: "hard", "soft" or "dense" (one number a class).
    """

    given: Any
    stock: Callable[..., Tensor]
    call: Callable[..., Tensor]
    reduction: str = "mean"
    targets: str = "hard"

    def target(self, labels: Tensor, classes: int, like: Tensor) -> Tensor:
        """The targets of these labels."""
        if self.targets == "hard":
            return labels
        one_hot = F.one_hot(labels, classes).to(like.dtype)
        return one_hot * 0.8 + 0.2 / classes if self.targets == "soft" else one_hot


def _module(module: nn.Module, targets: str = "hard") -> Criterion:
    reduction = getattr(module, "reduction", "mean")
    return Criterion(
        module,
        copy.deepcopy(module),
        lambda _, *args: module(*args),
        reduction,
        targets,
    )


def _returned(function: Any, stock: Any = None) -> Criterion:
    return Criterion(function, stock or function, lambda given, *args: given(*args))


def _function(reduction: str) -> Criterion:
    return Criterion(
        STOCK,
        functools.partial(STOCK, reduction=reduction),
        lambda _, *args: F.cross_entropy(*args, reduction=reduction),
        reduction,
    )


KINDS: dict[str, Callable[[], Criterion]] = {
    "module": lambda: _module(nn.CrossEntropyLoss()),
    "module, smoothed": lambda: _module(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "module, sum": lambda: _module(nn.CrossEntropyLoss(reduction="sum")),
    "module, none": lambda: _module(nn.CrossEntropyLoss(reduction="none")),
    "module, soft targets": lambda: _module(nn.CrossEntropyLoss(), "soft"),
    "module, one number a class": lambda: _module(nn.BCEWithLogitsLoss(), "dense"),
    "F.cross_entropy": lambda: _function("mean"),
    "F.cross_entropy, sum": lambda: _function("sum"),
    "F.cross_entropy, none": lambda: _function("none"),
    "script's function": lambda: Criterion(
        STOCK_SCRIPT, STOCK_SCRIPT, lambda _, *args: script_criterion(*args)
    ),
    "lambda": lambda: _returned(lambda output, target: 0.7 * STOCK(output, target)),
    "partial": lambda: _returned(functools.partial(STOCK, label_smoothing=0.2)),
    "object": lambda: _returned(Focal()),
}
MEANS = [k for k in KINDS if "sum" not in k]


def whole(has_aux: bool) -> Criterion:
    """The criterion of the whole output."""
    return _module(Whole(has_aux))


def own() -> Criterion:
    """The network's own loss, in its output."""
    return Criterion(None, lambda output, _: output, lambda _, output, __: output)


def restored() -> bool:
    """Whether every function is what it was."""
    return F.cross_entropy is STOCK and script_criterion is STOCK_SCRIPT
