"""`check`: a dry run that says what two lines would do, and leaves no trace."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import attached, check

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


class Own(nn.Module):
    """Takes a dict batch and returns its loss."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet()

    def forward(self, pixel_values, labels, meta=None):
        logits = self.net(pixel_values) + (0 if meta is None else meta[:, None])
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def by_itself(output, target):
    return F.cross_entropy(output, target)


class Learnt(nn.Module):
    """A criterion with a weight and a statistic of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, output, target):
        self.calls += 1
        return F.cross_entropy(self.scale * output, target)


CRITERIA = {
    "module": nn.CrossEntropyLoss,
    "smooth": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "sum": lambda: nn.CrossEntropyLoss(reduction="sum"),
    "none": lambda: nn.CrossEntropyLoss(reduction="none"),
    "sum by itself": lambda: (
        lambda output, target: by_itself(output, target) * len(target)
    ),
    "torch": lambda: F.cross_entropy,
    "function": lambda: by_itself,
    "lambda": lambda: lambda output, target: F.cross_entropy(output, target),
    "learnt": Learnt,
}


@pytest.mark.parametrize("settings", [{}, {"beta": 0.2, "alpha": 0.3, "num_views": 3}])
@pytest.mark.parametrize("kind", CRITERIA)
def test_a_plain_loop_works(net, batch, kind, settings):
    """For every kind of criterion: the gradient is that of the literal formula."""
    found = check(net, CRITERIA[kind](), batch, **settings, **OPTIONS)
    assert found.ok, str(found)
    assert found.gradient_error < 1e-4
    assert found.cost == settings.get("num_views", 2)
    assert list(found.layers) == ["features.2", "features.4"]
    assert sum(found.layers.values()) == pytest.approx(
        settings.get("alpha", 0.1) + settings.get("beta", 0.0)
    )
    assert found.repeated == {"images": [2, 3, 12, 12]}
    assert not found.warnings


@pytest.mark.parametrize("more", [False, True])
def test_a_dict_batch_of_a_model_with_its_own_loss(batch, more):
    """criterion=None: what is repeated beside the images is named."""
    images, labels = batch
    given = {"pixel_values": images, "labels": labels}
    given |= {"meta": torch.rand(4)} if more else {}
    found = check(Own(), None, given, **OPTIONS)
    assert found.ok, str(found)
    names = {"images", "labels", "meta"} if more else {"images", "labels"}
    assert set(found.repeated) == names


REFUSED = {
    "no batch": (lambda b: None, {}, "needs a batch"),
    "no images": (lambda b: (b[0][:, 0], b[1]), {}, "no images"),
    "channels last": (
        lambda b: (torch.rand(4, 12, 12, 3), b[1]),
        {},
        r"B, H, W, C",
    ),
    "two": (lambda b: (b[0], b[0], b[1]), {}, "two batches of images"),
    "unknown layer": (lambda b: b, {"layers": ["featurs.2"]}, "featurs.2"),
    "overwritten": (lambda b: b, {"layers": ["features.1"]}, "overwritten in place"),
    "255": (lambda b: (b[0] * 255, b[1]), {}, "255"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_training_refuses_is_reported(net, batch, kind):
    """In `.error`, with the message of the run; nothing is raised."""
    change, settings, message = REFUSED[kind]
    options = {} if kind == "255" else OPTIONS
    found = check(net, nn.CrossEntropyLoss(), change(batch), **settings, **options)
    assert not found.ok
    assert message in found.error
    assert "does not work" in str(found)


class Overwriting(SmallNet):
    """Changes an activation past autograd, after it was measured."""

    def forward(self, x):
        activation = self.features[:3](x)
        activation.data.mul_(0.3)
        return self.classifier(self.features[3:](activation).flatten(1))


def test_wrong_terms_are_found(batch):
    """What no version counter shows, the comparison of gradients does."""
    torch.manual_seed(0)
    found = check(Overwriting(), nn.CrossEntropyLoss(), batch, alpha=0.9, **OPTIONS)
    assert not found.ok
    assert found.error or found.gradient_error > 1e-2


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize("bad", [False, True])
def test_nothing_is_left_behind(net, batch, kind, bad, caplog):
    """Weights, statistics, mode, gradients, hooks, random numbers, logs, criterion."""
    criterion = CRITERIA[kind]()
    images, targets = batch[0].clone(), batch[1].clone()
    handle = net.features[0].register_forward_hook(lambda *_: None)
    net.eval()
    net.classifier.weight.grad = torch.ones_like(net.classifier.weight)
    before = copy.deepcopy(net.state_dict())
    own = copy.deepcopy(criterion.state_dict()) if kind == "learnt" else {}
    random, stock = torch.get_rng_state(), F.cross_entropy
    batch = (images[:, :, :0], targets) if bad else (images, targets)
    found = check(net, criterion, batch, **OPTIONS)
    assert found.ok is not bad
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == (name == "classifier.weight")
    assert net.classifier.weight.grad.eq(1).all()
    assert not net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert F.cross_entropy is stock
    assert attached(net) is None
    assert [len(m._forward_hooks) for m in net.modules()].count(1) == 1
    assert not any(m._forward_pre_hooks for m in net.modules())
    if isinstance(criterion, nn.Module):
        assert not criterion._forward_hooks
        assert not criterion._forward_pre_hooks
        assert all(p.grad is None for p in criterion.parameters())
    for name, value in own.items():
        assert torch.equal(criterion.state_dict()[name], value)
    assert torch.equal(images, batch[0]) or bad
    assert not caplog.records
    assert not logging.getLogger("dai_plugin").filters[1:]
    handle.remove()
