"""Schedules of alpha: their ends, their middle, and what they do in training."""

import pickle

import pytest
from torch import nn

from dai_plugin import attach, schedules


def test_linear_warmup():
    """From its start to 1, then 1 for ever."""
    schedule = schedules.linear_warmup(4)
    assert [schedule(step) for step in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.linear_warmup(2, start=0.5)(1) == 0.75


def test_cosine():
    """Half a wave: both ends, the middle, and what follows."""
    schedule = schedules.cosine(100, start=1.0, end=0.2)
    assert schedule(0) == 1
    assert schedule(50) == pytest.approx(0.6)
    assert schedule(100) == schedule(1000) == pytest.approx(0.2)
    assert all(schedule(s) >= schedule(s + 1) for s in range(100))


def test_milestones():
    """The factor holds from its step on."""
    schedule = schedules.milestones([3, 5], gamma=0.5)
    assert [schedule(step) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.linear_warmup(0),
        lambda: schedules.cosine(10, end=-1),
        lambda: schedules.milestones([5, 3]),
        lambda: schedules.milestones([5], gamma=-1),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    """At construction, not a thousand steps later."""
    with pytest.raises(ValueError, match="must"):
        make()


def test_a_warmup_in_training(net, batch):
    """The first step trains the task alone; stats say what alpha is."""
    schedule = pickle.loads(pickle.dumps(schedules.linear_warmup(2)))
    _, criterion = attachment = attach(
        net, nn.CrossEntropyLoss(), alpha=0.4, alpha_schedule=schedule, mean=0, std=1
    )
    alphas = []
    for _ in range(4):
        criterion(net(batch[0]), batch[1]).backward()
        alphas.append(attachment.stats()["alpha"])
    assert alphas == pytest.approx([0, 0.2, 0.4, 0.4])


def test_a_resumed_run_knows_its_alpha_before_its_first_step(net, batch):
    """It is that of the last step before."""
    schedule = schedules.linear_warmup(4)
    _, criterion = first = attach(
        net, nn.CrossEntropyLoss(), alpha=0.4, alpha_schedule=schedule, mean=0, std=1
    )
    for _ in range(3):
        criterion(net(batch[0]), batch[1]).backward()
    state = first.state_dict()
    first.remove()
    second = attach(
        net, nn.CrossEntropyLoss(), alpha=0.4, alpha_schedule=schedule, mean=0, std=1
    )
    second.load_state_dict(state)
    assert second.stats()["alpha"] == pytest.approx(0.2)
