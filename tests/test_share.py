"""`share`: further views of the first images of a batch, and nothing else changed."""

import copy
import random

import oracle
import processes
import pytest
import torch
import torch.nn.functional as F
from conftest import Plain, SmallNet, named
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dai_plugin import DataAugmentationInvariance, Scheme, attach, attached, check
from dai_plugin.losses.groups import ViewGroups
from dai_plugin.losses.ratio import variance_ratio
from dai_plugin.losses.tap import tap
from dai_plugin.views.rows import Layout

OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3, "alpha": 0.3}


def shown(images, views, share):
    """The image of every row."""
    further = max(1, round(share * images))
    return [*range(images), *list(range(further)) * (views - 1)], further


@pytest.mark.parametrize("seed", range(20))
def test_rows(seed):
    """View-major: each image once, then the first ones of them again and again."""
    draw = random.Random(seed)
    images, views = draw.randint(1, 9), draw.randint(2, 5)
    share = draw.choice([1e-9, 1.0, draw.random()])
    layout = Layout.of(images, views, share)
    expected, further = shown(images, views, share)
    assert layout.repeat(torch.arange(images)).tolist() == expected
    assert layout.repeat(list(range(images))) == expected
    assert layout.rows == len(expected)
    cut = [expected[layout.view(v)] for v in range(views)]
    assert cut == [list(range(images)), *[list(range(further))] * (views - 1)]


def test_a_single_view_has_no_share():
    """All rows are grouped, whatever the share."""
    assert Layout.of(7, 1, 0.2) == Layout.of(7, 1, 1.0)


@pytest.mark.parametrize(
    "way", ["eager", "channels last", "blocks", "compiled", "half"]
)
@pytest.mark.parametrize(("views", "correction"), [(2, 0), (2, 1), (4, 0)])
def test_loss_and_gradient_of_a_layer(way, views, correction, monkeypatch):
    """Of the rows in groups alone; the network's gradient reaches all rows."""
    monkeypatch.setattr("dai_plugin.losses.tap._BLOCK_CPU", 64)
    monkeypatch.setattr(
        "dai_plugin.losses.groups._ENOUGH", 1 if way == "blocks" else 2**18
    )
    torch.manual_seed(views)
    dtype = torch.float32 if way in ("compiled", "half") else torch.float64
    rows = torch.randn(5 + 3 * (views - 1), 6, 4, 5, dtype=dtype) + 2
    if way == "channels last":
        rows = rows.contiguous(memory_format=torch.channels_last)
    if way == "half":
        rows = rows.bfloat16()
    groups = ViewGroups(views, len(rows), correction, alone=2)
    network = torch.randn(rows.shape, dtype=torch.float64).to(rows.dtype)

    def objective(rows):
        alias, parts, _ = tap(rows, groups)
        return (alias * network).sum() + 7 * variance_ratio(parts, groups)

    ours = rows.clone().requires_grad_()
    function = torch.compile(objective, backend="aot_eager", fullgraph=True)
    value = function(ours) if way == "compiled" else objective(ours)
    value.backward()
    theirs = rows.double().requires_grad_()
    kept = [*range(3), *range(5, len(rows))]
    loss = oracle.invariance_loss(theirs[kept], views, correction)
    (loss * 7 + (theirs * network.double()).sum()).backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}
    close = {"atol": tolerance[rows.dtype], "rtol": tolerance[rows.dtype]}
    torch.testing.assert_close(ours.grad.double(), theirs.grad, **close)
    alone = slice(3, 5)
    torch.testing.assert_close(ours.grad[alone], network[alone])


def test_without_an_incoming_gradient():
    """Rows in no group get zeros, not whatever memory held."""
    rows = torch.randn(9, 50, dtype=torch.float64, requires_grad=True)
    groups = ViewGroups(3, 9, 0, alone=3)
    variance_ratio(tap(rows, groups)[1], groups).backward()
    assert not rows.grad[2:5].any()
    assert rows.grad[:2].all()
    assert rows.grad[5:].all()


@pytest.mark.parametrize("alone", [0, 3])
def test_views_for_autograd(alone):
    """`[M, n, ...]`: a view of the rows where all have their views."""
    rows = torch.randn(3 * 4 + alone, 2, 5, requires_grad=True)
    views = ViewGroups(3, len(rows), 0, alone=alone).views(rows)
    assert views.shape == (3, 4, 2, 5)
    for v in range(3):
        start = 4 * v + (alone if v else 0)
        assert torch.equal(views[v], rows[start : start + 4])
    assert (views.data_ptr() == rows.data_ptr()) == (not alone)
    views.sum().backward()
    assert rows.grad.flatten(1).any(1).tolist() == [
        not 4 <= r < 4 + alone for r in range(len(rows))
    ]


