"""`every`: views in each k-th training step; the others are stock, to the bit."""

import copy
import logging

import processes
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain, SmallNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dai_plugin import DataAugmentationInvariance, attach, check
from dai_plugin.schedules import linear_warmup

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "alpha": 0.3}


class Stateful(nn.Module):
    """Dropout, batch norm: random numbers and buffers."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet()
        self.net.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 5))

    def forward(self, x):
        return self.net(x)


def batches(count):
    generator = torch.Generator().manual_seed(8)
    for _ in range(count):
        images = torch.rand(4, 3, 8, 8, generator=generator)
        yield images, torch.randint(5, (4,), generator=generator)


def train(net, criterion, optimizer, some):
    """What the loop saw: outputs, losses."""
    seen = []
    for images, labels in some:
        output = net(images)
        loss = criterion(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += [output.detach().clone(), loss.detach().clone()]
    return seen


def twin_of(net, optimizer):
    """A stock copy in the same state, with an optimizer in the same state."""
    twin = copy.deepcopy(net)
    other = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, other


def assert_same(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(),
                            strict=True):  # fmt: skip
        assert torch.equal(a, b), name
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("rounds", [1, 3])
def test_other_steps_are_stock(rounds):
    """Outputs, losses, gradients, weights, buffers, random numbers: bit for bit."""
    torch.manual_seed(0)
    net, criterion = Stateful(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    attachment = attach(net, criterion, every=4, **OPTIONS)
    every_batch = list(batches(4 * rounds))
    for start in range(0, 4 * rounds, 4):
        train(net, criterion, optimizer, every_batch[start : start + 1])
        twin, other = twin_of(net, optimizer)
        state = torch.get_rng_state()
        expected = train(
            twin, F.cross_entropy, other, every_batch[start + 1 : start + 4]
        )
        end = torch.get_rng_state()
        torch.set_rng_state(state)
        seen = train(net, criterion, optimizer, every_batch[start + 1 : start + 4])
        assert all(map(torch.equal, seen, expected))
        assert torch.equal(torch.get_rng_state(), end)
        assert_same(net, twin)
    stats = attachment.stats()
    assert stats["forwards"] == 4 * rounds
    assert (stats["criterion_calls"], stats["stock"]) == (rounds, 3 * rounds)
    assert stats["missed"] == 0


def test_a_run_of_stock_steps_is_a_run_without_the_plugin():
    """From the second step on, as long as no views are due."""
    torch.manual_seed(0)
    net, criterion = Stateful(), nn.CrossEntropyLoss()
    twin = copy.deepcopy(net)
    attachment = attach(net, criterion, every=100, **OPTIONS)
    attachment.load_state_dict({**attachment.state_dict(), "step": 1})
    ends = []
    for each, loss in ((net, criterion), (twin, F.cross_entropy)):
        torch.manual_seed(5)
        optimizer = torch.optim.SGD(each.parameters(), 0.1, momentum=0.9)
        train(each, loss, optimizer, batches(12))
        ends.append(torch.get_rng_state())
    assert_same(net, twin)
    assert torch.equal(*ends)


def test_a_scheme_is_checked_in_the_first_steps_that_use_it(net, batch):
    """Not only in the first steps of the run."""
    calls = []

    def scheme(images):
        calls.append(len(images))
        return images / 2 if len(calls) < 3 else images * torch.nan

    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, every=4, scheme=scheme, **OPTIONS)
    for _ in range(8):
        criterion(net(batch[0]), batch[1]).backward()
    with pytest.raises(ValueError, match="returned NaN"):
        net(batch[0])


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("num_views", [1, 3])
@pytest.mark.parametrize("every", [2, 5])
def test_images_that_would_be_scaled_in_some_steps_alone(every, num_views, explicit):
    """uint8 ones are refused in the first step, before the network sees anything."""
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    options = {**OPTIONS, "every": every, "num_views": num_views}
    options["first_view"] = "clean"
    seen = []
    net.features.register_forward_pre_hook(lambda _, args: seen.append(args))
    if explicit:
        clean = {**options, "first_view": "clean"}
        start = DataAugmentationInvariance(net, **clean).views
    else:
        attach(net, criterion, **options)
        start = net
    with pytest.raises(ValueError, match="let the loop scale and normalise them"):
        start(images)
    assert not seen
    rows = start(images / 255)
    assert explicit or torch.isfinite(criterion(rows, torch.zeros(4).long()))


def rows_of(net, criterion, steps, replayed=(), attachment=None):
    """What entered the network in each step."""
    seen = []
    handle = net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for number, (images, labels) in enumerate(batches(steps)):
        criterion(net(images), labels).backward()
        if number in replayed:
            with attachment.replay():
                criterion(net(images), labels).backward()
    handle.remove()
    return seen


def test_steps_are_numbered_as_ever():
    """The views of step k are those of a run that makes views in every step."""
    found = []
    for every in (1, 3):
        torch.manual_seed(0)
        net, criterion = SmallNet(), nn.CrossEntropyLoss()
        attach(net, criterion, every=every, **OPTIONS)
        found.append(rows_of(net, criterion, 7))
    for number, (always, seldom) in enumerate(zip(*found, strict=True)):
        assert torch.equal(seldom, always if number % 3 == 0 else always[:4])


def test_replay_repeats_a_step_of_its_kind():
    """With views, the same ones; without, none."""
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    attachment = attach(net, criterion, every=2, **OPTIONS)
    seen = rows_of(net, criterion, 3, (0, 1), attachment)
    assert [len(rows) for rows in seen] == [8, 8, 4, 4, 8]
    assert torch.equal(seen[0], seen[1])
    assert attachment.state_dict()["step"] == 3


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resume(stop):
    """Wherever it stopped, a run goes on with the steps that were due."""
    runs = []
    for at in (None, stop):
        torch.manual_seed(0)
        net, criterion = SmallNet(), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        attachment = attach(net, criterion, every=3, **OPTIONS)
        some = list(batches(7))
        train(net, criterion, optimizer, some[:at])
        if at is not None:
            state = attachment.state_dict()
            attachment.remove()
            attach(net, criterion, every=3, **{**OPTIONS, "seed": 9}).load_state_dict(
                state
            )
            train(net, criterion, optimizer, some[at:])
        runs.append(net)
    assert_same(*runs)


def test_terms_weigh_as_much_as_all_steps_would():
    """Times k where they are carried, times the schedule; the task as scheduled."""
    net, criterion = Plain(), nn.CrossEntropyLoss()
    attachment = attach(
        net, criterion, every=3, alpha_schedule=linear_warmup(6), **OPTIONS
    )
    for number, (images, labels) in enumerate(batches(7)):
        loss = criterion(net(images), labels)
        loss.backward()
        stats = attachment.stats()
        alpha = 0.3 * linear_warmup(6)(number)
        assert stats["alpha"] == pytest.approx(alpha)
        if number % 3 == 0:
            inv = stats["layers"]["features.1"]
            expected = (1 - alpha) * stats["task_loss"] + 3 * alpha * inv
            assert loss.item() == pytest.approx(expected, rel=1e-5)
            assert number == 0 or alpha > 0


@pytest.mark.parametrize("kind", ["mean", "sum", "none"])
def test_check_compares_with_the_literal_formula(net, batch, kind):
    """The first step is one with views."""
    found = check(net, nn.CrossEntropyLoss(reduction=kind), batch, every=5, beta=0.2,
                  **OPTIONS)  # fmt: skip
    assert found.ok, str(found)
    assert found.cost == pytest.approx(1.2)


def test_the_notice(net, batch, caplog):
    """Says how often, what that costs on average, and what the terms weigh."""
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, every=4, **OPTIONS)
    criterion(net(batch[0]), batch[1])
    expected = "4 images x 2 views = 8 rows in one of 4 steps, on average 1.25 times"
    assert expected in caplog.text
    assert "the terms x 4 in those" in caplog.text


def test_stock_steps_are_not_judged(net, batch, caplog):
    """A loop that drops their losses, or takes another loss, misses nothing there."""
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, every=3, **OPTIONS)
    caplog.clear()
    for number in range(9):
        output = net(batch[0])
        if number % 3 == 0:
            criterion(output, batch[1]).backward()
        elif number % 3 == 1:
            criterion(output.log_softmax(1), batch[1])
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not warnings
    assert attachment.stats()["missed"] == 0


def test_steps_with_views_are(net, batch):
    """Two in a row of them whose loss is not trained raise."""
    attachment = attach(net, nn.CrossEntropyLoss(), every=2, **OPTIONS)
    for _ in range(3):
        net(batch[0]).sum().backward()
    with pytest.raises(RuntimeError, match="did not reach the criterion"):
        net(batch[0])
    assert attachment.stats()["missed"] == 2


def test_outputs_of_a_step_with_views_in_a_stock_step(net, batch, caplog):
    """Their further views are gone: said as ever."""
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, every=2, **OPTIONS)
    output = net(batch[0])
    net(batch[0])
    assert torch.equal(criterion(output, batch[1]), F.cross_entropy(output, batch[1]))
    assert "outputs whose step had ended" in caplog.text


def test_the_explicit_form(net, batch):
    """What came is returned, by both; one loss a step."""
    images, labels = batch
    dai = DataAugmentationInvariance(net, every=2, first_view="clean", **OPTIONS)
    for number in range(4):
        rows, targets = dai.views(images, labels)
        assert (len(rows), len(targets)) == ((8, 8) if number % 2 == 0 else (4, 4))
        task = F.cross_entropy(net(rows), targets)
        loss = dai.loss(task)
        if number % 2:
            assert rows is images
            assert targets is labels
            assert loss is task
        else:
            inv = [0.3 * w * v for w, v in zip((1 / 11, 10 / 11),
                   dai.stats()["layers"].values(), strict=True)]  # fmt: skip
            expected = 0.7 * task + 2 * sum(inv)
            assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
        with pytest.raises(RuntimeError, match="call views"):
            dai.loss(task.detach())
    stats = dai.stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["stock"]) == (4, 2, 2)
    dai.remove()
    with pytest.raises(RuntimeError, match="removed"):
        dai.views(images)


def test_the_explicit_form_transforms_all_first_views_or_none(net):
    """Its default transforms them, which steps without views would not."""
    with pytest.raises(ValueError, match=r'every=2 leaves.*set first_view="clean"'):
        DataAugmentationInvariance(net, every=2, **OPTIONS)


class Own(nn.Module):
    """Returns its loss."""

    def __init__(self):
        super().__init__()
        self.net = Plain()

    def forward(self, pixel_values, labels, num_items_in_batch=None):
        self.given = num_items_in_batch
        return {"loss": F.cross_entropy(self.net(pixel_values), labels)}


def test_a_model_that_returns_its_loss(batch):
    """Its own output in stock steps, and the loop's own count."""
    net = Own()
    attach(net, every=2, **OPTIONS)
    twin = copy.deepcopy(net)
    for number in range(4):
        loss = net(*batch, num_items_in_batch=4)["loss"]
        stock = twin(*batch)["loss"]
        assert (loss.item() == stock.item()) == (number % 2 == 1)
        assert number % 2 == 0 or net.given == 4
        loss.backward()


