"""Fastai's Learner, whose loss is a module or an object that can be called."""

import pytest
import torch
from conftest import SmallNet
from test_trainers_loop import OPTIONS, trained
from torch import nn

from dai_plugin import attach, attached

fastai = pytest.importorskip("fastai.learner", reason="needs --group integrations")
data = pytest.importorskip("fastai.data.core", reason="needs --group integrations")
types = pytest.importorskip("fastai.torch_core", reason="needs --group integrations")
losses = pytest.importorskip("fastai.losses", reason="needs --group integrations")
pytest.importorskip("fastai.callback.progress", reason="needs --group integrations")
metrics = pytest.importorskip("fastai.metrics", reason="needs --group integrations")

pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


def learner(net, loss, typed=False):
    """Two epochs' worth of in-memory data; `typed` as its vision blocks have it."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(12, 3, 12, 12, generator=generator)
    labels = torch.arange(12) % 5
    pairs = list(zip(images, labels, strict=True))
    if typed:
        pairs = [(types.TensorImage(x), types.TensorCategory(y)) for x, y in pairs]
    loaders = data.DataLoaders.from_dsets(pairs, pairs[:7], bs=4, device="cpu")
    return fastai.Learner(loaders, net, loss_func=loss, metrics=metrics.accuracy)


class Kept(fastai.Callback):
    """Keeps the loss of each training batch."""

    def before_fit(self):
        self.seen = []

    def after_batch(self):
        if self.training:
            self.seen.append(self.loss.item())


def predictions(learn):
    """Predictions, targets and the loss of each image of the validation set."""
    with learn.no_bar(), learn.no_logging():
        return learn.get_preds(with_loss=True)


@pytest.mark.parametrize("typed", [False, True], ids=["tensors", "fastai's types"])
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, losses.CrossEntropyLossFlat])
def test_fastai_learner(net, kind, typed):
    """Trained with the terms; its predictions are those of the same weights' stock."""
    learn = learner(net, kind(), typed)
    learn.model, learn.loss_func = attach(learn.model, learn.loss_func, **OPTIONS)
    kept = Kept()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 0.05, cbs=kept)
    stats = trained(attached(net), 6)
    assert kept.seen[-1] == pytest.approx(stats["total_loss"])
    stock = SmallNet()
    stock.load_state_dict(net.state_dict())
    expected = predictions(learner(stock, kind(), typed))
    for ours, theirs in zip(predictions(learn), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert attached(net).stats()["forwards"] == 6


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, losses.CrossEntropyLossFlat])
def test_fastai_in_place(net, kind):
    """One line without an assignment does; removed, it leaves the stock Learner."""
    learn = learner(net, kind())
    attachment = attach(learn.model, learn.loss_func, **OPTIONS)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.05)
        trained(attachment, 3)
        attachment.remove()
        learn.fit(1, 0.05)
    assert attachment.stats()["forwards"] == 3
    assert type(learn.loss_func) is kind


def test_fastai_loss_keeps_what_the_learner_reads(net):
    """Activation, decoding and reduction of its loss object, and setting them."""
    loss = losses.CrossEntropyLossFlat()
    _, ours = attach(net, loss, **OPTIONS)
    scores = torch.rand(4, 5)
    assert torch.equal(ours.activation(scores), loss.activation(scores))
    assert torch.equal(ours.decodes(scores), loss.decodes(scores))
    ours.reduction = "none"
    assert loss.reduction == "none"
    assert ours(scores, torch.arange(4)).shape == (4,)