def by_itself(output, target):
    return F.cross_entropy(output, target, reduction="sum") / 7


CRITERIA = {
    "mean": (nn.CrossEntropyLoss, "mean"),
    "sum": (lambda: nn.CrossEntropyLoss(reduction="sum"), "sum"),
    "none": (lambda: nn.CrossEntropyLoss(reduction="none"), "none"),
    "sum by itself": (lambda: lambda o, t: by_itself(o, t), "sum"),
    "mean by itself": (lambda: lambda o, t: F.cross_entropy(o, t), "mean"),
}


@pytest.mark.parametrize("kind", CRITERIA)
@pytest.mark.parametrize(
    ("views", "first", "beta"), [(2, "clean", 0.0), (3, "augmented", 0.2)]
)
def test_the_objective_is_the_literal_one(kind, views, first, beta):
    """The mean over all rows, and the terms of the images with further views."""
    torch.manual_seed(1)
    net, images = Plain().double(), torch.rand(7, 3, 6, 6, dtype=torch.float64)
    labels = torch.randint(5, (7,))
    build, reduction = CRITERIA[kind]
    criterion, stock, twin = build(), build(), copy.deepcopy(net)
    attachment = attach(net, criterion, num_views=views, share=0.5, beta=beta,
                        first_view=first, **OPTIONS)  # fmt: skip
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = net(images)
    assert len(output) == 7
    total = attachment.criterion(output, labels)
    total.mean().backward()
    (rows,) = seen
    image_of, further = shown(7, views, 0.5)
    assert (further, len(rows)) == (4, len(image_of))
    logits = twin(rows)
    activations, _ = twin.seen
    if reduction == "mean":
        task = stock(logits, labels[image_of])
    else:
        task = stock(logits, labels[image_of]).sum() * 7 / len(rows)
        task = task / 7 if reduction == "none" else task
    kept = [r for r, i in enumerate(image_of) if i < further]
    inv = oracle.invariance_loss(activations[kept], views)
    own = labels[image_of][kept]
    terms = 0.3 * inv + beta * oracle.class_invariance_loss(activations[kept], own)
    scale = 7 if reduction == "sum" else 1
    expected = (0.7 - beta) * task + scale * terms
    expected.backward()
    assert total.mean().item() == pytest.approx(expected.item(), rel=1e-10)
    for p, reference in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, reference.grad, rtol=1e-9, atol=1e-12)


def test_losses_of_single_images(net, batch):
    """reduction="none": B / N times the losses of an image's views."""
    images, labels = batch
    criterion = nn.CrossEntropyLoss(reduction="none")
    attach(net, criterion, num_views=3, share=0.5, **{**OPTIONS, "alpha": 0.0})
    rows = []
    net.register_forward_hook(lambda _, args, __: rows.append(args[0]))
    twin = copy.deepcopy(net)
    total = criterion(net(images), labels)
    losses = F.cross_entropy(twin(rows[0]), labels[[0, 1, 2, 3, 0, 1, 0, 1]],
                             reduction="none")  # fmt: skip
    per_image = losses[:4].clone()
    per_image[:2] += losses[4:6] + losses[6:]
    torch.testing.assert_close(total, 4 / 8 * per_image)
    torch.testing.assert_close(total.mean(), losses.mean())


class TwoHeads(nn.Module):
    """Returns the logits of two heads."""

    def __init__(self):
        super().__init__()
        self.net, self.other = Plain(), Plain()

    def forward(self, x):
        return self.net(x), self.other(x)


def test_a_sum_of_an_output_without_terms():
    """An auxiliary head's criterion call is brought together by its own rule, too."""
    net, criterion = TwoHeads(), nn.CrossEntropyLoss(reduction="sum")
    attach(net, criterion, share=0.5, layers="net.features.1", **OPTIONS)
    labels = torch.arange(4)
    _, aux = net(torch.rand(4, 3, 6, 6))
    loss = criterion(aux, labels)
    _, logits = net.other.seen
    stock = F.cross_entropy(logits, labels[[0, 1, 2, 3, 0, 1]])
    assert loss.item() == pytest.approx(0.7 * 4 * stock.item(), rel=1e-5)