class Twice(nn.Module):
    """Calls itself, as some networks do for a second scale."""

    def __init__(self):
        super().__init__()
        self.net = Plain()

    def forward(self, x, again=True):
        return self.net(x) + (self(x / 2, again=False) if again else 0)


def test_a_network_that_calls_itself(batch):
    """The inner call is no step of its own."""
    net, criterion = Twice(), nn.CrossEntropyLoss()
    attachment = attach(net, criterion, every=2, **OPTIONS)
    twin = copy.deepcopy(net)
    for number in range(4):
        output = net(batch[0])
        if number % 2:
            assert torch.equal(output, twin(batch[0]))
        criterion(output, batch[1]).backward()
    assert attachment.stats()["forwards"] == 4


def test_evaluation_between(net, batch):
    """Is no step; a loss that follows it in a stock step is the stock one."""
    images, labels = batch
    criterion = nn.CrossEntropyLoss()
    attachment = attach(net, criterion, every=2, **OPTIONS)
    for number in range(4):
        output = net(images)
        if number % 2:
            net.eval()
            with torch.no_grad():
                net(images)
            net.train()
            loss = criterion(output, labels)
            assert torch.equal(loss, F.cross_entropy(output, labels))
        else:
            loss = criterion(output, labels)
        loss.backward()
    assert attachment.stats()["missed"] == 0


