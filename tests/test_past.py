"""Training past the hooks, and attachments that nobody ever called."""

import copy
import gc
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4}


def rebuilt(net):
    fresh = SmallNet()
    fresh.load_state_dict(net.state_dict())
    return fresh


AROUND = {
    "forward": lambda net: net.forward,
    "copy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "rebuilt": rebuilt,
    "part": lambda net: nn.Sequential(net.features, nn.Flatten(), net.classifier),
}


@pytest.mark.parametrize("kind", ["module", "function", "lambda"])
@pytest.mark.parametrize("around", AROUND)
def test_training_past_the_hooks_raises_at_the_second_call(net, batch, around, kind):
    """Whatever is called in the network's place; strict=False warns alone."""
    images, targets = batch
    criterion = {
        "module": nn.CrossEntropyLoss(),
        "function": F.cross_entropy,
        "lambda": lambda output, target: F.cross_entropy(output, target),
    }[kind]
    for strict in (False, True):
        with attach(net, criterion, strict=strict, **OPTIONS) as attachment:
            called = AROUND[around](net)
            for _ in range(1 if strict else 3):
                attachment.criterion(called(images), targets).backward()
            if strict:
                with pytest.raises(RuntimeError, match="twice in a row"):
                    attachment.criterion(called(images), targets)


@pytest.mark.parametrize("steps", range(1, 4))
@pytest.mark.parametrize("around", ["forward", "part"])
def test_a_stock_forward_excuses_no_call_past_the_hooks(net, batch, around, steps):
    """However many steps with and without views came before."""
    images, targets = batch
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, every=2, **OPTIONS)
    for _ in range(steps):
        criterion(net(images), targets).backward()
    called = AROUND[around](net)
    criterion(called(images), targets).backward()
    with pytest.raises(RuntimeError, match="twice in a row"):
        criterion(called(images), targets)


USES = {
    "output": lambda output: output,
    "cast": lambda output: output.double(),
    "operation": lambda output: output.log_softmax(1),
    "slice": lambda output: output[:, :4],
    "mixed": lambda output: output[[1, 0, 2, 3]] + output,
}


def evaluate(net, images):
    with torch.no_grad():
        net.eval()(images)
    net.train()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "between",
    [lambda net, images: None, evaluate, lambda net, images: net(images)],
    ids=["nothing", "evaluation", "forward"],
)
@pytest.mark.parametrize("every", [2, 5])
def test_losses_of_stock_outputs_are_the_loop_s_own(
    net, batch, use, between, every, caplog
):
    """Whatever is made of them, and however late: nothing is said."""
    images, targets = batch
    targets = targets.clamp(max=3)
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, every=every, **OPTIONS)
    criterion(net(images), targets).backward()
    caplog.clear()
    output = USES[use](net(images))
    between(net, images)
    for _ in range(3):
        loss = criterion(output, targets)
        assert torch.equal(loss, F.cross_entropy(output, targets))
    loss.backward()
    assert not caplog.records


def unused_text(caplog):
    return [r.getMessage() for r in caplog.records if "never called" in r.getMessage()]


@pytest.mark.usefixtures("unused")
def test_an_attachment_that_was_never_called_says_so(net, batch, caplog):
    """When it is removed, or collected; once; not after a forward in any mode."""
    gc.collect()
    caplog.clear()
    attachment = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    attachment.remove()
    attachment.remove()
    assert len(unused_text(caplog)) == 1
    attach(SmallNet(), nn.CrossEntropyLoss(), **OPTIONS)
    gc.collect()
    assert len(unused_text(caplog)) == 2
    with attach(net, nn.CrossEntropyLoss(), **OPTIONS), torch.no_grad():
        net.eval()(batch[0])
    gc.collect()
    assert len(unused_text(caplog)) == 2


def test_it_says_so_at_the_end_of_the_process():
    """A framework that builds its networks anew, and a script that ends."""
    script = (
        "import torch, dai_plugin\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())\n"
        "dai_plugin.attach(net, torch.nn.CrossEntropyLoss())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "a Sequential was attached and never called" in result.stderr
