"""A round of a loop beside the literal objective: whatever can be compared is."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin import select_layers
from fuzz.blocks import Checkpointed
from fuzz.literal import (
    Seen,
    Weights,
    layer_losses,
    observe,
    some_rows,
    task_loss,
)
from fuzz.loops import Call, Forward, Loop
from fuzz.networks import pick
from fuzz.plans import Plan


def verify(loop: Loop, clip: float | None) -> None:
    """Compares a round with the literal objective: losses, gradients, outputs, stats.

    Raises:
        AssertionError: they differ.
    """
    plan = loop.plan
    seen = _back_propagate(loop, loop.autocast, clip)
    expected = _gradients(loop.stock)
    _check_buffers(loop)
    noise = dict.fromkeys(expected, 0.0)
    if plan.autocast == "bfloat16":
        # What half precision leaves open is measured, by the formulas without it.
        loop.stock.zero_grad()
        _back_propagate(loop, contextlib.nullcontext, clip, compare=False)
        exact = _gradients(loop.stock)
        noise = {k: (expected[k] - g).abs().max().item() for k, g in exact.items()}
    _check_gradients(plan, expected, noise)
    stats, settings = loop.dai.stats(), plan.settings
    if not (plan.explicit and "broken" in plan.loop):
        assert stats["missed"] == 0, stats
    assert stats["criterion_calls"] == loop.reached, (stats, loop.reached)
    layout = loop.forwards[-1].layout
    if layout.num_views < settings["num_views"]:
        return  # a stock step, whose layers nobody measured
    losses = layer_losses(seen, layout, settings["correction"], plan.told["term"])
    if plan.told["term"] == "apart" and not stats["alpha"]:
        losses = {}  # a term that waits for targets, and weighs nothing
    assert list(stats["layers"]) == list(losses), (stats["layers"], losses)
    for name, value in losses.items():
        _close(f"stats of {name}", stats["layers"][name], value, _tolerance(plan))


def _tolerance(plan: Plan) -> float:
    return 4e-2 if plan.autocast == "bfloat16" else 1e-6


def _back_propagate(loop: Loop, context: Any, clip: Any, compare: bool = True) -> Seen:
    """Gradients of the literal objective of a round, in the stock network."""
    plan, total, seen = loop.plan, torch.zeros(()), Seen()
    for forward in loop.forwards:
        with context():
            seen = _stock_forward(loop, forward)
            if compare:
                _check_rows(plan, forward)
                _check_output(plan, forward, seen)
            for call in loop.calls:
                if call.forward is forward:
                    value = _literal(plan, call, seen)
                    if compare:
                        _close("loss", call.value, value.detach(), _tolerance(plan), 1)
                    total = total + call.weight * value.mean()
    if plan.settings["layers"] == "auto":
        assert not seen.overwritten, f"overwritten in place: {seen.overwritten}"
    total.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(loop.stock.parameters(), clip)
    return seen


def _gradients(net: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in net.named_parameters()
    }


def _weights(plan: Plan, forward: Forward) -> Weights:
    settings, law = plan.settings, plan.settings["layer_weights"]
    schedule = settings["alpha_schedule"]
    multiplier = 1.0 if schedule is None else schedule(forward.step)
    if isinstance(law, list):
        names = select_layers(plan.net, settings["layers"])
        law = dict(zip(names, law, strict=True))
    return Weights(
        multiplier * settings["alpha"],
        multiplier * settings["beta"],
        law,
        settings["last_to_first"],
        settings["num_views"],
        settings["correction"],
        plan.told["term"],
        forward.layout,
    )


def _stock_forward(loop: Loop, forward: Forward) -> Seen:
    shown = forward.layout.shown
    args, kwargs = forward.batch.arguments(loop.net, forward.rows, shown)
    names, rows = loop.dai.layers, len(forward.rows)
    return observe(loop.stock, names, rows, args, kwargs)


def _literal(plan: Plan, call: Call, seen: Seen) -> Tensor:
    weights, layout = _weights(plan, call.forward), call.forward.layout
    reduction = "mean" if plan.explicit else plan.criterion.reduction
    if call.task is None:
        task = pick(seen.output, "loss")
    else:
        task = task_loss(seen.output, layout, call.task, reduction)
    every = plan.settings["every"]
    if call.forward.step % every:
        return task
    value = (1 - weights.alpha - weights.beta) * task
    if not call.carries:
        return value
    scale = every * (len(call.labels) if reduction == "sum" else 1)
    return value + scale * weights.terms(seen, call.labels[layout.shown])


def _check_rows(plan: Plan, forward: Forward) -> None:
    images, rows = forward.batch.images, forward.rows
    assert len(rows) == len(forward.layout.shown), rows.shape
    assert rows.dtype == images.dtype, rows.dtype
    if forward.step % plan.settings["every"]:
        assert torch.equal(rows, images), "a stock step is not the batch"
        return
    if plan.settings["first_view"] == "clean":
        assert torch.equal(rows[: len(images)], images), "view 0 is not the batch"
    if plan.settings["num_views"] > 1:
        further = images[: forward.layout.further]
        assert not torch.equal(rows[-len(further) :], further), "views are the batch"


def _check_output(plan: Plan, forward: Forward, seen: Seen) -> None:
    layout = forward.layout
    kept = layout.shown if plan.explicit else list(range(layout.images))
    expected = some_rows(seen.output, list(range(len(kept))))
    assert type(forward.returned) is type(expected), type(forward.returned)
    pairs = zip(
        pytree.tree_leaves(forward.returned), pytree.tree_leaves(expected), strict=True
    )
    for number, (got, leaf) in enumerate(pairs):
        if not isinstance(leaf, Tensor):
            assert got == leaf, (got, leaf)
        elif leaf.dim():
            assert got.shape == leaf.shape, f"output {number}: {list(got.shape)}"
            _close(f"output {number}", got, leaf.detach(), _tolerance(plan))


def _check_gradients(
    plan: Plan, expected: dict[str, Tensor], noise: dict[str, float]
) -> None:
    got = _gradients(plan.net)
    # Gradients that are 0 but for rounding have no scale of their own.
    scale = max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        _close(
            f"gradient of {name}",
            got[name],
            gradient,
            _tolerance(plan),
            scale,
            10 * noise[name],
        )


def _check_buffers(loop: Loop) -> None:
    again = any(isinstance(m, Checkpointed) for m in loop.net.modules())
    if loop.plan.loop == "looks" or (again and len(loop.forwards) > 1):
        return  # statistics of batch norm that move at other times than in `stock`
    buffers = dict(loop.net.named_buffers())
    for name, expected in loop.stock.named_buffers():
        _close(name, buffers[name], expected, _tolerance(loop.plan), 1.0)


def _close(
    what: str,
    got: Any,
    expected: Any,
    tolerance: float,
    scale: float = 0.0,
    noise: float = 0.0,
) -> None:
    got, expected = torch.as_tensor(got).double(), torch.as_tensor(expected).double()
    assert got.shape == expected.shape, f"{what}: {got.shape}, {expected.shape}"
    allowed = tolerance * max(expected.abs().max().item(), 1e-3 * scale, 1e-7) + noise
    error = (got - expected).abs().max().item()
    assert error <= allowed, f"{what}: off by {error:.3g}, allowed {allowed:.3g}"
