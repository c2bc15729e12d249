"""Sums agree with float64 for any number of values, and compiled for any batch size."""

import random

import oracle
import pytest
import torch
from torch._dynamo.utils import counters

from dai_plugin import class_invariance_loss
from dai_plugin.losses.groups import ViewGroups, sum_of_squares
from dai_plugin.losses.ratio import variance_ratio
from dai_plugin.losses.tap import tap

KINDS = ["noise", "rectified", "far from zero", "views that nearly agree"]


def activations(generator, views, images, shape, kind):
    """Float32 rows in view-major order, of a kind that networks produce."""
    base = torch.randn(images, *shape, generator=generator)
    noise = torch.randn(views, images, *shape, generator=generator)
    rows = {
        "noise": noise,
        "rectified": (base + 0.5 * noise).relu(),
        "far from zero": 3 + noise,
        "views that nearly agree": 10 + 1e-3 * base + 1e-4 * noise,
    }[kind]
    return rows.flatten(0, 1)


def random_shape(choose, elements):
    """Views, images and feature dimensions, odd ones among them."""
    views, images = choose.randint(1, 8), choose.choice([1, 2, 3, 16, 33])
    features = max(elements // (views * images), 1)
    side = choose.choice([1, 7, 16, 31])
    channels = max(features // side**2, 1)
    flat = choose.random() < 0.3
    return views, images, (features,) if flat else (channels, side, side)


def check_sums(measure, values, views):
    groups = ViewGroups(views, len(values), 0)
    sums = torch.stack(groups.combine(measure(values, groups)))
    expected = oracle.sums_of_squares(values, views)
    if views == 1 or len(values) == views:
        # A single view has nothing within; a single image has nothing else.
        sums, expected = sums[2 - views :][-1:], expected[-1:]
    torch.testing.assert_close(sums.double(), expected, rtol=1e-6, atol=0)


def measure(values, groups):
    return tap(values, groups)[1]


@pytest.mark.parametrize("number", [1, 1023, 2**14 + 1, 2**16, 10**6 + 3, 2**22 + 5])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e12])
def test_sums_of_squares_of_any_number_of_values(number, scale):
    """No drift of a long float32 sum, for values of one sign least of all."""
    generator = torch.Generator().manual_seed(number)
    for values in (
        torch.randn(number, generator=generator),
        torch.rand(number, generator=generator),
        3 + torch.randn(number, generator=generator),
    ):
        values = scale * values
        torch.testing.assert_close(
            sum_of_squares(values).double(),
            values.double().square().sum(),
            rtol=5e-7,
            atol=0,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [10**4, 3 * 10**5, 3 * 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_sums_agree_with_float64(seed, elements, kind):
    """In eager runs, for random shapes, numbers of views and memory formats."""
    choose = random.Random(f"{seed} {elements} {kind}")
    views, images, shape = random_shape(choose, elements)
    generator = torch.Generator().manual_seed(seed)
    values = activations(generator, views, images, shape, kind)
    if len(shape) == 3 and choose.random() < 0.5:
        values = values.to(memory_format=torch.channels_last)
    check_sums(measure, values, views)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize(
    ("views", "images", "shape"),
    [
        (2, 4000, (30,)),  # many rows
        (6, 1, (300_007,)),  # many features
        (8, 2, (512, 7, 7)),
        (3, 33, (40, 16, 16)),
    ],
    ids=str,
)
def test_compiled_sums_agree_with_float64(views, images, shape, backend):
    """The compiler's own loops do not add up thousands of values in float32."""
    torch._dynamo.reset()
    compiled = torch.compile(measure, backend=backend, fullgraph=True)
    generator = torch.Generator().manual_seed(0)
    for kind in KINDS:
        values = activations(generator, views, images, shape, kind)
        check_sums(compiled, values, views)


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_class_sums_agree_with_float64(classes):
    """The class-wise loss of a large layer, with rows that have no label."""
    generator = torch.Generator().manual_seed(classes)
    values = activations(generator, 2, 60, (8, 30, 31), "rectified")
    labels = torch.randint(0, classes, (120,), generator=generator)
    labels[::5] = -100
    exact = class_invariance_loss(values.double(), labels).item()
    assert class_invariance_loss(values, labels).item() == pytest.approx(
        exact, rel=1e-6
    )


GRAPHS = {  # the compiler itself tells small loops from large ones
    ("aot_eager", None, False): 2,
    ("aot_eager", None, True): 2,
    ("aot_eager", True, True): 1,
    ("inductor", None, False): 3,
    ("inductor", True, True): 2,
}


@pytest.mark.parametrize(("backend", "dynamic", "centred"), list(GRAPHS))
def test_no_size_is_pinned(backend, dynamic, centred):
    """Ten numbers of rows make two graphs: the first size, and all others."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)

    def measured(values):
        groups = ViewGroups(2, values.shape[0], 1, centred)
        alias, sums, centre = tap(values, groups)
        loss = alias.sin().mean() + variance_ratio(sums, groups)
        return loss if centre is None else loss + centre.square().mean()

    compiled = torch.compile(measured, backend=backend, dynamic=dynamic, fullgraph=True)
    for images in random.Random(0).sample(range(2, 60), 10):
        values = torch.randn(2 * images, 3, 4, 5)
        one, other = values.clone().requires_grad_(), values.clone().requires_grad_()
        loss, expected = compiled(one), measured(other)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert counters["stats"]["unique_graphs"] <= GRAPHS[backend, dynamic, centred]


def test_no_number_of_labels_is_pinned():
    """Nor does the class-wise loss pin the number of rows."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    compiled = torch.compile(class_invariance_loss, backend="aot_eager", fullgraph=True)
    for rows in random.Random(1).sample(range(4, 60), 10):
        values, labels = torch.randn(rows, 7), torch.randint(-1, 3, (rows,))
        one, other = values.clone().requires_grad_(), values.clone().requires_grad_()
        loss = compiled(one, labels, ignore_index=-1)
        expected = class_invariance_loss(other, labels, ignore_index=-1)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert counters["stats"]["unique_graphs"] <= 2
