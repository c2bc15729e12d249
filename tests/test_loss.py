"""The losses and weights agree with the literal formulas and keep their promises."""

import math

import oracle
import pytest
import torch
from torch import nn

from dai_plugin import class_invariance_loss, invariance_loss, layer_weights

SHAPES = [(5,), (3, 4, 2), (2, 7, 5), (40, 11, 11)]
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-6,
    torch.bfloat16: 2e-6,
    torch.float16: 2e-6,
}


def activations(rows, shape, dtype=torch.float64, mean=0.0, deviation=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, *shape, dtype=torch.float64, generator=generator)
    return (mean + deviation * values).to(dtype)


def gradients(loss, reference, values):
    """Gradients of the fast loss and of the literal formula at the same values."""
    fast = values.clone().requires_grad_()
    slow = values.double().requires_grad_()
    fast_loss, slow_loss = loss(fast), reference(slow)
    fast_loss.backward()
    slow_loss.backward()
    return fast_loss, slow_loss, fast.grad, slow.grad


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("views", "images"), [(2, 3), (3, 4), (8, 2), (4, 1), (1, 5)])
def test_agrees_with_all_pairs(views, images, shape, correction):
    """Loss and gradient equal the formula over all pairs of rows."""
    fast, slow, grad, reference = gradients(
        lambda a: invariance_loss(a, views, correction=correction),
        lambda a: oracle.invariance_loss(a, views, correction),
        activations(views * images, shape),
    )
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_every_dtype_agrees_on_the_values_it_was_given(dtype, mean, correction):
    """Half precision loses digits in its values, none in the loss of those values."""
    deviation = 1.0 if mean == 0 or dtype.itemsize == 2 else 0.01
    values = activations(12, (3, 5, 4), dtype, mean, deviation)
    fast, slow, grad, reference = gradients(
        lambda a: invariance_loss(a, 4, correction=correction),
        lambda a: oracle.invariance_loss(a, 4, correction),
        values,
    )
    assert fast.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert grad.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(fast.double(), slow, rtol=tolerance, atol=0)
    resolution = max(tolerance, 2 * torch.finfo(dtype).eps)
    scale = reference.abs().max().item()
    torch.testing.assert_close(
        grad.double(), reference, rtol=resolution, atol=resolution * scale
    )


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize(
    "labels",
    [[0, 0, 1, 1, 2, 2], [3, 3, 3, 3, 3, 9], [5, 1, 5, 1, 1, 1], [0, 1, 2, 3, 4, 4]],
    ids=str,
)
def test_classes_agree_with_all_pairs(labels, correction):
    """Unequal classes and classes of one row follow the formula, gradient included."""
    labels = torch.tensor(labels)
    fast, slow, grad, reference = gradients(
        lambda a: class_invariance_loss(a, labels, correction=correction),
        lambda a: oracle.class_invariance_loss(a, labels, correction),
        activations(6, (3, 4)),
    )
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-13)


def test_classes_of_one_row_have_no_distinct_pair():
    """With correction=1 and no class of two rows, the loss is 0, not NaN."""
    values = activations(4, (3,)).requires_grad_()
    loss = class_invariance_loss(values, torch.arange(4), correction=1)
    loss.backward()
    assert loss == 0
    assert torch.equal(values.grad, torch.zeros_like(values))


