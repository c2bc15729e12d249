"""Skorch's classifier, which builds the network itself, and anew at each `fit`."""

import numpy as np
import pytest
import torch
from conftest import SmallNet
from test_trainers_loop import OPTIONS, trained
from torch import nn

from dai_plugin import attach

skorch = pytest.importorskip("skorch", reason="needs --group integrations")
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    images = generator.random((12, 3, 12, 12), dtype=np.float32)
    return images, np.arange(12) % 3


def classifier(**options):
    """Two epochs of three batches."""
    torch.manual_seed(0)
    settings = {"criterion": nn.CrossEntropyLoss, "max_epochs": 2, "lr": 0.05,
                "batch_size": 4, "verbose": 0, "train_split": None}  # fmt: skip
    return skorch.NeuralNetClassifier(SmallNet, **settings | options).initialize()


def test_skorch_partial_fit(arrays):
    """initialize(), the two lines, partial_fit: probabilities stay those of stock."""
    model = classifier()
    attachment = attach(model.module_, model.criterion_, **OPTIONS)
    model.partial_fit(*arrays)
    stats = trained(attachment, 6)
    assert model.history[-1, "batches", -1, "train_loss"] == pytest.approx(
        stats["total_loss"]
    )
    stock = classifier()
    stock.module_.load_state_dict(model.module_.state_dict())
    expected = stock.predict_proba(arrays[0])
    assert np.array_equal(model.predict_proba(arrays[0]), expected)


def test_skorch_warm_start_and_validation(arrays):
    """`fit` with warm_start keeps the network; the held-out part is evaluated stock."""
    model = classifier(warm_start=True, train_split=skorch.dataset.ValidSplit(3))
    attachment = attach(model.module_, model.criterion_, **OPTIONS)
    model.fit(*arrays)
    trained(attachment, 4)


def test_skorch_fit_with_a_kept_criterion_raises(arrays):
    """The network is rebuilt, the criterion is not: an error at the second call.

    If the first network lives on; else its end says that it was never called.
    """
    model = classifier(criterion=nn.CrossEntropyLoss())
    attachment = attach(model.module_, model.criterion_, **OPTIONS)
    with pytest.raises(RuntimeError, match="attached network"):
        model.fit(*arrays)
    assert attachment.stats()["forwards"] == 0


@pytest.mark.usefixtures("unused")
def test_skorch_fit_with_both_rebuilt_is_told(arrays, caplog):
    """Nothing of what was attached is called: said when the attachment is removed."""
    model = classifier()
    attachment = attach(model.module_, model.criterion_, **OPTIONS)
    model.fit(*arrays)
    assert attachment.stats()["forwards"] == 0
    attachment.remove()
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert any("never called" in message for message in warned)


def test_skorch_default_criterion_is_told(arrays):
    """It takes the logarithm outside of network and criterion: the message says so."""
    model = classifier(criterion=nn.NLLLoss)
    attach(model.module_, model.criterion_, **OPTIONS)
    with pytest.raises(RuntimeError, match="log_softmax"):
        model.partial_fit(*arrays)
