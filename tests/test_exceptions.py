"""A step that fails leaves hooks and stores clean; the next one works."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach, attached

OPTIONS = {"num_views": 2, "seed": 7, "mean": 0.0, "std": 1.0}


class Failing(nn.Module):
    """Raises when told to."""

    error = None

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return x


def failing_step(net, criterion, images, targets, place):
    """One step that raises at that place, seen by a loop that goes on."""
    net.features[4].error = ValueError("no") if place == "forward" else None
    try:
        output = net(images)
        loss = criterion(output, targets[:-1] if place == "criterion" else targets)
        if place == "backward":
            loss.register_hook(lambda grad: grad.view(7))
        loss.backward()
    except (ValueError, RuntimeError):
        return
    finally:
        net.features[4].error = None
    raise AssertionError("the step did not fail")


@pytest.mark.parametrize("function", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("place", ["forward", "criterion", "backward"])
def test_the_step_after_a_failed_one(net, batch, place, function):
    """Forward, criterion or backward raises: nothing is held, nothing is missed."""
    images, targets = batch
    net.features.insert(4, Failing())
    alive = []
    net.features[3].register_forward_hook(lambda *a: alive.append(weakref.ref(a[2])))
    criterion = (
        (lambda o, t: F.cross_entropy(o, t)) if function else nn.CrossEntropyLoss()
    )
    _, criterion = attach(net, criterion, beta=0.1, **OPTIONS)
    for _ in range(3):
        failing_step(net, criterion, images, targets, place)
    gc.collect()
    assert not any(ref() is not None for ref in alive)
    criterion(net(images), targets).backward()
    assert attached(net).stats()["missed"] == 0
    assert net.features[0].weight.grad is not None


def test_an_interrupted_forward(net, batch):
    """Ctrl-C in the forward, caught by the loop."""
    images, targets = batch
    net.features.insert(4, Failing())
    net.features[4].error = KeyboardInterrupt()
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        net(images)
    net.features[4].error = None
    criterion(net(images), targets).backward()
    assert attached(net).stats()["criterion_calls"] == 1


def test_nan_in_the_network_stays_visible(net, batch):
    """A NaN weight gives a NaN loss, which the loop can see."""
    images, targets = batch
    with torch.no_grad():
        net.features[3].weight[0, 0, 0, 0] = float("nan")
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    assert criterion(net(images), targets).isnan()


def test_the_last_batch_of_one_image(net, batch):
    """One image: L = 1 everywhere, no gradient from it, no harm."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    criterion(net(images[:1]), targets[:1]).backward()
    stats = attached(net).stats()
    assert all(value == pytest.approx(1) for value in stats["layers"].values())
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_a_frozen_layer_is_reported(net, batch, caplog):
    """A chosen layer without gradients trains nothing, and that is said once."""
    images, targets = batch
    for parameter in net.features[:3].parameters():
        parameter.requires_grad_(False)
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    for _ in range(2):
        criterion(net(images), targets).backward()
    frozen = [r for r in caplog.records if "layers are frozen" in r.getMessage()]
    assert len(frozen) == 1
    assert "features.2" in frozen[0].getMessage()


class Silent(nn.Module):
    """Returns nothing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

    def forward(self, x):
        self.logits = self.conv(x).mean((2, 3))


def test_a_network_or_criterion_that_returns_none(net, batch):
    """None is an answer, not a failure: it is refused by name."""
    images, targets = batch
    quiet = Silent()
    attach(quiet, nn.CrossEntropyLoss(), **OPTIONS)
    with pytest.raises(RuntimeError, match="NoneType"):
        quiet(images)
    _, criterion = attach(net, lambda o, t: None, **OPTIONS)
    with pytest.raises(TypeError, match="the criterion returned NoneType"):
        criterion(net(images), targets)


def test_two_interrupts_in_a_row(net, batch):
    """A notebook's user stops the forward twice; nothing is counted as missed."""
    images, targets = batch
    net.features.insert(4, Failing())
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, **OPTIONS)
    for _ in range(3):
        net.features[4].error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            net(images)
    net.features[4].error = None
    criterion(net(images), targets).backward()
    assert attached(net).stats()["missed"] == 0


def test_the_notice_comes_with_the_first_step_that_succeeds(net, batch, caplog):
    """A first batch that fails takes neither notice nor the choice of layers along."""
    images, targets = batch
    net.features.insert(4, Failing())
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    failing_step(net, criterion, images, targets, "forward")
    criterion(net(images), targets).backward()
    assert caplog.text.count("4 images x 2 views") == 1


def test_the_explicit_form_after_a_step_that_was_given_up(net, batch):
    """Views drawn, then evaluation: nothing is left armed."""
    images, targets = batch
    dai = DataAugmentationInvariance(net, **OPTIONS)
    dai.views(images, targets)
    net.eval()
    with torch.no_grad():
        assert net(images).shape == (4, 5)
    net.train()
    rows, labels = dai.views(images, targets)
    dai.loss(F.cross_entropy(net(rows), labels)).backward()
    assert dai.stats()["missed"] == 0


@pytest.mark.parametrize("around", ["forward", "copy", "inside"])
def test_training_around_the_attached_network_is_told(net, batch, around, caplog):
    """Neither hook nor view is there then: a warning, at the second call an error."""
    images, targets = batch
    outer = nn.Sequential(net) if around == "inside" else net
    _, criterion = attach(outer, nn.CrossEntropyLoss(), mean=0.0, std=1.0)
    train = {"forward": net.forward, "copy": copy.deepcopy(net), "inside": net}[around]
    with torch.no_grad():
        criterion(train(images), targets)
    assert not caplog.records
    criterion(train(images), targets).backward()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "Call the network that was given to attach" in record.getMessage()
    with pytest.raises(RuntimeError, match="twice in a row"):
        criterion(train(images), targets)