def partly_labelled(seed, ignored):
    """Rows and labels, some of which are the ignored one; never the same rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(4, 14, (), generator=generator))
    labels = torch.randint(0, 4, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.5] = ignored
    labels[torch.randperm(rows, generator=generator)[:2]] = 1
    return activations(rows, (3, 5), seed=seed), labels


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("ignored", [-100, 0, 255])
@pytest.mark.parametrize("seed", range(6))
def test_ignored_labels_count_nowhere(seed, ignored, correction):
    """The loss is that of the labelled rows alone, whatever the others hold."""
    values, labels = partly_labelled(seed, ignored)
    keep = labels != ignored
    fast, slow, grad, reference = gradients(
        lambda a: class_invariance_loss(
            a, labels, correction=correction, ignore_index=ignored
        ),
        lambda a: oracle.class_invariance_loss(a[keep], labels[keep], correction),
        values,
    )
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(grad, reference, rtol=1e-9, atol=1e-13)
    holes = values.detach().clone()
    holes[~keep] = math.nan
    again = class_invariance_loss(
        holes, labels, correction=correction, ignore_index=ignored
    )
    assert again == fast


@pytest.mark.parametrize("seed", range(3))
def test_gradcheck_with_ignored_labels(seed):
    """The hand-written backward leaves the ignored rows out, too."""
    values, labels = partly_labelled(seed, -100)
    for correction in (0, 1):
        assert torch.autograd.gradcheck(
            lambda a, correction=correction: class_invariance_loss(
                a, labels, correction=correction
            ),
            values.requires_grad_(),
        )


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("labelled", [0, 1])
def test_a_batch_without_labels_has_no_class_loss(labelled, correction):
    """None or a single labelled row: 0 with zero gradient."""
    values = activations(5, (3,), torch.float32).requires_grad_()
    labels = torch.full((5,), -100)
    labels[:labelled] = 2
    loss = class_invariance_loss(values, labels, correction=correction)
    loss.backward()
    assert loss == 0
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_small_label_types_do_not_wrap():
    """In uint8, 156 is a label like any other, though -100 has the same bits."""
    values = activations(4, (3,))
    labels = torch.tensor([156, 156, 7, 7])
    torch.testing.assert_close(
        class_invariance_loss(values, labels.to(torch.uint8)),
        class_invariance_loss(values, labels),
    )


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool], ids=str)
def test_activations_must_be_real_numbers_with_a_gradient(dtype):
    """Complex values and integers are refused by their dtype."""
    values = torch.ones(4, 3).to(dtype)
    for loss in (
        lambda: invariance_loss(values, 2),
        lambda: class_invariance_loss(values, torch.arange(4)),
    ):
        with pytest.raises(TypeError, match=str(dtype)):
            loss()


@pytest.mark.parametrize("correction", [0, 1])
def test_gradcheck(correction):
    """The hand-written backward is the derivative of the forward."""
    values = activations(6, (2, 3)).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda a: invariance_loss(a, 3, correction=correction), values
    )
    assert torch.autograd.gradcheck(
        lambda a: class_invariance_loss(a, labels, correction=correction), values
    )


def test_differentiable_once():
    """A second derivative raises instead of being wrong."""
    values = activations(4, (3,)).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(invariance_loss(values, 2), values, create_graph=True)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_rows_give_zero_and_no_gradient(value):
    """A dead layer neither counts nor pushes."""
    values = torch.full((8, 33), value, requires_grad=True)
    for loss in (
        invariance_loss(values, 2),
        class_invariance_loss(values, torch.arange(8)),
    ):
        (grad,) = torch.autograd.grad(loss, values)
        assert loss == 0
        assert torch.equal(grad, torch.zeros_like(values))


def test_one_image_has_loss_one_and_no_gradient():
    """With one image, within is total: L = 1, and there is nothing to learn."""
    values = activations(8, (5, 5), torch.float32).requires_grad_()
    loss = invariance_loss(values, 8)
    loss.backward()
    torch.testing.assert_close(loss.item(), 1.0)
    assert values.grad.abs().max() < 1e-7


@pytest.mark.parametrize("memory_format", ["channels_last", "transposed", "strided"])
def test_memory_format_changes_nothing_and_is_kept(memory_format):
    """Statistics do not depend on the layout; the gradient comes in the same layout."""
    base = activations(6, (4, 5, 3), torch.float32)
    layout = {
        "channels_last": lambda a: a.to(memory_format=torch.channels_last),
        "transposed": lambda a: a.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": lambda a: torch.stack([a, a], -1)[..., 0],
    }[memory_format]
    plain, other = base.clone().requires_grad_(), layout(base).requires_grad_()
    invariance_loss(plain, 2).backward()
    invariance_loss(other, 2).backward()
    torch.testing.assert_close(other.grad, plain.grad, rtol=1e-5, atol=1e-9)
    if memory_format == "channels_last":
        assert other.grad.is_contiguous(memory_format=torch.channels_last)


def test_nan_is_not_hidden():
    """A NaN activation gives a NaN loss, not the 0 of a dead layer."""
    values = activations(4, (3,), torch.float32)
    values[1, 1] = math.nan
    assert invariance_loss(values, 2).isnan()


def test_properties_of_the_ratio():
    """Shift, scale and the order of views or images do not matter; mixing does."""
    views, images = 3, 5
    values = activations(views * images, (4, 4))
    loss = invariance_loss(values, views)
    grouped = values.unflatten(0, (views, images))
    same = [
        values + 7.5,
        values * -3.0,
        grouped[[2, 0, 1]].flatten(0, 1),
        grouped[:, [4, 2, 0, 1, 3]].flatten(0, 1),
    ]
    for other in same:
        torch.testing.assert_close(invariance_loss(other, views), loss)
    assert 0 <= loss <= 1
    mixed = values[[1, 0, *range(2, views * images)]]
    assert abs(invariance_loss(mixed, views) - loss) > 1e-3
    identical = values[:images].repeat(views, 1, 1)
    assert invariance_loss(identical, views) < 1e-20


@pytest.mark.parametrize(("views", "images"), [(2, 16), (8, 16)])
def test_independent_views(views, images):
    """Unrelated rows read 1 with distinct pairs and (M-1)B/(MB-1) with all pairs."""
    values = activations(views * images, (20000,))
    expected = (views - 1) * images / (views * images - 1)
    assert invariance_loss(values, views, correction=1).item() == pytest.approx(
        1, abs=0.01
    )
    assert invariance_loss(values, views).item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_touch_the_statistics(dtype):
    """The same number inside and outside autocast, whatever its dtype."""
    values = activations(8, (3, 6, 6), torch.float32, mean=5.0)
    outside = invariance_loss(values, 4)
    with torch.autocast("cpu", dtype):
        inside = invariance_loss(values, 4)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_loss_scale_survives_half_precision():
    """A loss scale multiplies in float32 before the gradient is cast to half."""
    values = activations(16, (64, 8, 8), torch.float16)
    scaled, exact = values.clone().requires_grad_(), values.float().requires_grad_()
    (invariance_loss(scaled, 4) * 2.0**16).backward()
    invariance_loss(exact, 4).backward()
    assert (scaled.grad == 0).float().mean() < 0.02
    torch.testing.assert_close(
        scaled.grad.float() / 2.0**16, exact.grad, rtol=2e-3, atol=1e-9
    )


def test_nothing_is_saved_but_the_activations():
    """Beside the activations, the backward keeps a few numbers."""
    saved = []
    values = activations(16, (32, 8, 8), torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        invariance_loss(values, 4)
    own = [t for t in saved if t.data_ptr() != values.data_ptr()]
    assert sum(t.numel() for t in own) <= 8


def test_compiled_form_agrees():
    """Traced into a graph, plain operations give the same loss and gradient."""
    values = activations(6, (3, 5), torch.float32, mean=100.0, deviation=0.01)
    compiled = torch.compile(
        lambda a: invariance_loss(a, 3), backend="aot_eager", fullgraph=True
    )
    fast, slow, grad, reference = gradients(
        compiled, lambda a: oracle.invariance_loss(a, 3), values
    )
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad.double(), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_layers", [1, 2, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_exponential_weights_agree(num_layers, alpha):
    """The paper's law: geometric growth by the ratio from first to last."""
    weights = layer_weights(num_layers, alpha, last_to_first=10)
    assert weights == pytest.approx(oracle.exponential_weights(num_layers, alpha, 10))
    assert sum(weights) == pytest.approx(alpha)


def test_other_laws():
    """Linear grows to the ratio, uniform is flat, own weights are rescaled."""
    linear = layer_weights(5, 0.5, "linear", 3)
    assert linear[-1] / linear[0] == pytest.approx(3)
    assert linear[2] - linear[1] == pytest.approx(linear[4] - linear[3])
    assert layer_weights(4, 1.0, "uniform") == [0.25] * 4
    assert layer_weights(3, 0.2, [0, 1, 3]) == pytest.approx([0, 0.05, 0.15])
    assert layer_weights(2, 1.0, {"a": 1, "b": 4}) == pytest.approx([0.2, 0.8])


def test_a_network_learns_invariance_from_the_loss_alone():
    """Gradient steps on the loss bring the views of an image together."""
    torch.manual_seed(0)
    net = nn.Linear(20, 8)
    images = torch.randn(10, 20)
    rows = torch.cat([images, images + torch.randn(10, 20)])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    before = invariance_loss(net(rows), 2).item()
    for _ in range(50):
        optimizer.zero_grad()
        invariance_loss(net(rows), 2).backward()
        optimizer.step()
    assert invariance_loss(net(rows), 2).item() < 0.5 * before
