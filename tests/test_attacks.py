"""Attacks find what literal loops and foolbox find, and leave the network as it was."""

import copy
import itertools
import math
import re
import warnings

import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

import dai_plugin
from dai_plugin import Scheme
from dai_plugin.measures.adversary import OnPixels, adversarial
from dai_plugin.measures.attacks import PGD, fgsm
from dai_plugin.measures.balls import Ball
from dai_plugin.measures.search import Search, image_seeds, strength
from dai_plugin.measures.spatial import Grid, WorstOf
from dai_plugin.views.expand import expand
from dai_plugin.views.normalization import Normalization

NONE = Normalization()
CARRIED = Normalization.given((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = torch.arange(24) % 3
SHORT = {"steps": 5, "step_size": 0.02}
EVERY = [
    fgsm(0.05),
    fgsm(0.5, "l2"),
    PGD(0.05, steps=3, restarts=2),
    PGD(0.5, "l2", steps=3, loss="margin"),
    WorstOf(count=3),
    WorstOf(K.RandomAffine(20.0, p=1.0), count=2),
    Grid(rotations=3, translations=2),
]


class Returns(nn.Module):
    """A network that returns what a function makes of the logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x.mean((2, 3)))


@pytest.fixture(scope="module")
def images():
    """Noise on three patterns, each the brighter in one channel."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(24, 3, 12, 12, generator=generator, dtype=torch.float64)
    return 0.85 * noise + 0.15 * F.one_hot(LABELS, 3).double()[:, :, None, None]


@pytest.fixture(scope="module")
def trained(images):
    """Two networks that tell the patterns apart, in float64."""

    def train(seed):
        torch.manual_seed(seed)
        net = SmallNet(3).double()
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(25):
            optimizer.zero_grad()
            # Smoothed: of a network too sure, autograd's cross-entropy is but rounding.
            F.cross_entropy(net(images), LABELS, label_smoothing=0.2).backward()
            optimizer.step()
        optimizer.zero_grad()
        return net.eval()

    return train(0), train(1)


@pytest.fixture
def network(trained):
    return copy.deepcopy(trained[0])


def accuracy(network, images):
    with torch.no_grad():
        return network(images).argmax(1).eq(LABELS).double().mean().item()


def literal_pgd(network, image, label, eps, norm, steps, size, start):
    """All points of one image's way up the cross-entropy, in plain steps."""
    point, points = start, [start]
    for _ in range(steps):
        point = point.clone().requires_grad_()
        loss = F.cross_entropy(network(point[None]), label[None])
        (g,) = torch.autograd.grad(loss, point)
        if norm == "linf":
            point = point.detach() + size * g.sign()
            point = image + (point - image).clamp(-eps, eps)
        else:
            point = point.detach() + size * g / g.norm()
            away = (point - image).norm()
            point = image + (point - image) * min(1.0, eps / max(away.item(), 1e-30))
        point = point.clamp(0, 1)
        points.append(point)
    return points


def strongest(network, points, label):
    """The first that is misclassified, else that of the highest cross-entropy."""
    with torch.no_grad():
        losses = []
        for point in points:
            logits = network(point[None])
            if logits.argmax() != label:
                return point
            losses.append(F.cross_entropy(logits, label[None]).item())
    return points[losses.index(max(losses))]


@pytest.mark.parametrize(
    ("norm", "eps", "size"), [("linf", 0.06, 0.02), ("l2", 0.8, 0.3)]
)
def test_pgd_is_the_literal_loop(network, images, norm, eps, size):
    """Image by image, with no early stopping, batch, or shortcut."""
    attack = PGD(eps, norm, steps=5, step_size=size, random_start=False)
    found = attack(network, images, LABELS)
    ways = [
        literal_pgd(network, i, y, eps, norm, 5, size, i)
        for i, y in zip(images, LABELS, strict=True)
    ]
    expected = [strongest(network, p, y) for p, y in zip(ways, LABELS, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-9)
    rate = accuracy(network, found)
    assert 0 < rate < accuracy(network, images), "fools some and not all"


def test_restarts_are_the_literal_loops(network, images):
    """The image first, then one way after another from points of their seeds."""
    attack = PGD(0.05, steps=3, step_size=0.02, restarts=2, seed=4)
    found = attack(network, images, LABELS)
    for k, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        points = [image]
        for restart in range(2):
            (seed,) = image_seeds(image[None], 4, restart)
            generator = torch.Generator().manual_seed(seed)
            noise = torch.rand(image.shape, generator=generator).double()
            start = (image + (2 * noise - 1) * 0.05).clamp(0, 1)
            points += literal_pgd(network, image, label, 0.05, "linf", 3, 0.02, start)
        expected = strongest(network, points, label)
        torch.testing.assert_close(found[k], expected, rtol=0, atol=1e-6)


@pytest.fixture
def foolbox():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports, about scipy's modules
        return pytest.importorskip("foolbox", reason="needs --group integrations")


@pytest.mark.parametrize(
    ("norm", "eps", "size"), [("linf", 0.06, 0.02), ("l2", 0.8, 0.3)]
)
def test_foolbox_takes_the_same_way(foolbox, trained, images, norm, eps, size):
    """Ours is the strongest of its points after 0, 1, 2, ... steps."""
    network, images = copy.deepcopy(trained[0]).float(), images.float()
    theirs = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    }[norm]
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    ways = [images]
    for steps in range(1, 5):
        attack = theirs(abs_stepsize=size, steps=steps, random_start=False)
        ways.append(attack(model, images, LABELS, epsilons=eps)[0])
    ours = PGD(eps, norm, steps=4, step_size=size, random_start=False)
    found = ours(network, images, LABELS)
    for k, label in enumerate(LABELS):
        expected = strongest(network, [way[k] for way in ways], label)
        # A gradient of about 0 may have either sign: a few pixels in a thousand.
        off = (found[k] - expected).abs() > 1e-5
        assert off.double().mean() < 0.01
    assert accuracy(network, found) <= min(accuracy(network, w) for w in ways)


def test_foolbox_stands_for_an_attack(foolbox, network, images):
    """Any callable on a model of pixels is run, and its result looked at."""

    def attack(model, x, y):
        theirs = foolbox.attacks.LinfFastGradientAttack()
        return theirs(
            foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
            x,
            y,
            epsilons=0.05,
        )[0]

    network.float()
    mean, std = CARRIED.tensors(images)
    carried = ((images - mean) / std).float()
    arguments = {"normalization": CARRIED, "ball": Ball(0.05)}
    found = adversarial(attack, network, carried, LABELS, **arguments)
    ours = adversarial(fgsm(0.05), network, carried, LABELS, **arguments)
    moved = (found - images).abs().flatten(1).amax(1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.05), atol=1e-5, rtol=0)
    on_pixels = OnPixels(network, CARRIED)
    assert accuracy(on_pixels, ours) <= accuracy(on_pixels, found)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_neither_batch_nor_order_matters(network, images, attack):
    """An image alone, among others, or elsewhere among them: the same result."""
    whole = attack(network, images, LABELS)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed = attack(network, images[order], LABELS[order])
    parts = [
        attack(network, images[k : k + 7], LABELS[k : k + 7]) for k in range(0, 24, 7)
    ]
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", EVERY, ids=repr)
def test_results_stay_where_they_must(network, images, attack):
    """In [0, 1], in the ball; what is misclassified already is left alone."""
    made = adversarial(attack, network, images, LABELS, normalization=NONE)
    assert made.min() >= 0
    assert made.max() <= 1
    assert made.dtype == images.dtype
    assert accuracy(network, made) <= accuracy(network, images)
    wrong = (LABELS + 1) % 3
    still = attack(network, images, wrong)
    fooled = network(images).argmax(1) != wrong
    torch.testing.assert_close(still[fooled], images[fooled])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball(norm):
    """They lie inside, near its surface and evenly on all sides."""
    images = torch.full((200, 1, 4, 4), 0.5)
    ball = Ball(0.3, norm)
    points = ball.random(images, image_seeds(images, 0))
    assert (points == points[0]).all(), "one image, one point"
    points = ball.random(images, range(200))
    assert ball.holds(points, images).all()
    assert ball.distances(points, images).mean() > 0.85 * 0.3
    assert (points - images).mean().abs() < 0.02


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_never_helps_the_defender(network, images, norm, loss):
    """More steps and more restarts fool the same images and others."""
    eps, size = (0.03, 0.01) if norm == "linf" else (0.5, 0.15)
    fooled = {}
    for steps, restarts in itertools.product((1, 2, 5), (1, 3)):
        attack = PGD(eps, norm, steps, size, restarts, loss=loss)
        made = attack(network, images, LABELS)
        fooled[steps, restarts] = network(made).argmax(1) != LABELS
    for (less, many), (a, b) in itertools.product(fooled, repeat=2):
        if less <= a and many <= b:
            assert (fooled[less, many] <= fooled[a, b]).all()
    assert fooled[5, 3].sum() > fooled[1, 1].sum()


def test_a_radius_of_zero_is_the_clean_accuracy(network, images):
    for attack in (fgsm(0.0), fgsm(0.0, "l2"), PGD(0.0), PGD(0.0, "l2")):
        assert torch.equal(attack(network, images, LABELS), images)


def test_a_black_box_attack_is_weaker(trained, images):
    """Images made against another network fool this one less than its own do."""
    network, other = trained
    attack = PGD(0.06, **SHORT)
    own, transferred = (attack(net, images, LABELS) for net in trained)
    assert accuracy(network, own) < accuracy(network, transferred)
    assert accuracy(other, transferred) < accuracy(other, own)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_huge_logits_hide_nothing(network, images, loss):
    """A factor on the logits, which takes cross-entropy's gradient to 0, is no help."""

    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network.float()

        def forward(self, x):
            return 1e5 * self.inner(x)

    images, sure = images.float(), Sure()
    leaf = images.clone().requires_grad_()
    F.cross_entropy(sure(leaf), LABELS).backward()
    masked = ~leaf.grad.flatten(1).any(1)
    assert masked.double().mean() > 0.5, "the network masks its gradient"
    attack = PGD(0.06, loss=loss, **SHORT)
    with_factor = accuracy(sure, attack(sure, images, LABELS))
    without = accuracy(network, attack(network, images, LABELS))
    assert abs(with_factor - without) < 0.1
    assert with_factor < 0.7


def test_steps_without_a_slope_are_told(network, images, caplog):
    """A stepwise first layer: gradient attacks say that they see nothing."""

    class Stepwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner((x * 16).floor() / 16)

    stepwise = Stepwise()
    right = int((stepwise(images).argmax(1) == LABELS).sum())
    made = fgsm(0.03)(stepwise, images, LABELS)
    assert torch.equal(made, images)
    assert f"the gradient was 0 at every step for {right} of 24 images" in caplog.text
    found = WorstOf("heavier", count=20)(stepwise, images, LABELS)
    assert accuracy(stepwise, found) < accuracy(stepwise, images)


def test_the_strength_is_cross_entropy_and_margin():
    """Cross-entropy is that of the odds; the margin is the literal one."""
    logits = 5 * torch.randn(50, 7, dtype=torch.float64)
    labels = torch.randint(7, (50,))
    odds = strength(logits, labels, "ce")
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(F.softplus(odds), expected)
    margin = strength(logits, labels, "margin")
    for row, label, got in zip(logits, labels, margin, strict=True):
        assert got == max(z for k, z in enumerate(row) if k != label) - row[label]


CANDIDATES = [
    # Misclassified counts more than odds: the second of these has less of them.
    ([(0.40, 0.39, 0.39), (0.50, 0.51, 0.0)], "ce", 1, 1),
    ([(0.40, 0.39, 0.39), (0.50, 0.49, 0.0)], "ce", 1, 0),
    ([(0.40, 0.39, 0.39), (0.45, 0.445, 0.0)], "margin", 1, 1),
    # The first that is misclassified stays.
    ([(0.5, 0.6, 0.0), (0.0, 1.0, 0.0)], "ce", 1, 0),
    # In half precision both differences would be infinite.
    ([(1.0, 0.1, 0.0), (1.0, 0.2, 0.0)], "margin", 1e5, 1),
]


@pytest.mark.parametrize(("logits", "loss", "factor", "best"), CANDIDATES)
def test_the_strongest_candidate_is_kept(logits, loss, factor, best):
    def scaled(z):
        return (z - 0.5).mul(factor).half() if factor > 1 else z

    points = torch.tensor(logits)[:, None, :, None, None].expand(2, 1, 3, 2, 2)
    search = Search(Returns(scaled), points[0], torch.tensor([0]), loss)
    for point in points:
        search.offer(point[search.open])
        if not len(search.open):
            break
    torch.testing.assert_close(search.found, points[best])


def test_only_what_has_no_slope_is_told(network, images, caplog):
    """Images that merely hold out are no reason to warn."""
    made = fgsm(0.01)(network, images, LABELS)
    assert accuracy(network, made) > 0
    assert "the gradient was 0" not in caplog.text
    half = Returns(lambda z: torch.where(z[:, :1] > 0.5, z.detach() + 0 * z, z))
    still = torch.full((2, 3, 4, 4), 0.4)
    still[0, 0] = 0.9
    fgsm(0.01)(half, still, torch.tensor([0, 0]))
    assert "0 at every step for 1 of 2 images" in caplog.text


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_slopes_that_are_not_finite_end_nothing(norm):
    """A root has an infinite slope at black, NaN where it is multiplied by 0."""
    network = Returns(lambda z: torch.stack([z[:, 0], 0.1 + z[:, 1], z[:, 2] * 0], 1))
    network.register_forward_pre_hook(lambda _, args: (args[0].sqrt(),))
    images = torch.full((1, 3, 4, 4), 0.25)
    images[:, 1:, :2] = 0.0
    attack = PGD(0.2 if norm == "linf" else 2.0, norm, steps=8, random_start=False)
    found = adversarial(attack, network, images, torch.tensor([0]), normalization=NONE)
    assert found.isfinite().all()
    assert network(images).argmax() == 0
    assert network(found).argmax() == 1


def test_schemes_that_leave_the_pixels_are_clipped(network, images):
    """As noise and cubic resampling may; the network sees what comes back."""

    def contrast(rows):
        return 0.5 + 3 * (rows - 0.5)

    found = WorstOf(contrast, count=1)(network, images, LABELS)
    clipped = contrast(images).clamp(0, 1)
    chosen = (found - clipped).flatten(1).abs().amax(1) < 1e-6
    assert chosen.any()
    assert torch.equal(found[~chosen], images[~chosen])


def test_a_normalisation_first_met_in_inference_mode(network, images):
    """What it kept of it there is no obstacle to a gradient."""
    first = Normalization.given(0.1234, 0.5678)
    with torch.inference_mode():
        carried = (images - 0.1234) / 0.5678
        adversarial(PGD(**SHORT), network, carried, LABELS, normalization=first)


def test_a_distributed_network_trains_on(network, images):
    """An attack between two steps, none of which is DistributedDataParallel's.

    Its forwards wait for the other processes, whose attacks need other numbers of them.
    """
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network)
        calls = []
        wrapped.register_forward_hook(lambda *_: calls.append(1))
        for step in range(2):
            wrapped.zero_grad()
            F.cross_entropy(wrapped(images), LABELS).backward()
            grad = network.classifier.weight.grad.clone()
            adversarial(PGD(**SHORT), wrapped, images, LABELS, normalization=NONE)
            assert torch.equal(network.classifier.weight.grad, grad)
            assert wrapped.training
            assert len(calls) == step + 1
    finally:
        torch.distributed.destroy_process_group()


