"""The styles of loops: what people write between two steps of the optimizer."""

import copy
from collections.abc import Callable

import torch

from fuzz.loops import Interrupted, Loop, same
from fuzz.plans import Batch


def train(loop: Loop, weight: float = 1.0) -> None:
    """Forward, criterion, backward."""
    loop.loss(loop.forward(loop.plan.batch()), weight).backward()


def plain(loop: Loop) -> None:
    """One batch a step."""
    for _ in range(3):
        with loop.round():
            train(loop)


def accumulation(loop: Loop) -> None:
    """Several backwards, then a step."""
    for count in (3, 2):
        with loop.round():
            for _ in range(count):
                train(loop, 1 / count)


def several_losses(loop: Loop) -> None:
    """Several losses, one backward."""
    for _ in range(2):
        with loop.round():
            losses = [
                loop.loss(loop.forward(loop.plan.batch()), weight)
                for weight in (0.5, 2.0)
            ]
            sum(losses).backward()


def late_backwards(loop: Loop) -> None:
    """Losses are kept for backwards of their own, in another order."""
    for _ in range(2):
        with loop.round():
            losses = [loop.loss(loop.forward(loop.plan.batch())) for _ in range(2)]
            for loss in reversed(losses):
                loss.backward()


def clipping(loop: Loop) -> None:
    """Gradients are clipped before the step."""
    for _ in range(2):
        with loop.round(clip=0.1):
            train(loop)


def copies(loop: Loop) -> None:
    """Copies at any time are stock networks."""
    for _ in range(2):
        with loop.round():
            copied = copy.deepcopy(loop.net)
            output = loop.forward(loop.plan.batch())
            others = copy.deepcopy(loop.net)
            loop.loss(output).backward()
        for each in (copied, others):
            stock = copy.deepcopy(loop.stock)
            stock.load_state_dict(each.state_dict())
            batch = loop.plan.batch()
            whole = list(range(len(batch.images)))
            args, kwargs = batch.arguments(loop.net, batch.images, whole)
            got, expected = (m.train()(*args, **kwargs) for m in (each, stock))
            assert same(got, expected), "a copy is no stock network"


def evaluation(loop: Loop) -> None:
    """Evaluation between steps, and between two backwards of one step."""
    for _ in range(2):
        with loop.round():
            train(loop)
            look(loop, training=False)
            train(loop)
        look(loop, training=False)


def looks(loop: Loop) -> None:
    """A look under no_grad at network and criterion, before and between."""
    for _ in range(2):
        with loop.round():
            look(loop, training=True)
            output = loop.forward(loop.plan.batch())
            look(loop, training=True)
            loop.loss(output).backward()


def look(loop: Loop, training: bool) -> None:
    """Network and criterion without gradients give what the stock ones give."""
    batch: Batch = loop.plan.batch()
    whole = list(range(len(batch.images)))
    args, kwargs = batch.arguments(loop.net, batch.images, whole)
    loop.net.train(training)
    twin = loop.twin()
    with torch.no_grad():
        got, expected = loop.model(*args, **kwargs), twin(*args, **kwargs)
        assert same(got, expected), "outputs differ without gradients"
        if not (loop.plan.explicit or loop.plan.criterion.given is None):
            arguments = loop._arguments(got, loop.heads[0][0], batch)
            loss = loop.plan.criterion.call(loop.dai.criterion, *arguments)
            stock = loop.plan.criterion.stock(*arguments)
            assert torch.equal(loss, stock), "criterion differs without gradients"
    loop.net.train()


def broken_forward(loop: Loop) -> None:
    """A forward ends in the middle; the loop catches it and goes on."""

    def interrupt(*_):
        raise Interrupted

    for block in (loop.net.blocks[-1], loop.net.pool, loop.net.stem):
        handle = block.register_forward_pre_hook(interrupt)
        try:
            loop.call(loop.plan.batch())
        except Interrupted:
            pass
        finally:
            handle.remove()
        with loop.round():
            train(loop)


def broken_criterion(loop: Loop) -> None:
    """The criterion refuses its targets; the loop catches it and goes on."""
    for _ in range(2):
        if not (loop.plan.explicit or loop.plan.criterion.given is None):
            output = loop.call(loop.plan.batch())
            found, _ = loop._arguments(output, loop.heads[0][0], loop.plan.batch())
            try:
                loop.plan.criterion.call(loop.dai.criterion, found, torch.zeros(1, 2))
            except (RuntimeError, ValueError, IndexError):
                pass
            else:
                raise AssertionError("wrong targets were taken")
        with loop.round():
            train(loop)


STYLES: dict[str, Callable[[Loop], None]] = {
    "plain": plain,
    "accumulation": accumulation,
    "several losses": several_losses,
    "late backwards": late_backwards,
    "clipping": clipping,
    "copies": copies,
    "evaluation": evaluation,
    "looks": looks,
    "broken forward": broken_forward,
    "broken criterion": broken_criterion,
}
