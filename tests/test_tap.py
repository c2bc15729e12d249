"""The tap: one node of the graph carries the network's gradient and the loss's own."""

from contextlib import nullcontext

import oracle
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torchvision import tv_tensors

from dai_plugin import (
    DataAugmentationInvariance,
    attach,
    attached,
    class_invariance_loss,
    invariance_loss,
)
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.ratio import variance_ratio
from dai_plugin.losses.tap import Version, _blocks, tap

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def activations(shape=(6, 2, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()


def through_tap(values, groups):
    alias, sums, _ = tap(values, groups)
    return alias.sin().sum() + 3 * variance_ratio(sums, groups)


def beside(values, groups):
    loss = invariance_loss(values, groups.num_views)
    return values.sin().sum() + 3 * loss


def test_gradcheck_of_both_outputs():
    """The alias and the sums together have the right derivative."""
    groups = ViewGroups(3, 6, 0)
    assert torch.autograd.gradcheck(lambda a: through_tap(a, groups), activations())


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 5, 3), (6, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_the_same_gradient_as_a_loss_beside_the_network(shape, layout):
    """In every memory format, to the last digits."""
    base = activations(shape).detach()
    if layout == "channels_last" and len(shape) == 4:
        base = base.to(memory_format=torch.channels_last)
    if layout == "transposed":
        base = base.transpose(0, 1).contiguous().transpose(0, 1)
    one, other = base.clone().requires_grad_(), base.clone().requires_grad_()
    groups = ViewGroups(3, 6, 0)
    through_tap(one, groups).backward()
    beside(other, groups).backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14)
    assert one.grad.stride() == base.stride() or layout == "transposed"


def test_an_expanded_gradient_is_taken():
    """Average pooling sends a gradient without memory of its own."""
    values = activations((6, 4, 3, 3))
    groups = ViewGroups(3, 6, 0)
    alias, sums, _ = tap(values, groups)
    (alias.mean((2, 3)).sum() + groups.combine(sums)[0]).backward()
    twin = activations((6, 4, 3, 3))
    within, _ = groups.combine(tap(twin, groups)[1])
    (twin.mean((2, 3)).sum() + within).backward()
    torch.testing.assert_close(values.grad, twin.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_adds_in_float32(dtype):
    """The sum of both gradients is rounded once."""
    values = activations((8, 40), torch.float32).detach().to(dtype).requires_grad_()
    wide = values.detach().float().requires_grad_()
    groups = ViewGroups(4, 8, 0)
    through_tap(values, groups).backward()
    _, sums, _ = tap(wide, groups)
    (3 * variance_ratio(sums, groups)).backward()
    cosine = values.detach().cos().float()  # the network runs in half precision
    expected = (wide.grad + cosine).to(dtype)
    torch.testing.assert_close(
        values.grad, expected, rtol=2 * torch.finfo(dtype).eps, atol=0
    )


def test_without_its_sums_the_tap_is_transparent():
    """Even a second derivative passes, for it is the network's own."""
    values = activations()
    alias, *_ = tap(values, ViewGroups(3, 6, 0))
    (first,) = torch.autograd.grad(alias.pow(3).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    torch.testing.assert_close(second, 6 * values.detach())


def test_the_network_goes_on_with_an_alias(net, batch):
    """No copy of an activation: the tap's output shares its memory."""
    seen = []
    layer = net.features[4]
    layer.register_forward_hook(lambda *a: seen.append(a[2]))
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), layers="features.4", **AS_THEY_ARE
    )
    layer.register_forward_hook(lambda *a: seen.append(a[2]))
    criterion(net(batch[0]), batch[1]).backward()
    before, after = seen
    assert before is not after
    assert before.data_ptr() == after.data_ptr()
    assert "Tap" in type(after.grad_fn).__name__


def test_a_view_is_left_to_the_network(batch):
    """In-place operations on a view must reach its base: the loss stands beside."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.fc = nn.Identity(), nn.Linear(4, 3)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            h = self.conv(x)
            return self.fc(
                self.part(h[:, :2]).sum((2, 3)).repeat(1, 2) + h.mean((2, 3))
            )

    torch.manual_seed(0)
    net = Halves()
    _, criterion = attach(net, nn.CrossEntropyLoss(), layers="part", **AS_THEY_ARE)
    seen = []
    net.part.register_forward_hook(lambda *a: seen.append(a[2]))
    criterion(net(batch[0]), batch[1] % 3).backward()
    assert "Tap" not in type(seen[0].grad_fn).__name__
    assert attached(net).stats()["layers"]["part"] > 0


def _returns(function):
    return function._schema.returns


class Count(TorchDispatchMode):
    """Counts launches, and refuses operations that wait for the device.

    ViewGroups of memory and new memory launch nothing.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        assert name not in self.WAITS, f"{name} would wait for the device"
        aliases = (
            r.alias_info and not r.alias_info.is_write for r in _returns(function)
        )
        self.count += not (any(aliases) or name in ("empty", "new_empty"))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("normalised", [True, False])
def test_no_step_waits_for_the_device(net, batch, normalised, monkeypatch):
    """After three steps nothing is read back: views, losses, objective, backward."""
    # As on an accelerator.
    monkeypatch.setattr("dai_plugin.views.warp._READ_BACK", ())
    options = AS_THEY_ARE if normalised else {}
    dai = DataAugmentationInvariance(net, num_views=4, beta=0.1, **options)

    def step():
        rows, labels = dai.views(*batch)
        dai.loss(nn.functional.cross_entropy(net(rows), labels)).backward()

    for _ in range(3):
        step()
    with Count():
        step()


@pytest.mark.parametrize("views", [2, 4])
def test_a_layer_costs_few_operations(views):
    """Launches of a layer that fits one block; the ratio is taken for all at once."""
    values = activations((8, 4, 5, 5), torch.float32)
    with Count() as forward:
        alias, sums, _ = tap(values, ViewGroups(views, 8, 0))
    incoming = [torch.ones_like(alias), sums.detach()]
    with Count() as backward:
        torch.autograd.backward([alias, sums], incoming)
    assert forward.count <= 10
    assert backward.count <= 14


@pytest.mark.parametrize("enough", [1, 200, 1000], ids=["alone", "both", "at once"])
@pytest.mark.parametrize(("views", "images"), [(1, 3), (2, 3), (5, 2), (4, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_large_layers_are_taken_block_by_block(
    monkeypatch, dtype, views, images, enough
):
    """Columns in blocks of which the last is narrower, views at once or one by one."""
    monkeypatch.setattr("dai_plugin.losses.groups._ENOUGH", images * enough)
    monkeypatch.setattr("dai_plugin.losses.tap._BLOCK_CPU", views * images * 256)
    monkeypatch.setattr("dai_plugin.losses.tap._ALIGNED", 32)
    shape = (views * images, 3, 10, 20)
    deviation, mean = (0.01, 100.0) if dtype == torch.float32 else (1.0, 0.0)
    values = (mean + deviation * activations(shape).detach()).to(dtype)
    blocks = _blocks(values.flatten(1))
    assert [block.shape[1] for block in blocks] == [224, 224, 152]
    fast, slow = values.clone().requires_grad_(), values.double().requires_grad_()
    alias, sums, mean = tap(fast, ViewGroups(views, views * images, 0, centred=True))
    loss = variance_ratio(sums, ViewGroups(views, views * images, 0))
    reference = oracle.invariance_loss(slow, views)
    weights = torch.linspace(-1, 1, 600, dtype=torch.float64)
    others = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).view(shape)
    (loss + mean @ weights.to(mean) + (alias * others.to(dtype)).sum()).backward()
    (reference + slow.mean(0).flatten() @ weights + (slow * others).sum()).backward()
    exact = 1e-11 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(loss.double(), reference, rtol=exact, atol=exact)
    torch.testing.assert_close(
        mean.double(), slow.mean(0).flatten(), rtol=1e-6, atol=1e-6
    )
    rounding = max(exact, torch.finfo(dtype).eps)
    scale = slow.grad.abs().max().item()
    torch.testing.assert_close(
        fast.grad.double(), slow.grad, rtol=2 * rounding, atol=rounding * scale
    )


def errors(values, views):
    """Relative errors of loss and gradient in float32 against the oracle in float64."""
    fast = values.float().requires_grad_()
    slow = fast.detach().double().requires_grad_()
    loss, reference = invariance_loss(fast, views), oracle.invariance_loss(slow, views)
    loss.backward()
    reference.backward()
    of_gradient = (fast.grad - slow.grad).norm() / slow.grad.norm()
    return abs(loss.item() / reference.item() - 1), of_gradient


@pytest.mark.parametrize("deviation", [1.0, 1e-2, 1e-4])
def test_views_that_nearly_agree_keep_their_digits(deviation):
    """Loss and gradient are as exact for views that are close as for any."""
    images = activations((4, 300)).detach()
    values = images.repeat(3, 1) + deviation * activations((12, 300)).detach()
    of_loss, of_gradient = errors(values, 3)
    assert of_loss < 2e-6
    assert of_gradient < 2e-6


def test_an_outlier_in_the_first_row_costs_few_digits():
    """Rows are taken less the first one, from which here all others are far away."""
    images = 0.01 * activations((64, 300)).detach()
    images[0] += 100
    values = images.repeat(3, 1) + 0.01 * activations((192, 300)).detach()
    of_loss, of_gradient = errors(values, 3)
    assert of_loss < 2e-6
    assert of_gradient < 5e-6


@pytest.mark.parametrize("views", [1, 3])
def test_views_that_agree_have_no_gradient(views):
    """Not even that of rounding."""
    values = activations((4, 50), torch.float32).detach().repeat(views, 1)
    values.requires_grad_()
    loss = invariance_loss(values, views)
    loss.backward()
    assert loss == 0
    assert not values.grad.any()


def test_classes_are_taken_block_by_block(monkeypatch):
    """The class-wise loss of several blocks is that of all columns."""
    monkeypatch.setattr("dai_plugin.losses.tap._BLOCK_CPU", 6 * 256)
    values, labels = activations((6, 700)), torch.tensor([0, 0, 1, 1, 1, 2])
    assert len(_blocks(values)) == 3
    slow = values.detach().clone().requires_grad_()
    loss = class_invariance_loss(values, labels)
    reference = oracle.class_invariance_loss(slow, labels)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference, rtol=1e-11, atol=0)
    torch.testing.assert_close(values.grad, slow.grad, rtol=1e-9, atol=1e-13)


def test_saved_tensors_may_come_back_in_another_memory_format():
    """As `save_on_cpu` packs them; the mean's gradient, which sync=True uses, too."""
    base = activations((6, 4, 5, 3)).detach()
    base = base.to(memory_format=torch.channels_last)
    grads, groups = [], ViewGroups(3, 6, 0, centred=True)
    for pack in (lambda t: t, lambda t: t.contiguous()):
        values = base.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            _, sums, mean = tap(values, groups)
        weights = torch.arange(mean.numel(), dtype=mean.dtype)
        (groups.combine(sums)[0] + (mean * weights).sum()).backward()
        grads.append(values.grad)
    torch.testing.assert_close(mean, base.mean(0).flatten())
    torch.testing.assert_close(*grads)


def test_a_layer_without_features_counts_nothing():
    """A loss of 0 with an empty gradient."""
    values = torch.zeros(4, 3, 0, requires_grad=True)
    loss = invariance_loss(values, 2)
    loss.backward()
    assert loss == 0
    assert values.grad.shape == values.shape


OVERWRITE = {
    "relu": nn.functional.relu_,
    "sigmoid": torch.sigmoid_,
    "twice": lambda h: h.mul_(2).tanh_(),
    "dropout": lambda h: nn.functional.dropout(h, 0.5, inplace=True).exp_(),
}


@pytest.mark.parametrize("overwrite", OVERWRITE.values(), ids=OVERWRITE)
@pytest.mark.parametrize("repeated", [False, True], ids=["once", "nested"])
def test_overwriting_inside_a_checkpoint_is_found(overwrite, repeated):
    """The recomputed activation is overwritten as well, which autograd cannot see."""
    groups, found = ViewGroups(2, 8, 0), []

    def block(x):
        h, sums, _ = tap(x.sin(), groups)
        found.append(sums)
        return overwrite(h)

    def outer(x):
        return checkpoint(block, x, use_reentrant=False) if repeated else block(x)

    values = activations((8, 3, 4))
    out = checkpoint(outer, values, use_reentrant=False)
    loss = out.cos().sum() + variance_ratio(found[0], groups)
    with pytest.raises(RuntimeError, match=r"overwritten.*the block around"):
        loss.backward()


class Hooks(torch.autograd.graph.saved_tensors_hooks):
    def __init__(self, pack):
        super().__init__(pack, lambda t: t)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("overwritten", ["no", "after the block", "in the block"])
@pytest.mark.parametrize("saved", ["plain", "save_on_cpu", "same", "copied"])
def test_a_gradient_is_right_or_refused(saved, overwritten, checkpointed):
    """However tensors are saved; and what does no harm is not refused."""
    hooks = {
        "plain": nullcontext,
        "save_on_cpu": torch.autograd.graph.save_on_cpu,
        "same": lambda: Hooks(lambda t: t),
        "copied": lambda: Hooks(torch.clone),
    }[saved]
    groups, found = ViewGroups(2, 8, 0), []

    def block(x):
        h, sums, _ = tap(nn.functional.batch_norm(x, None, None, training=True), groups)
        found.append(sums)
        return h.relu_() if overwritten == "in the block" else h

    values = activations((8, 3, 4, 4))
    with hooks():
        h = values.sin()
        h = checkpoint(block, h, use_reentrant=False) if checkpointed else block(h)
        h = h.relu_() if overwritten == "after the block" else h
        loss = h.cos().sum() + 5 * variance_ratio(found[0], groups)
    spoiled = overwritten != "no" and saved != "copied"
    if checkpointed:  # recomputed without what comes after the block
        spoiled = overwritten == "in the block"
    if spoiled:
        with pytest.raises(RuntimeError, match=r"by an inplace|overwritten"):
            loss.backward()
        return
    loss.backward()
    twin = activations((8, 3, 4, 4))
    h = nn.functional.batch_norm(twin.sin(), None, None, training=True)
    out = h if overwritten == "no" else h.relu()
    (out.cos().sum() + 5 * oracle.invariance_loss(h, 2)).backward()
    torch.testing.assert_close(values.grad, twin.grad)


def test_a_version_holds_no_memory():
    """It knows of a change after the tensor has gone, and keeps nothing of it alive."""
    tensor = torch.zeros(1000)
    view, version = tensor[3:], Version(tensor)
    storage = StorageWeakRef(tensor.untyped_storage())
    assert not version.changed()
    assert version.same_memory(view)
    view.add_(1)
    assert version.changed()
    assert not Version(tensor).changed()
    del tensor, view
    assert storage.expired()
    assert version.changed()
    assert not version.same_memory(torch.zeros(1000))


class Refuses(torch.Tensor):
    """A subclass that supports next to nothing."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(function)


def test_a_version_never_raises():
    """Tensors that keep no version never report a change."""
    with torch.inference_mode():
        inference = torch.zeros(3)
    with FakeTensorMode():
        fake = torch.zeros(3)
    image = tv_tensors.Image(torch.zeros(3, 4, 4))
    for tensor in (inference, torch.zeros(3).as_subclass(Refuses), fake, image):
        version = Version(tensor)
        assert not version.changed()
        version.same_memory(tensor)
