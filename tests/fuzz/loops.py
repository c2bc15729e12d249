"""A training loop that knows what it asked for, and the styles it is written in."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fuzz.literal import Rows
from fuzz.networks import pick
from fuzz.plans import Batch, Plan


class Interrupted(Exception):
    """What breaks a forward in the middle."""


@dataclass
class Forward:
    """One training forward: its batch, the rows that entered, what came back."""

    batch: Batch
    rows: Tensor
    returned: Any
    step: int
    layout: Rows


@dataclass
class Call:
    """One criterion call: on which forward, its share, and the value that came back.

    Attributes:
        task: from some rows of an output, and the images that they show, to the task
            loss; None for the network's own.
        carries: whether the invariance terms belong to this call.
        labels: `[B]`, for the class-wise terms.
    """

    forward: Forward
    task: Callable[[Any, list[int]], Tensor] | None
    weight: float
    value: Tensor
    carries: bool
    labels: Tensor


class Loop:
    """A network in training; `verify` is called at the end of each round."""

    def __init__(
        self, plan: Plan, model: nn.Module, stock: nn.Module, dai: Any, verify: Any
    ) -> None:
        self.plan, self.model, self.net, self.stock = plan, model, plan.net, stock
        self.dai, self.verify = dai, verify
        self.forwards: list[Forward] = []
        self.calls: list[Call] = []
        self.reached = 0
        self.captured: list[Tensor] = []
        record = torch.compiler.disable(self._record)
        self.handle = self.net.register_forward_pre_hook(record)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.05)

    def _record(self, module: nn.Module, args: Any) -> None:
        if module is self.net and module.training and torch.is_grad_enabled():
            images = args[0]["images"] if isinstance(args[0], dict) else args[0]
            self.captured.append(images.detach().clone())

    @contextlib.contextmanager
    def round(self, clip: float | None = None) -> Iterator[None]:
        """What lies between two steps of the optimizer; checked at its end."""
        self.forwards, self.calls = [], []
        self.net.zero_grad()
        self.stock.load_state_dict(self.net.state_dict())
        self.stock.zero_grad()
        yield
        if clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), clip)
        self.verify(self, clip)
        self.optimizer.step()

    def autocast(self) -> Any:
        """The context of forward and criterion."""
        kind = self.plan.autocast
        if kind == "none":
            return contextlib.nullcontext()
        return torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16")

    def call(self, batch: Batch) -> Any:
        """Calls the network in the loop's way."""
        layout = self.layout(batch)
        if not self.plan.explicit:
            whole = list(range(layout.images))
            args, kwargs = batch.arguments(self.net, batch.images, whole)
        else:
            # The labels are those of the class-wise terms, and of the loop.
            rows, labels = self.dai.views(batch.images, batch.labels)
            assert torch.equal(labels, batch.labels[layout.shown]), "other labels"
            args, kwargs = batch.arguments(self.net, rows, layout.shown)
        with self.autocast():
            return self.model(*args, **kwargs)

    def layout(self, batch: Batch) -> Rows:
        """The rows of the next forward."""
        return self.plan.rows(len(batch.images), len(self.captured))

    def forward(self, batch: Batch) -> Any:
        """A training forward, kept in mind."""
        state, count = torch.get_rng_state(), len(self.captured)
        layout = self.layout(batch)
        output = self.call(batch)
        assert torch.equal(state, torch.get_rng_state()), "global random numbers moved"
        assert len(self.captured) == count + 1, "the network ran more than once"
        kept = pytree.tree_map(_kept, output)
        rows = self.captured[-1]
        self.forwards.append(Forward(batch, rows, kept, count, layout))
        self.captured[-1] = torch.empty(0)
        return output

    def loss(self, output: Any, weight: float = 1.0) -> Tensor:
        """The loss of the last forward's output, all heads together."""
        plan, forward = self.plan, self.forwards[-1]
        self.reached += forward.step % plan.settings["every"] == 0
        with self.autocast():
            if plan.explicit:
                return weight * self._explicit(output, forward, weight)
            total = torch.zeros(())
            for number, (head, share) in enumerate(plan.heads):
                labels, task = self._task(head, forward.batch)
                value = plan.criterion.call(
                    self.dai.criterion,
                    *self._arguments(output, head, forward.batch),
                )
                carries = number == 0 or head == "logits of others"
                call = Call(
                    forward, task, weight * share, value.detach(), carries, labels
                )
                self.calls.append(call)
                total = total + weight * share * value.mean()
        return total

    def _explicit(self, output: Any, forward: Forward, weight: float) -> Tensor:
        tasks = [(self._task(h, forward.batch)[1], s) for h, s in self.heads]

        def mean(rows: Any, shown: list[int]) -> Tensor:
            return sum(s * task(rows, shown).mean() for task, s in tasks)

        value = self.dai.loss(mean(output, forward.layout.shown))
        self.calls.append(
            Call(
                forward,
                mean,
                weight,
                value.detach(),
                True,
                forward.batch.labels,
            )
        )
        return value

    @property
    def heads(self) -> list[tuple[str, float]]:
        """Outputs that reach the criterion, and their shares."""
        return self.plan.heads

    def _arguments(
        self, output: Any, head: str, batch: Batch, shown: list[int] | None = None
    ) -> Any:
        name, _, of_others = head.partition(" of ")
        labels = batch.others if of_others else batch.labels
        labels = labels if shown is None else labels[shown]
        found = output if name == "whole" else pick(output, name)
        target = self.plan.criterion.target(labels, self.net.classes, batch.images)
        return found, target

    def _task(self, head: str, batch: Batch) -> Any:
        labels = batch.others if "others" in head else batch.labels
        if head == "loss":
            return labels, None
        return labels, lambda rows, shown: self.plan.criterion.stock(
            *self._arguments(rows, head, batch, shown)
        )

    def twin(self) -> nn.Module:
        """A stock network in the state of the attached one, as it is now."""
        twin = copy.deepcopy(self.stock)
        twin.load_state_dict(self.net.state_dict())
        return twin.train(self.net.training)


def _kept(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def same(got: Any, expected: Any) -> bool:
    """Whether two outputs are equal to the bit."""
    leaves = zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True)
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in leaves
    )