class Counted(nn.Module):
    """Sums over rows and divides by the loop's count of images, as Hugging Face's."""

    def __init__(self):
        super().__init__()
        self.net = Plain().double()

    def forward(self, pixel_values, labels, num_items_in_batch=None):
        logits = self.net(pixel_values)
        self.given = num_items_in_batch
        total = F.cross_entropy(logits, labels, reduction="sum")
        return {"loss": total / num_items_in_batch, "logits": logits}


@pytest.mark.parametrize("count", [3, 6, torch.tensor(6)])
def test_a_model_that_counts_the_images(count):
    """The count is multiplied by rows over images, as the sum's rows are more."""
    torch.manual_seed(0)
    net, labels = Counted(), torch.tensor([0, 3, 1])
    images = torch.rand(3, 3, 6, 6, dtype=torch.float64)
    seen = []  # noted before the network is looked at once more
    net.register_forward_hook(lambda m, *_: seen.append((m.given, *m.net.seen)))
    attach(net, num_views=2, share=0.7, **OPTIONS)  # 5 rows
    loss = net(images, labels, num_items_in_batch=count)["loss"]
    given, activations, logits = seen[0]
    part = 3 / float(count)
    assert float(given) == pytest.approx(float(count) * 5 / 3)
    task = F.cross_entropy(logits, labels[[0, 1, 2, 0, 1]]) * part
    inv = oracle.invariance_loss(activations[[0, 1, 3, 4]], 2)
    assert loss.item() == pytest.approx((0.7 * task + 0.3 * part * inv).item())


class OwnVector(nn.Module):
    """Returns the loss of every row by itself."""

    def __init__(self):
        super().__init__()
        self.net = Plain()

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.net(x), labels, reduction="none")}


def test_a_model_that_returns_a_loss_a_row():
    """The caller gets one an image."""
    net = OwnVector()
    attach(net, num_views=2, share=0.5, **{**OPTIONS, "alpha": 0.0})
    loss = net(torch.rand(4, 3, 6, 6), torch.tensor([0, 1, 2, 3]))["loss"]
    own = F.cross_entropy(
        net.net.seen[1], torch.tensor([0, 1, 2, 3, 0, 1]), reduction="none"
    )
    both = own[:4] + torch.cat([own[4:], torch.zeros(2)])
    torch.testing.assert_close(loss, 4 / 6 * both)


def test_the_explicit_form(net, batch):
    """Rows, targets to match, and the criterion once on all of them."""
    images, labels = batch
    dai = DataAugmentationInvariance(net, num_views=3, share=0.5, **OPTIONS)
    rows, targets = dai.views(images, labels)
    assert targets.tolist() == labels[[0, 1, 2, 3, 0, 1, 0, 1]].tolist()
    assert len(rows) == 8
    task = F.cross_entropy(net(rows), targets)
    total = dai.loss(task)
    terms = sum(
        weight * loss
        for weight, loss in zip(
            (1 / 11, 10 / 11), dai.stats()["layers"].values(), strict=True
        )
    )
    assert total.item() == pytest.approx((0.7 * task + 0.3 * terms).item(), rel=1e-5)


def test_a_term_of_ones_own():
    """Gets the activations and the targets of the images with further views."""
    net, criterion, seen = Plain(), nn.CrossEntropyLoss(), []

    def term(activations, targets):
        seen.append((activations, targets))
        return activations.square().mean()

    attach(net, criterion, num_views=3, share=0.5, term=term, **OPTIONS)
    images, labels = torch.rand(5, 3, 6, 6), torch.arange(5)
    criterion(net(images), labels)
    activations, targets = seen[0]
    rows, _ = net.seen
    kept = [0, 1, 5, 6, 7, 8]
    assert torch.equal(activations, rows[kept].unflatten(0, (3, 2)))
    assert targets.tolist() == [0, 1]


def noisy(images):
    return images + torch.rand_like(images) / 50


MOVED = Scheme.heavier(contrast=0.0, brightness=0.0)


