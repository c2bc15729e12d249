"""replay(): one batch looked at several times has one objective."""

import copy

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dai_plugin import DataAugmentationInvariance, attach

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 4, "alpha": 0.4}
FORMS = ["attach", "explicit"]


class Plain(nn.Module):
    """No batch norm, so that the same rows give the same loss; rows are kept."""

    def __init__(self):
        super().__init__()
        # No size equals the number of rows, which would be looked into.
        self.features = nn.Sequential(
            nn.Conv2d(3, 7, 2), nn.ReLU(), nn.Conv2d(7, 7, 3), nn.ReLU()
        )
        self.head, self.rows = nn.Linear(7, 5), None

    def forward(self, x):
        self.rows = x
        return self.head(self.features(x).mean((2, 3)))


def make(form, net, **settings):
    """The owner of `replay`, and a function from a batch to its loss."""
    if form == "attach":
        attachment = attach(net, nn.CrossEntropyLoss(), **OPTIONS, **settings)
        return attachment, lambda x, y: attachment.criterion(net(x), y)
    dai = DataAugmentationInvariance(net, first_view="clean", **OPTIONS, **settings)

    def loss(images, targets):
        rows, labels = dai.views(images, targets)
        return dai.loss(F.cross_entropy(net(rows), labels))

    return dai, loss


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("views", [2, 3])
def test_the_views_of_the_last_step_come_again(batch, form, views):
    """The same rows and loss inside, the stream as if nothing had been repeated."""
    net, twin = Plain(), Plain()
    owner, loss = make(form, net, num_views=views)
    _, stock = make(form, twin, num_views=views)
    for step in range(4):
        stock(*batch).backward()
        first = loss(*batch)
        first.backward()
        rows = net.rows
        assert torch.equal(rows, twin.rows)
        with owner.replay():
            for _ in range(step):
                again = loss(*batch)
                again.backward()
                assert torch.equal(net.rows, rows)
                assert again.item() == first.item()
        assert owner.state_dict()["step"] == step + 1
    stats = owner.stats()
    assert (stats["forwards"], stats["missed"]) == (10, 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_closure_decides(batch, form):
    """`replay(enabled)`, nested, left by an error, and before any step."""
    net = Plain()
    owner, loss = make(form, net)
    with owner.replay():
        loss(*batch).backward()  # there is no last step: the first one's views
    first = net.rows
    assert owner.state_dict()["step"] == 1
    with owner.replay(), owner.replay(enabled=False):
        loss(*batch).backward()
    second = net.rows
    assert not torch.equal(first, second)
    with pytest.raises(ZeroDivisionError), owner.replay():
        raise ZeroDivisionError
    loss(*batch).backward()
    assert not torch.equal(net.rows, second)
    assert owner.state_dict()["step"] == 3


@pytest.mark.parametrize("form", FORMS)
def test_the_schedule_is_that_of_the_step(batch, form):
    """alpha, too, is the last step's: one objective."""
    net = Plain()
    owner, loss = make(form, net, alpha_schedule=lambda step: 1 / (1 + step))
    for step in range(3):
        first = loss(*batch)
        with owner.replay():
            assert loss(*batch).item() == first.item()
        assert owner.stats()["alpha"] == pytest.approx(0.4 / (1 + step))
        first.backward()


def objective(net, rows, targets):
    """The formula on given rows, in float64."""
    net = copy.deepcopy(net).double()
    seen = {}
    for name in ("features.1", "features.3"):
        net.get_submodule(name).register_forward_hook(
            lambda *args, name=name: seen.update({name: args[2].clone()})
        )
    task = F.cross_entropy(net(rows.double()), targets.repeat(2))
    weights = oracle.exponential_weights(2, 0.4, 10.0)
    terms = [oracle.invariance_loss(a, 2) for a in seen.values()]
    return net, 0.6 * task + sum(w * t for w, t in zip(weights, terms, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_sharpness_aware_minimization(batch, form):
    """Both gradients are of one function, at the weights and at the perturbed ones."""
    net = Plain()
    owner, loss = make(form, net)
    loss(*batch).backward()
    grads = [p.grad.clone() for p in net.parameters()]
    norm = torch.stack([g.norm() for g in grads]).norm()
    rows = net.rows
    with torch.no_grad():
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            parameter += 0.05 * grad / norm
    net.zero_grad()
    with owner.replay():
        second = loss(*batch)
    second.backward()
    twin, expected = objective(net, rows, batch[1])
    expected.backward()
    torch.testing.assert_close(second.double(), expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("form", FORMS)
def test_l_bfgs_with_a_line_search(batch, form):
    """Its closure is a function of the weights: it falls in every step of one batch."""
    torch.manual_seed(0)
    net = Plain()
    owner, loss = make(form, net)
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=6, line_search_fn="strong_wolfe"
    )
    values = []

    def closure():
        optimizer.zero_grad()
        with owner.replay(bool(values)):
            value = loss(*batch)
        value.backward()
        values.append(value.item())
        return value

    for step in range(3):
        values.clear()
        optimizer.step(closure)
        assert len(values) > 1
        with owner.replay():
            value = loss(*batch)
        assert value.item() < values[0]
        value.backward()
        assert owner.state_dict()["step"] == step + 1
