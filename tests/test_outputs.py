"""Networks and layers that return something else than one tensor."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import attach, attached

OPTIONS = {"num_views": 3, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}
Pair = namedtuple("Pair", ["logits", "features"])

STRUCTURES = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "namedtuple": Pair,
    "dict": lambda a, b: {"logits": a, "features": b},
    "ordered dict": lambda a, b: OrderedDict(out=a, aux={"deep": b}, name="text"),
}


class Structured(SmallNet):
    """Class scores and features in any structure."""

    structure = None

    def forward(self, x):
        features = self.features(x).flatten(1)
        return self.structure(self.classifier(features), features)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_structures_come_back_with_the_first_views_rows(batch, kind):
    """Type, keys and order stay; each tensor has B rows; the criterion finds them."""
    images, targets = batch
    net = Structured()
    net.structure = STRUCTURES[kind]
    expected = net(images)
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    output = net(images)
    assert type(output) is type(expected)
    leaves, reference = (torch.utils._pytree.tree_leaves(o) for o in (output, expected))
    for leaf, stock in zip(leaves, reference, strict=True):
        assert getattr(leaf, "shape", leaf) == getattr(stock, "shape", stock)
    criterion(leaves[0], targets).backward()
    assert attached(net).stats()["criterion_calls"] == 1


def test_a_criterion_of_the_whole_structure(batch):
    """A function of one's own may take the dict as it comes (segmentation's manner)."""
    images, targets = batch

    def criterion(outputs, target):
        losses = {k: nn.functional.cross_entropy(v, target) for k, v in outputs.items()}
        return losses["out"] + 0.5 * losses["aux"]

    net = Structured()
    net.structure = lambda a, b: {"out": a, "aux": b}
    _, criterion = attach(net, criterion, **OPTIONS)
    criterion(net(images), targets).backward()
    stats = attached(net).stats()
    assert (stats["criterion_calls"], stats["missed"]) == (1, 0)


@pytest.mark.parametrize("change", [
    lambda o: o.float(), lambda o: o.clone(), lambda o: o.view(4, 5),
    lambda o: o.double().unsqueeze(0).squeeze(0), lambda o: o.contiguous(),
], ids=["cast", "clone", "view", "chain", "contiguous"])  # fmt: skip
def test_outputs_in_other_clothes_are_recognised(net, batch, change):
    """Casts, clones and views on the way to the criterion are looked through."""
    images, targets = batch
    net.features[1] = nn.Identity()
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    expected = criterion(net(images), targets).item()
    attached(net).remove()
    _, criterion = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    loss = criterion(change(net(images)), targets)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert attached(net).stats()["criterion_calls"] == 1


def test_a_layer_that_returns_a_tuple_is_measured_at_its_first_tensor(batch):
    """Attention returns its weights as well."""
    images, targets = batch

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.attention(x, x, x)[0].mean(1))

    net = Attention()
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), layers=["patches", "attention"], **OPTIONS
    )
    criterion(net(images), targets).backward()
    assert list(attached(net).stats()["layers"]) == ["patches", "attention"]


def test_a_module_that_fires_twice_is_kept_apart(batch):
    """A shared ReLU has a loss for each of its calls."""
    images, targets = batch

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.second(self.relu(self.first(x)))).mean((2, 3))

    net = Shared()
    _, criterion = attach(net, nn.CrossEntropyLoss(), layers="relu", **OPTIONS)
    loss = criterion(net(images), targets)
    stats = attached(net).stats()
    assert list(stats["layers"]) == ["relu", "relu:1"]
    first, second = stats["layers"].values()
    expected = 0.6 * stats["task_loss"] + 0.4 * (first + 10 * second) / 11
    assert loss.item() == pytest.approx(expected, rel=1e-5)


class WithFeatures(nn.Module):
    """Returns its features first, as networks for metric learning do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        return {"features": features, "logits": self.head(features)}


def test_the_losses_go_with_the_output_that_reaches_the_criterion(batch, caplog):
    """Not the first one here: told once, after a step without them, then trained."""
    images, targets = batch
    net = WithFeatures()
    _, criterion = attachment = attach(net, nn.CrossEntropyLoss(), **OPTIONS)
    for step in range(4):
        criterion(net(images)["logits"], targets).backward()
        assert attachment.stats()["criterion_calls"] == step
    stats = attachment.stats()
    inv = sum(stats["layers"].values())
    expected = 0.6 * stats["task_loss"] + 0.4 * inv
    assert stats["total_loss"] == pytest.approx(expected)
    assert stats["missed"] == 1
    messages = [r.getMessage() for r in caplog.records if "output 1" in r.getMessage()]
    assert len(messages) == 1
    assert "they were not trained in this step" in messages[0]


class Binary(nn.Module):
    """One column, and one tensor under two names."""

    def __init__(self):
        super().__init__()
        self.net = SmallNet(classes=1)

    def forward(self, x):
        output = self.net(x)
        return {"logits": output, "out": output}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", ["logits", "out"])
@pytest.mark.parametrize("column", [-1, 1])
def test_the_only_column_of_an_output_is_that_output(batch, views, name, column):
    """`output[:, 0]` of [B, 1], by whichever of its names the loop takes it."""
    net, criterion = Binary(), nn.BCEWithLogitsLoss()
    options = {"mean": 0.0, "std": 1.0, "first_view": "augmented"}
    attachment = attach(net, criterion, num_views=views, **options)
    for _ in range(2):
        output = net(batch[0])[name]
        criterion(output.select(column, 0), torch.ones(4)).backward()
    assert attachment.stats()["criterion_calls"] == 2
    assert attachment.stats()["missed"] == 0