@pytest.mark.parametrize("scheme", ["light", MOVED, noisy], ids=named)
@pytest.mark.parametrize("first", ["clean", "augmented"])
@pytest.mark.parametrize("follow", [False, True], ids=["", "with a gradient"])
def test_which_pixels(net, scheme, first, follow):
    """All first views, then new ones of the first images: none is another's."""
    grey = torch.arange(5.0).view(5, 1, 1, 1) / 6  # by which they are known again
    images = (grey + torch.rand(5, 3, 8, 8) / 20).requires_grad_(follow)
    dai = DataAugmentationInvariance(
        net, num_views=3, share=0.4, first_view=first, scheme=scheme, **OPTIONS
    )
    rows = dai.views(images)
    assert rows.shape == (9, 3, 8, 8)
    assert torch.equal(rows[:5], images) == (first == "clean")
    known = (rows.mean((1, 2, 3)) * 6).floor().tolist()
    assert known == [0, 1, 2, 3, 4, 0, 1, 0, 1]
    different = {tuple(row.flatten().tolist()) for row in rows}
    assert len(different) == 9
    if follow:
        rows.sum().backward()
        assert images.grad.flatten(1).any(1).all()


def test_views_do_not_depend_on_the_share(net):
    """With the batch's own first view, the first further view is that of share=1."""
    images, found = torch.rand(4, 3, 8, 8), []
    for share in (1.0, 0.5):
        dai = DataAugmentationInvariance(
            net, num_views=2, share=share, first_view="clean", **OPTIONS
        )
        found.append(dai.views(images)[4:6])
        dai.remove()
    assert torch.equal(*found)


class Weighted(nn.Module):
    """A criterion with a number an image among its arguments, and one for all."""

    def forward(self, output, target, weight, temperature):
        losses = F.cross_entropy(output / temperature, target, reduction="none")
        return (losses * weight["of"]).mean()


def test_arguments_of_the_criterion_are_cut_to_the_images(net, batch):
    """Whatever has B rows, also in a dict; the rest is left."""
    images, labels = batch
    weight, temperature = torch.rand(4), torch.tensor([2.0])
    criterion = Weighted()
    attach(net, criterion, share=0.5, **{**OPTIONS, "alpha": 0.0})
    rows = []
    net.register_forward_hook(lambda _, args, __: rows.append(args[0]))
    twin = copy.deepcopy(net)
    total = criterion(net(images), labels, {"of": weight}, temperature=temperature)
    shows = [0, 1, 2, 3, 0, 1]
    expected = Weighted()(
        twin(rows[0]), labels[shows], {"of": weight[shows]}, temperature
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


class Tokens(nn.Module):
    """`[B, T, C]`, as of a segmentation or a language head."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3))

    def forward(self, x):
        return self.net(x).flatten(2).transpose(1, 2).contiguous()


def test_an_output_that_the_loop_flattens():
    """`[B * T, C]`: the criterion gets n * T rows of a further view."""
    net, images = Tokens(), torch.rand(4, 3, 6, 6)

    def criterion(output):
        assert output.dim() == 2
        return output.square().mean()

    attachment = attach(net, criterion, share=0.5, **{**OPTIONS, "alpha": 0.0})
    rows = []
    net.register_forward_hook(lambda _, args, __: rows.append(args[0]))
    twin = copy.deepcopy(net)
    total = attachment.criterion(net(images).view(-1, 4))
    assert total.item() == pytest.approx(twin(rows[0]).square().mean().item(), rel=1e-6)


def test_an_output_whose_images_the_loop_moved(net, batch):
    """Refused by name: other views have other numbers of them."""
    images, _ = batch
    attachment = attach(net, lambda o: o.square().mean(), share=0.5, **OPTIONS)
    with pytest.raises(RuntimeError, match=r"viewed as \[1, 4, 5\]; with share < 1"):
        attachment.criterion(net(images).unsqueeze(0))


def test_losses_that_cannot_be_brought_together(net, batch):
    """As many numbers as pairs of images, say."""
    images, labels = batch

    def pairs(output, target):
        return (output @ output.T)[target[:, None] != target]

    attachment = attach(net, pairs, share=0.5, **OPTIONS)
    with pytest.raises(
        RuntimeError, match=r"the loss of 4 images has the shape \[10\]"
    ):
        attachment.criterion(net(images), labels)


def per_image(output, masks):
    """Summed over pixels, so that each row counts as much as another."""
    return F.cross_entropy(output, masks, reduction="sum") / len(masks)


def test_targets_that_follow_their_views():
    """Masks of the further views of some images: both forms train the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    images, masks = torch.rand(5, 3, 8, 8), torch.randint(4, (5, 8, 8))
    options = {"num_views": 3, "share": 0.4, "first_view": "clean", **OPTIONS}
    options["ignore_index"] = -100
    twin = copy.deepcopy(net)
    attachment = attach(net, per_image, **options)
    total = attachment.criterion(net(images), masks)
    dai = DataAugmentationInvariance(twin, **options)
    rows, targets = dai.views(images, masks)
    assert len(rows) == len(targets) == 9
    assert torch.equal(targets[:5], masks)
    assert not torch.equal(targets[5:7], masks[:2])
    expected = dai.loss(per_image(twin(rows), targets))
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", CRITERIA)
def test_check_compares_with_the_literal_formula(net, kind):
    """On as many images as give two with further views."""
    build, _ = CRITERIA[kind]
    batch = torch.rand(10, 3, 8, 8), torch.randint(5, (10,))
    found = check(net, build(), batch, share=0.3, num_views=3, beta=0.1, **OPTIONS)
    assert found.ok, str(found)
    assert found.gradient_error < 1e-4
    assert found.repeated == {"images": [7, 3, 8, 8]}
    assert found.cost == pytest.approx(1 + 2 * 3 / 10)
    assert "3 views of a share of 0.3" in str(found)
    assert "on 7 images" in str(found)


def test_the_notice(net, caplog):
    """Says what is computed, and of how many images."""
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, share=0.25, **OPTIONS)
    criterion(net(torch.rand(8, 3, 8, 8)), torch.zeros(8, dtype=torch.long))
    assert "8 images, 2 of them x 2 views = 10 rows a step, 1.25 times" in caplog.text


