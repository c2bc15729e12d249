"""Functions, objects and other callables as criteria: seen, and then as they were."""

import copy
import functools
import gc
import pickle
import sys
import types
import weakref

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain, SmallNet
from torch import nn

from dai_plugin import attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


def recursive_function(output, target, depth=2):
    """Looks itself up by its name, as recursive losses do."""
    if depth:
        return recursive_function(output, target, depth - 1) * 0.5
    return F.cross_entropy(output, target)


class RecursiveModule(nn.Module):
    def forward(self, output, target, depth=2):
        if depth:
            return self(output, target, depth - 1) * 0.5
        return F.cross_entropy(output, target)


class RecursiveObject:
    """A callable with attributes and a state, as many libraries' losses are."""

    def __init__(self, reduction="mean"):
        self.reduction, self.calls = reduction, 0

    def __call__(self, output, target, depth=2):
        self.calls += 1
        if depth:
            return self(output, target, depth - 1) * 0.5
        return F.cross_entropy(output, target, reduction=self.reduction)

    def halved(self, output, target):
        return F.cross_entropy(output, target) * 0.25


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor=0.25):
        self.factor = factor

    def __call__(self, output, target):
        return F.cross_entropy(output, target) * self.factor


class Keyed:
    """Made by a `__new__` with keywords, which copies have to repeat."""

    def __new__(cls, *, factor=0.25):
        made = super().__new__(cls)
        made.factor = factor
        return made

    def __getnewargs_ex__(self):
        return (), {"factor": self.factor}

    def __call__(self, output, target):
        return F.cross_entropy(output, target) * self.factor


def recursive_lambda():
    return lambda o, t, depth=2: (
        held[0](o, t, depth - 1) * 0.5 if depth else F.cross_entropy(o, t)
    )


held = [None]
QUARTERS = {
    "function": lambda: recursive_function,
    "module": RecursiveModule,
    "object": RecursiveObject,
    "slots": Slotted,
    "keyed": Keyed,
    "lambda": recursive_lambda,
    "partial": lambda: functools.partial(recursive_function, depth=2),
    "bound method": lambda: RecursiveObject().halved,
    "bound module": lambda: RecursiveModule().forward,
}


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("kind", QUARTERS)
def test_a_criterion_that_calls_itself_counts_once(batch, kind, views):
    """The objective of its outermost result; afterwards nothing of it is left."""
    images, targets = batch
    net, original = Plain(), QUARTERS[kind]()
    attachment = attach(
        net, original, num_views=views, alpha=0.3, layers=["features"], **OPTIONS
    )
    held[0] = criterion = attachment.criterion
    if kind in ("function", "lambda"):
        held[0] = globals()["recursive_function"] if kind == "function" else criterion
    loss = criterion(net(images), targets)
    activation, logits = net.seen
    task = F.cross_entropy(logits.double(), targets.repeat(views)) / 4
    expected = 0.7 * task + 0.3 * oracle.invariance_loss(activation, views)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert attachment.stats()["criterion_calls"] == 1
    attachment.remove()
    stock = original(net(images), targets)
    torch.testing.assert_close(stock, F.cross_entropy(net(images), targets) / 4)
    assert globals()["recursive_function"].__name__ == "recursive_function"
    assert not hasattr(recursive_function, "dai_runner")


@pytest.mark.parametrize("kind", ["object", "slots", "keyed"])
def test_a_callable_object_stays_what_it_is(net, batch, kind):
    """Identity, class, attributes; every copy is plain, and so is it after remove()."""
    original = QUARTERS[kind]()
    cls = type(original)
    original_state = {n: getattr(original, n) for n in ("factor",) if kind != "object"}
    attachment = attach(net, original, **OPTIONS)
    criterion = attachment.criterion
    assert criterion is original
    assert isinstance(criterion, cls)
    assert (type(criterion).__name__, type(criterion).__module__) == (
        cls.__name__,
        cls.__module__,
    )
    copies = [
        copy.copy(criterion),
        copy.deepcopy(criterion),
        *(pickle.loads(pickle.dumps(criterion, p)) for p in range(2, 6)),
    ]
    for each in copies:
        assert type(each) is cls
        for name, value in original_state.items():
            assert getattr(each, name) == value
    if kind == "object":
        criterion.reduction = "sum"
        criterion(net(batch[0]), batch[1]).backward()
        assert original.calls == 6
        with pytest.raises(AttributeError):
            _ = criterion.missing
        assert vars(criterion) == {"reduction": "sum", "calls": 6}
    else:
        criterion.factor = 3.0
    if kind == "slots":
        with pytest.raises(AttributeError):
            criterion.other = 1
    attachment.remove()
    assert type(original) is cls


