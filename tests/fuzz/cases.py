"""One case from its seed to its end: right, or refused with a reason that holds."""

import copy
import re
import traceback

import torch
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach, select_layers
from fuzz import criteria
from fuzz.literal import Seen, observe
from fuzz.loops import Loop
from fuzz.plans import Plan, draw_plan
from fuzz.styles import STYLES
from fuzz.verify import verify


def run_case(seed: int) -> str:
    """Runs the case of this seed.

    Returns:
        "right", or "refused: " and the reason in a word.

    Raises:
        AssertionError: anything else; the message reproduces it.
    """
    plan = draw_plan(seed)
    try:
        return _run(plan)
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        raise AssertionError(
            f"`python tests/test_fuzz.py {seed}` shows it: {type(error).__name__}: "
            f"{error}\n{plan}\n{where}"
        ) from error


def _run(plan: Plan) -> str:
    stock = copy.deepcopy(plan.net)
    # Also the order of attach and compile is drawn.
    model: nn.Module = plan.net
    compile_first = plan.compiled and plan.seed % 2 == 0
    if compile_first:
        model = torch.compile(model, backend="aot_eager")
    dai = None
    try:
        if plan.explicit:
            dai = DataAugmentationInvariance(model, **plan.settings)
        else:
            dai = attach(model, plan.criterion.given, **plan.settings)
        if plan.compiled and not compile_first:
            model = torch.compile(model, backend="aot_eager")
        loop = Loop(plan, model, stock, dai, verify)
        STYLES[plan.loop](loop)
        _check_end(loop)
    except (RuntimeError, ValueError, TypeError) as error:
        return f"refused: {_confirmed(plan, stock, error)}"
    finally:
        if dai is not None:
            dai.remove()
            _check_removed(plan.net)
        if plan.compiled:
            torch._dynamo.reset()
    compared = plan.net.with_similarities and plan.settings["num_views"] > 1
    assert plan.explicit or not compared, "rows were compared with views of their own"
    return "right"


def _check_end(loop: Loop) -> None:
    if "broken" not in loop.plan.loop:
        forwards = loop.dai.stats()["forwards"]
        assert forwards == len(loop.captured), (forwards, len(loop.captured))
    left_out = set(select_layers(loop.stock, loop.plan.settings["layers"]))
    left_out -= set(loop.dai.layers)
    if left_out:
        seen = _look(loop.plan, loop.stock)
        assert left_out <= seen.overwritten, f"left out without need: {left_out}"


def _look(plan: Plan, stock: nn.Module) -> Seen:
    """A forward of the stock network, all layers that were asked for watched."""
    batch = plan.batch()
    shown = plan.rows(len(batch.images), step=0).shown
    rows = batch.images[shown]
    args, kwargs = batch.arguments(plan.net, rows, shown)
    names = select_layers(stock, plan.settings["layers"])
    return observe(stock.train(), names, len(rows), args, kwargs)


def _check_removed(net: nn.Module) -> None:
    assert criteria.restored(), "remove() left a function exchanged"
    for name, module in net.named_modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        left = [h for h in hooks if "dai_plugin" in type(h).__module__]
        assert not left, f"remove() left hooks on {name!r}: {left}"


def _confirmed(plan: Plan, stock: nn.Module, error: Exception) -> str:
    """The reason of a refusal in a word, if the stock network shows that it holds."""
    frames = traceback.extract_tb(error.__traceback__)
    if "dai_plugin" not in frames[-1].filename:
        raise error
    seen, names = _look(plan, stock), select_layers(stock, plan.settings["layers"])
    silent = set(names) - {name for name, _ in seen.fired} - seen.without_rows
    if plan.settings["layers"] == "auto" and set(names) - seen.overwritten:
        seen.overwritten = set()  # "auto" leaves out, and goes on with the others
    reasons = {
        "overwritten in place": seen.overwritten,
        "did not fire": silent,
        "no tensor with": seen.without_rows,
        "without gradients": seen.without_gradient,
    }
    message = str(error)
    for words, layers in reasons.items():
        if words in message and any(name in message for name in layers):
            return words
    if plan.net.with_similarities and re.search(r"another\s+dimension", message):
        return "rows in another dimension"
    raise error