class Checkpointed(Plain):
    """Whose block is computed again in the backward."""

    def forward(self, x):
        activation = checkpoint(self.features, x, use_reentrant=False)
        return self.head(activation.mean((2, 3)))


@pytest.mark.parametrize("options", [{"every": 2}, {"share": 0.5}], ids=str)
def test_checkpointing(options):
    """Whenever the backward comes, stock steps in between or not."""
    gradients = []
    for kind in (Plain, Checkpointed):
        torch.manual_seed(0)
        net, criterion = kind(), nn.CrossEntropyLoss()
        attach(net, criterion, **options, **OPTIONS)
        losses = [criterion(net(images), labels) for images, labels in batches(4)]
        for loss in reversed(losses):
            loss.backward()
        gradients.append([p.grad for p in net.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_accumulation_counts_forwards():
    """A forward is a step: with k micro-batches each update has one with views."""
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    attach(net, criterion, every=2, **OPTIONS)
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for number, (images, labels) in enumerate(batches(6)):
        (criterion(net(images), labels) / 2).backward()
        if number % 2:
            assert seen[-2:] == [8, 4]


@pytest.mark.parametrize("explicit", [False, True])
def test_compiled(explicit):
    """One graph a kind of step, whole; the eager losses."""
    torch._dynamo.reset()
    graphs, losses = [], []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    for compiled in (False, True):
        torch.manual_seed(0)
        net, criterion = SmallNet(), nn.CrossEntropyLoss()
        if explicit:
            dai = DataAugmentationInvariance(
                net, every=3, first_view="clean", **OPTIONS
            )
        else:
            attach(net, criterion, every=3, **OPTIONS)
        model = torch.compile(net, backend=count) if compiled else net
        for images, labels in batches(7):
            if explicit:
                images, labels = dai.views(images, labels)
            loss = criterion(model(images), labels)
            loss = dai.loss(loss) if explicit else loss
            loss.backward()
            losses.append(loss.item())
    assert losses[7:] == pytest.approx(losses[:7], rel=1e-5)
    assert len(graphs) == 2
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", [torch.bfloat16])
def test_autocast(kind):
    """Stock steps are those of a run under autocast."""
    net, criterion = SmallNet(), nn.CrossEntropyLoss()
    attach(net, criterion, every=2, **OPTIONS)
    for number, (images, labels) in enumerate(batches(4)):
        twin = copy.deepcopy(net)
        with torch.autocast("cpu", kind):
            loss = criterion(net(images), labels)
            stock = F.cross_entropy(twin(images), labels)
        assert torch.equal(loss, stock) == (number % 2 == 1)
        loss.backward()


def on_rank(rank, options):
    logging.disable()
    torch.manual_seed(0)
    net = Plain()
    model, criterion = DistributedDataParallel(net), nn.CrossEntropyLoss()
    return steps(net, model, criterion, options, slice(2 * rank, 2 * rank + 2))


def darker(images):
    """A scheme without random numbers."""
    return images.flip(3) * 0.5


def steps(net, model, criterion, options, some):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    attach(model, criterion, scheme=darker, **options, **OPTIONS)
    mine = [(images[some], labels[some]) for images, labels in batches(5)]
    train(model, criterion, optimizer, mine)
    return [p.detach() for p in net.parameters()]


def test_all_processes_are_one():
    """Two of them with sync=True, after steps of both kinds."""
    ranks = processes.run(on_rank, 2, {"every": 2, "sync": True})
    torch.manual_seed(0)
    net = Plain()
    expected = steps(net, net, nn.CrossEntropyLoss(), {"every": 2}, slice(4))
    for ours in ranks:
        for got, reference in zip(ours, expected, strict=True):
            torch.testing.assert_close(got, reference, atol=1e-5, rtol=1e-5)