@pytest.mark.parametrize("kind", ["partial", "bound method", "bound module"])
def test_a_stand_in_shows_all_of_what_it_stands_for(net, kind):
    """Class, attributes, copies; for whoever looks at what the loop calls."""
    original = QUARTERS[kind]()
    criterion = attach(net, original, **OPTIONS).criterion
    assert criterion is not original
    assert criterion.__class__ is type(original)
    assert isinstance(criterion, type(original))
    assert repr(criterion) == repr(original)
    names = ["func", "args", "keywords"] if kind == "partial" else ["__self__"]
    for name in names:
        assert getattr(criterion, name) is getattr(original, name)
    assert type(copy.copy(criterion)) is type(original)
    assert type(copy.deepcopy(criterion)) is type(original)
    if kind == "partial":
        assert pickle.loads(pickle.dumps(criterion)).keywords == original.keywords


def other_loss(output, target):
    return F.cross_entropy(output, target)


def test_modules_imported_while_attached_see_the_stand_in_and_are_restored(net, batch):
    """`from losses import other_loss` in the middle of a run, in any order of ends."""
    plain, here = other_loss, sys.modules[__name__]
    early, late = types.ModuleType("early_losses"), types.ModuleType("late_losses")
    early.renamed = plain
    sys.modules["early_losses"] = early
    try:
        with attach(net, other_loss, **OPTIONS) as attachment:
            late.found = here.other_loss
            sys.modules["late_losses"] = late
            assert early.renamed is late.found is here.other_loss is not plain
            for function in (early.renamed, late.found, here.other_loss):
                function(net(batch[0]), batch[1]).backward()
            assert attachment.stats()["criterion_calls"] == 3
        assert early.renamed is late.found is here.other_loss is plain
    finally:
        sys.modules.pop("early_losses")
        sys.modules.pop("late_losses", None)


@pytest.mark.parametrize("first", range(2))
def test_a_function_that_was_kept_before_it_was_attached(batch, first):
    """Two networks with it share one stand-in; names come back whoever ends last."""
    kept = other_loss
    nets = [Plain(), Plain()]
    attachments = [attach(net, kept, **OPTIONS) for net in nets]
    assert attachments[0].criterion is attachments[1].criterion is other_loss
    for net in nets:
        other_loss(net(batch[0]), batch[1]).backward()
    assert [a.stats()["criterion_calls"] for a in attachments] == [1, 1]
    for i in (first, 1 - first):
        attachments[i].remove()
    assert other_loss is kept
    assert (kept.__module__, kept.__qualname__) == (__name__, "other_loss")
    assert pickle.loads(pickle.dumps(kept)) is kept


@pytest.mark.parametrize("kind", ["function", "module", "object", "torch"])
def test_finished_networks_are_collected_though_the_criterion_lives(batch, kind):
    """A sweep over many networks with one criterion, never removed by hand."""
    images, targets = batch
    made = {"torch": lambda: F.cross_entropy, **QUARTERS}[kind]()
    alive = []
    for _ in range(3):
        net = SmallNet()
        criterion = attach(net, made, **OPTIONS).criterion
        criterion(net(images), targets).backward()
        alive.append(weakref.ref(net))
        del net
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
    if kind in ("function", "torch"):
        assert not hasattr(F.cross_entropy, "dai_runner")
        assert not hasattr(recursive_function, "dai_runner")
    if kind == "module":
        assert not made._forward_hooks
        assert not made._forward_pre_hooks
    if kind == "object":
        assert type(made) is RecursiveObject