def test_the_worst_transformation_is_the_literal_worst(network, images):
    scheme = Scheme.heavier()
    found = WorstOf(scheme, count=4, seed=2)(network, images, LABELS)
    for image, label, got in zip(images, LABELS, found, strict=True):
        versions = [image]
        for k in range(4):
            (seed,) = image_seeds(image[None], 2, k)
            version = expand(
                image[None], 1, scheme,
                first_view="augmented", normalization=NONE, seed=seed,
            )  # fmt: skip
            versions.append(version[0])
        expected = strongest(network, versions, label)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_the_grid_turns_and_shifts(images):
    """Of a quarter turn and none, each image gets the one that the network errs on."""

    class Corner(nn.Module):
        """Class 1 where the top left corner is bright, else class 0."""

        def forward(self, x):
            bright = x[:, :, :6, :6].mean((1, 2, 3))
            return torch.stack([0.5 - bright, bright - 0.5], 1)

    picture = torch.zeros(1, 1, 12, 12)
    picture[..., :6, :6] = 1.0
    grid = Grid(rotation=90.0, rotations=3, translation=0.0, translations=1)
    found = grid(Corner(), picture, torch.tensor([1]))
    torch.testing.assert_close(found, picture.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    state = torch.random.get_rng_state()
    Grid(rotations=3, translations=2)(Corner(), picture, torch.tensor([1]))
    WorstOf("randaugment", count=2)(Corner(), picture, torch.tensor([1]))
    PGD(**SHORT)(Corner(), picture, torch.tensor([1]))
    assert torch.equal(torch.random.get_rng_state(), state), "the global stream"


@pytest.mark.parametrize("attack", EVERY, ids=repr)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_network_is_left_as_it_was(network, images, attack, around):
    """Modes, parameters, gradients and buffers; under no_grad the same result."""
    expected = attack(network, images, LABELS)
    network.train()
    network.features[0].eval()
    network.classifier.bias.grad = torch.ones(3, dtype=torch.float64)
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    with around():
        found = adversarial(
            attack, network, images.clone(), LABELS.clone(), normalization=NONE
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    grads = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert list(grads) == ["classifier.bias"]
    assert (grads["classifier.bias"] == 1).all()


def test_a_careless_attack_leaves_no_gradients(network, images):
    """One that calls backward adds nothing to the loop's gradients."""

    def careless(model, x, y):
        x.requires_grad_()
        F.cross_entropy(model(x), y).backward()
        return (x + 0.05 * x.grad.sign()).clamp(0, 1)

    before = torch.ones(3, dtype=torch.float64)
    network.classifier.bias.grad = before
    made = adversarial(careless, network, images, LABELS, normalization=NONE)
    assert network.classifier.bias.grad is before
    assert (before == 1).all()
    assert network.classifier.weight.grad is None
    assert not made.requires_grad


@pytest.mark.parametrize("when", ["training", "grad"])
def test_an_attached_network_is_attacked_as_stock(network, images, when, caplog):
    """No views, no steps, no warning: an attack is no training."""
    expected = PGD(**SHORT)(network, images, LABELS)
    attached, _ = dai_plugin.attach(
        network, nn.CrossEntropyLoss(), mean=0.0, std=1.0, when=when
    )
    before = dai_plugin.attached(attached).stats()["forwards"]
    found = PGD(**SHORT)(attached, images, LABELS)
    torch.testing.assert_close(found, expected)
    assert dai_plugin.attached(attached).stats()["forwards"] == before
    assert "gradients flow" not in caplog.text


def test_the_normalisation_is_the_networks(network, images):
    """Attacks see pixels, whatever the network is shown."""
    mean, std = (each.double() for each in CARRIED.tensors(images))
    carried = (images - mean) / std
    found = adversarial(PGD(**SHORT), network, carried, LABELS, normalization=CARRIED)

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner((x - mean) / std)

    expected = PGD(**SHORT)(Inside(), images, LABELS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    grey = (images * 255).round().to(torch.uint8)
    whole = adversarial(
        PGD(**SHORT), network.float(), grey, LABELS, normalization=CARRIED
    )
    assert Ball(8 / 255).holds(whole, grey / 255).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_half_precision_is_attacked_as_well(network, images, dtype, loss):
    """Autocast, and a network in half precision: pixels and losses stay float32."""
    attack = PGD(0.06, loss=loss, **SHORT)
    images = images.float()
    network.float()
    reference = accuracy(network, attack(network, images, LABELS))
    with torch.autocast("cpu", dtype):
        made = attack(network, images, LABELS)
    assert made.dtype == torch.float32
    assert abs(accuracy(network, made) - reference) < 0.15
    half = OnPixels(copy.deepcopy(network).to(dtype), NONE)
    made = attack(half, images, LABELS)
    assert made.dtype == torch.float32
    assert Ball(0.06).holds(made, images).all()
    assert abs(accuracy(half, made) - reference) < 0.15


REFUSED = [
    (lambda: PGD(8), "eps must lie in [0, 1], as pixels do, got 8; 8 of 255 grey"),
    (lambda: PGD(-0.1), "eps must be a number from 0 up, got -0.1"),
    (lambda: fgsm(math.nan, "l2"), "eps must be a number from 0 up, got nan"),
    (lambda: PGD(norm="l1"), "unknown norm 'l1': take one of linf, l2"),
    (lambda: PGD(loss="dlr"), "unknown loss 'dlr': take one of ce, margin"),
    (lambda: PGD(steps=0), "steps must be at least 1, got 0"),
    (lambda: PGD(restarts=0), "restarts must be at least 1, got 0"),
    (lambda: PGD(step_size=-1.0), "step_size must be a number from 0 up, got -1.0"),
    (
        lambda: PGD(restarts=2, random_start=False),
        "restarts=2 from the image itself are all the same: take random_start=True",
    ),
    (lambda: WorstOf(count=0), "count must be at least 1, got 0"),
    (lambda: WorstOf("given"), "WorstOf needs a scheme that makes them"),
    (lambda: Grid(rotations=0), "rotations must be at least 1, got 0"),
    (lambda: Grid(rotation=-1.0), "rotation must be a number from 0 up, got -1.0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


SOFT = F.one_hot(LABELS, 3).double()
UNFIT = [
    (SOFT, "labels of shape [24, 3] and dtype torch.float64 for 24 images"),
    (LABELS[:5], "labels of shape [5] and dtype torch.int64 for 24 images"),
    (LABELS.double(), "attacks take one integer class an image, [24]"),
    (LABELS + 1, "labels from 1 to 3 for a network of 3 classes: they must lie from 0"),
    (LABELS - 1, "labels from -1 to 1 for a network of 3 classes"),
]


@pytest.mark.parametrize(("labels", "message"), UNFIT)
@pytest.mark.parametrize("attack", [PGD(), WorstOf()])
def test_labels_that_do_not_fit_are_refused(network, images, attack, labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        attack(network, images, labels)


NETWORKS = [
    (lambda z: z.detach(), "no gradient reaches the images from what the network"),
    (lambda z: F.one_hot(z.argmax(1), 3).double(), "no gradient reaches the images"),
    (lambda z: (z * 0).detach().requires_grad_(), "no gradient reaches the images"),
    (lambda z: {"logits": z}, "the network returned dict for 24 images"),
    (lambda z: z[:, :1], "the network returned [24, 1] for 24 images: attacks take"),
    (lambda z: z[:3], "the network returned [3, 3] for 24 images"),
    (lambda z: z * math.nan, "the network returned NaN for pixels in [0, 1]"),
]


@pytest.mark.parametrize(("change", "message"), NETWORKS)
def test_networks_that_do_not_fit_are_refused(images, change, message):
    network = Returns(change).train()
    with pytest.raises(ValueError, match=re.escape(message)):
        PGD(random_start=False)(network, images, LABELS)
    assert network.training


def test_images_that_are_no_pixels_are_refused(network, images):
    with pytest.raises(ValueError, match=r"work in \[0, 1\]; give the mean="):
        PGD()(network, images * 4 - 2, LABELS)
    carried = images * 4 - 2
    carried[0, 0, 0, 0] = -2
    with pytest.raises(ValueError, match="pixels from -2 to"):
        adversarial(PGD(), network, carried, LABELS, normalization=NONE)
    with pytest.raises(ValueError, match="attacks take floats in"):
        PGD()(network, (images * 255).to(torch.uint8), LABELS)


RESULTS = [
    (lambda x: None, "returned NoneType for images [24, 3, 12, 12]"),
    (lambda x: x[:3], "returned [3, 3, 12, 12] for images [24, 3, 12, 12]"),
    (lambda x: x.to(torch.uint8), "returned torch.uint8; it must return floating"),
    (lambda x: x + 1, "it must return pixels in [0, 1], without the model's"),
    (lambda x: x * math.nan, "returned values from nan to nan"),
    (lambda x: 1 - x, "of 24 images out of Ball(eps=0.1, norm='linf'), the furthest"),
]


@pytest.mark.parametrize(("change", "message"), RESULTS)
def test_results_that_do_not_fit_are_refused(network, images, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        adversarial(
            lambda model, x, y: change(x), network, images, LABELS,
            normalization=NONE, ball=Ball(0.1),
        )  # fmt: skip
