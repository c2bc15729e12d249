"""What the calls of a criterion are about: whose, of which targets, sum or mean."""

import functools
import random
import threading

import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


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


class WithReduction:
    def __init__(self, reduction):
        self.reduction = reduction

    def __call__(self, output, target):
        return F.cross_entropy(output, target, reduction=self.reduction)


class SumsByItself(nn.Module):
    def forward(self, output, target):
        return by_itself(output, target)


SUMS = {
    "keyword": (lambda: F.cross_entropy, {"reduction": "sum"}, ()),
    "position": (lambda: F.nll_loss, {}, (None, None, -100, None, "sum")),
    "legacy": (lambda: F.cross_entropy, {"size_average": False}, ()),
    "legacy position": (lambda: F.cross_entropy, {}, (None, False)),
    "module": (lambda: nn.CrossEntropyLoss(reduction="sum"), {}, ()),
    "attribute": (lambda: WithReduction("sum"), {}, ()),
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


CLOTHES = [lambda t: t, lambda t: t.double(), lambda t: t.view(-1, 5).clone()]
in_clothes = pytest.mark.parametrize("clothes", CLOTHES, ids=["own", "cast", "view"])


@in_clothes
@pytest.mark.parametrize("every", [2, 3])
def test_two_networks_of_which_one_makes_views_are_refused(batch, every, clothes):
    """Whichever of them does, and whatever its outputs were cast to."""
    images, _ = batch
    for ahead in range(2):
        nets, criterion = [Plain(), Plain()], nn.MSELoss()
        for net in nets:
            attach(net, criterion, every=every, **OPTIONS)
        wanted = torch.rand(4, 5)
        criterion(nets[ahead](images), wanted).backward()
        for _ in range(every):  # until its next views are due
            criterion(nets[1 - ahead](images), wanted).backward()
        first, second = (clothes(net(images)) for net in nets)
        with pytest.raises(RuntimeError, match="outputs of two attached networks"):
            criterion(first, second)


@in_clothes
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("every", [2, 3])
def test_a_stock_output_is_no_target_of_one_with_views(batch, every, swapped, clothes):
    """Two forwards of one network in one call are refused whatever their kinds are."""
    images, _ = batch
    net, criterion = Plain(), nn.MSELoss()
    attach(net, criterion, every=every, **OPTIONS)
    for _ in range(every - 1):
        criterion(net(images), torch.rand(4, 5)).backward()
    pair = [clothes(net(images)), clothes(net(images.flip(3)))]
    with pytest.raises(RuntimeError, match="outputs of two training forwards"):
        criterion(*(pair[::-1] if swapped else pair))


@in_clothes
@pytest.mark.parametrize("late", [False, True])
def test_losses_of_stock_outputs_after_the_next_forward(batch, late, clothes, caplog):
    """They are the stock ones; the next forward carries its terms beside them."""
    images, targets = batch
    net, criterion = Plain(), nn.CrossEntropyLoss()
    attachment = attach(net, criterion, every=2, **OPTIONS)
    criterion(net(images), targets).backward()
    caplog.clear()
    for _ in range(3):
        output, following = clothes(net(images)), clothes(net(images.flip(3)))
        if late:
            criterion(following, targets).backward()
        for labels in (targets, targets.flip(0)):
            loss = criterion(output, labels)
            assert torch.equal(loss, F.cross_entropy(output, labels))
        loss.backward()
        if not late:
            criterion(following, targets).backward()
    assert not caplog.records
    stats = attachment.stats()
    assert (stats["criterion_calls"], stats["missed"]) == (4, 0)


@in_clothes
def test_a_stock_output_without_its_gradient_is_a_target(batch, clothes):
    """A pseudo-label, as others are."""
    images, _ = batch
    net, criterion = Plain(), nn.MSELoss()
    attachment = attach(net, criterion, every=2, **OPTIONS)
    criterion(net(images), torch.rand(4, 5)).backward()
    for _ in range(2):
        label = clothes(net(images)).detach()
        criterion(clothes(net(images)), label).backward()
    stats = attachment.stats()
    assert (stats["criterion_calls"], stats["missed"]) == (3, 0)


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
