"""How criteria of any kind are seen: once a call, and then they are what they were."""

import copy
import functools
import gc
import pickle
import random
import sys
import threading
import types
import weakref

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


class Plain(nn.Module):
    """One layer whose activations the test keeps; no batch norm."""

    def __init__(self, classes=5):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 7, 2), nn.ReLU())
        self.head, self.seen = nn.Linear(7, classes), None

    def forward(self, x):
        activation = self.features(x)
        logits = self.head(activation.mean((2, 3)))
        self.seen = activation, logits
        return logits


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


def run_of(seed):
    """A network, its attachment to F.cross_entropy, and its optimizer."""
    torch.manual_seed(seed)
    with torch.random.fork_rng():
        net = Plain()
    attachment = attach(net, F.cross_entropy, num_views=2, mean=0.0, std=1.0, seed=seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, attachment, optimizer


def steps_of(run, images, targets, steps, barrier=None):
    net, _, optimizer = run
    for _ in range(steps):
        if barrier:
            barrier.wait(30)
        optimizer.zero_grad()
        F.cross_entropy(net(images), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("end", range(2))
def test_two_threads_on_one_function(batch, end):
    """Each network's call is its own: weights as from runs one after the other."""
    images, targets = batch
    alone = [run_of(seed) for seed in range(2)]
    for run in alone:
        steps_of(run, images, targets, 8)
        run[1].remove()
    together = [run_of(s) for s in range(2)]
    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=steps_of, args=(run, images, targets, 8, barrier))
        for run in together
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (net, attachment, _), (twin, *_) in zip(together, alone, strict=True):
        stats = attachment.stats()
        assert (stats["criterion_calls"], stats["missed"]) == (8, 0)
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    together[end][1].remove()
    together[1 - end][1].remove()
    assert not hasattr(F.cross_entropy, "dai_runner")


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


def with_parts(form):
    def criterion(output, target):
        task, other = F.cross_entropy(output, target), output.square().mean()
        total = task + other
        parts = {"task": task.item(), "other": other.detach()}
        return {
            "tuple": (total, parts),
            "list": [total, task.detach(), "a word"],
            "dict": {"loss": total, "parts": parts},
        }[form]

    return criterion


@pytest.mark.parametrize("form", ["tuple", "list", "dict"])
def test_criteria_that_return_parts_beside_the_loss(batch, form):
    """The loss becomes the objective; the parts stay the first view's own."""
    images, targets = batch
    net = Plain()
    _, criterion = attach(
        net, with_parts(form), alpha=0.3, layers=["features"], **OPTIONS
    )
    result = criterion(net(images), targets)
    activation, logits = net.seen
    stock = with_parts(form)(logits[:4], targets)
    assert type(result) is type(stock)
    loss = result["loss"] if form == "dict" else result[0]
    task = F.cross_entropy(logits.double(), targets.repeat(2))
    task = task + logits.double().square().mean()
    expected = 0.7 * task + 0.3 * oracle.invariance_loss(activation, 2)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    rest, own = (
        (result["parts"], stock["parts"]) if form == "dict" else (result[1], stock[1])
    )
    assert rest == own if not isinstance(rest, dict) else set(rest) == set(own)
    loss.backward()


@pytest.mark.parametrize("views", [2, 3])
def test_targets_that_the_criterion_changes_in_place(batch, views):
    """Every view gets them as they came; the loop's own are changed once."""
    images, targets = batch
    net = Plain()

    def shifting(output, target):
        target += 1
        return F.cross_entropy(output, target % 5)

    _, criterion = attach(
        net, shifting, num_views=views, alpha=0.3, layers=["features"], **OPTIONS
    )
    given = targets.clone()
    loss = criterion(net(images), given)
    assert torch.equal(given, targets + 1)
    activation, logits = net.seen
    task = F.cross_entropy(logits.double(), (targets.repeat(views) + 1) % 5)
    expected = 0.7 * task + 0.3 * oracle.invariance_loss(activation, views)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()


def by_itself(output, target):
    return (output.log_softmax(1) * F.one_hot(target, 5)).sum().neg()


def mean_by_itself(output, target):
    return by_itself(output, target) / len(target)


class SumsByItself(nn.Module):
    def forward(self, output, target):
        return by_itself(output, target)


SUMS = {
    "keyword": (lambda: F.cross_entropy, {"reduction": "sum"}, ()),
    "position": (lambda: F.nll_loss, {}, (None, None, -100, None, "sum")),
    "legacy": (lambda: F.cross_entropy, {"size_average": False}, ()),
    "legacy position": (lambda: F.cross_entropy, {}, (None, False)),
    "module": (lambda: nn.CrossEntropyLoss(reduction="sum"), {}, ()),
    "attribute": (lambda: RecursiveObject("sum"), {"depth": 0}, ()),
    "partial": (
        lambda: functools.partial(F.cross_entropy, reduction="sum"),
        {},
        (),
    ),
    "by itself": (lambda: by_itself, {}, ()),
    "module by itself": (SumsByItself, {}, ()),
    "lambda": (lambda: lambda output, target: by_itself(output, target), {}, ()),
}


class LogProbabilities(Plain):
    def forward(self, x):
        logits = super().forward(x).log_softmax(1)
        self.seen = self.seen[0], logits
        return logits


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", SUMS)
def test_sums_over_images_are_known_however_they_are_told(kind, seed):
    """The terms count once an image, beside the mean of the views' sums."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    count, views = rng.randint(2, 5), rng.randint(2, 3)
    make, keywords, positional = SUMS[kind]
    net = LogProbabilities()
    attachment = attach(
        net, make(), num_views=views, alpha=0.3, layers=["features"], **OPTIONS
    )
    criterion = attachment.criterion
    targets = torch.randint(5, (count,))
    for _ in range(2):
        output = net(torch.rand(count, 3, 8, 8))
        loss = criterion(output, targets, *positional, **keywords)
        activation, logits = net.seen
        task = by_itself(logits.double(), targets.repeat(views)) / views
        inv = oracle.invariance_loss(activation, views)
        expected = 0.7 * task + 0.3 * count * inv
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        loss.backward()
    attachment.remove()


@pytest.mark.parametrize("kind", [mean_by_itself, lambda o, t: mean_by_itself(o, t)])
def test_means_over_images_are_no_sums(batch, kind):
    """A function without a word about its reduction."""
    net = Plain()
    attachment = attach(net, kind, alpha=0.3, layers=["features"], **OPTIONS)
    loss = attachment.criterion(net(batch[0]), batch[1])
    activation, logits = net.seen
    task = F.cross_entropy(logits.double(), batch[1].repeat(2))
    expected = 0.7 * task + 0.3 * oracle.invariance_loss(activation, 2)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    attachment.remove()


@pytest.mark.parametrize("kind", ["function", "module", "object"])
def test_two_attached_networks_in_one_call_are_refused(batch, kind):
    """Neither knows of the other's views; each by itself trains on."""
    images, _ = batch
    criterion = {
        "function": F.mse_loss,
        "module": nn.MSELoss(),
        "object": type(
            "Distance", (), {"__call__": lambda _, a, b: F.mse_loss(a, b)}
        )(),
    }[kind]
    student, teacher = Plain(), Plain()
    attach(student, criterion, **OPTIONS)
    attach(teacher, criterion, **OPTIONS)
    called = F.mse_loss if kind == "function" else criterion
    with pytest.raises(RuntimeError, match="outputs of two attached networks"):
        called(student(images), teacher(images))
    target = torch.rand(4, 5)
    for net in (student, teacher):
        called(net(images), target).backward()
        assert attached(net).stats()["criterion_calls"] == 1
        attached(net).remove()


@pytest.mark.parametrize("ignored", [-100, 3])
@pytest.mark.parametrize("seed", range(4))
def test_rows_with_the_ignored_label_are_left_out_of_the_class_terms(seed, ignored):
    """Random labels, some ignored, of a module with an ignore_index of its own."""
    torch.manual_seed(seed)
    images, targets = torch.rand(6, 3, 8, 8), torch.randint(3, (6,))
    targets[torch.randperm(6)[: 1 + seed]] = ignored
    net = Plain()
    criterion = nn.CrossEntropyLoss(ignore_index=ignored)
    attach(net, criterion, alpha=0.0, beta=0.4, layers=["features"], **OPTIONS)
    loss = criterion(net(images), targets)
    activation, logits = net.seen
    labels = targets.repeat(2)
    kept = labels != ignored
    task = F.cross_entropy(logits.double()[kept], labels[kept])
    term = oracle.class_invariance_loss(activation[kept], labels[kept])
    expected = 0.6 * task + 0.4 * term
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