def test_one_image_with_views(net, caplog):
    """Has nothing to be compared with: a warning says so."""
    criterion = nn.CrossEntropyLoss()
    attach(net, criterion, share=0.1, **OPTIONS)
    criterion(net(torch.rand(8, 3, 8, 8)), torch.zeros(8, dtype=torch.long))
    assert "one image with views a step" in caplog.text


def test_compiled():
    """The eager loss, and as many graphs as there are sizes of batches, two."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        net, criterion = SmallNet(), nn.CrossEntropyLoss()
        attach(net, criterion, share=0.6, **OPTIONS)
        model = torch.compile(net, backend=count) if compiled else net
        generator = torch.Generator().manual_seed(0)
        for images in (8, 8, 5, 8, 5, 8):
            batch = torch.rand(images, 3, 8, 8, generator=generator)
            labels = torch.arange(images) % 5
            loss = criterion(model(batch), labels)
            loss.backward()
            losses.append(loss.item())
    assert losses[6:] == pytest.approx(losses[:6], rel=1e-5)
    assert len(graphs) <= 2
    torch._dynamo.reset()


def darker(images):
    """A scheme without random numbers."""
    return images.flip(3) * 0.5


def on_rank(rank, sizes, options):
    images, labels = (part.split(sizes)[rank] for part in pool(sum(sizes)))
    torch.manual_seed(0)
    net = Plain()
    return one_step(net, DistributedDataParallel(net), images, labels, options)


def pool(count):
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, 6, 6, generator=generator)
    images += 2 * torch.rand(count, 1, 1, 1, generator=generator)
    return images, torch.arange(count) % 5


def one_step(net, model, images, labels, options):
    criterion = nn.CrossEntropyLoss()
    attach(model, criterion, scheme=darker, **{**OPTIONS, **options})
    criterion(model(images), labels).backward()
    return attached(model).stats()["layers"], [p.grad for p in net.parameters()]


@pytest.mark.parametrize("sizes", [[4, 4], [6, 2]], ids=named)
def test_all_processes_are_one(sizes):
    """sync=True: one process whose first images are those with views of every rank."""
    options = {"share": 0.5, "alpha": 1.0 if sizes[0] != sizes[1] else 0.4}
    ranks = processes.run(on_rank, 2, sizes, {"sync": True, **options})
    images, labels = pool(sum(sizes))
    first = [i for start, n in ((0, sizes[0]), (sizes[0], sizes[1])) for i in
             range(start, start + n // 2)]  # fmt: skip
    order = first + [i for i in range(sum(sizes)) if i not in first]
    torch.manual_seed(0)
    net = Plain()
    layers, gradients = one_step(net, net, images[order], labels[order], options)
    for ours, ours_gradients in ranks:
        assert ours == pytest.approx(layers, abs=1e-5)
        for got, expected in zip(ours_gradients, gradients, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
