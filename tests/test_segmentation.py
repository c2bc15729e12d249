"""Dense targets in training: each view's outputs meet each view's own target."""

import functools
import re

import kornia.augmentation as K
import oracle
import pytest
import torch
import torch.nn.functional as F
from conftest import REFERENCE
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from dai_plugin import DataAugmentationInvariance, Scheme, attach, attached, check
from dai_plugin.views.expand import expand, mix_seed
from dai_plugin.views.motion import Views, motion_of, move
from dai_plugin.views.normalization import Normalization

PLAIN = {"mean": 0.0, "std": 1.0, "seed": 7}
OPTIONS = {"num_views": 3, "alpha": 0.4, **PLAIN}


class Dense(nn.Module):
    """Two convolutions, a class for each pixel; a second, coarse output."""

    def __init__(self, classes=4, heads=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head, self.heads = nn.Conv2d(6, classes, 1), heads

    def forward(self, x):
        logits = self.head(self.features(x))
        return {"out": logits, "aux": 2 * logits} if self.heads else logits


def motion_at(step, images, scheme, views):
    """What the step drew, from its seed."""
    seed = mix_seed(7, 0, step)
    return seed, motion_of(scheme, Views(views, images.shape, seed, images.device))


def literal(net, images, view_loss, scheme, options, step=0):
    """Task loss, and the objective with the terms of the two activations."""
    views = options["num_views"]
    seed, _ = motion_at(step, images, scheme, views - 1)
    rows = expand(images, views, scheme, first_view="clean",
                  normalization=Normalization(), seed=seed)  # fmt: skip
    kept = [layer.register_forward_hook(lambda _, __, out: seen.append(out))
            for layer in (net.features[1], net.features[3])]  # fmt: skip
    seen = []
    output = net(rows)
    for handle in kept:
        handle.remove()
    task = sum(view_loss(v, output) for v in range(views)) / views
    weights = oracle.exponential_weights(2, options["alpha"], 10.0)
    terms = sum(
        w * oracle.invariance_loss(a, views) for w, a in zip(weights, seen, strict=True)
    )
    return task, (1 - options["alpha"]) * task.double() + terms


def batch_of(size=(14, 20), count=4, classes=4):
    generator = torch.Generator().manual_seed(3)
    masks = torch.randint(classes, (count, *size), generator=generator)
    return torch.rand(count, 3, *size, generator=generator), masks


CRITERIA = {
    "module": (lambda: nn.CrossEntropyLoss(), {}, -100),
    "its own label": (lambda: nn.CrossEntropyLoss(ignore_index=9), {}, 9),
    "a keyword": (lambda: functools.partial(F.cross_entropy, ignore_index=9), {}, 9),
    "inside": (lambda: lambda o, t: F.cross_entropy(o, t, ignore_index=255),
               {"ignore_index": 255}, 255),
    "weights": (lambda: nn.CrossEntropyLoss(weight=torch.rand(4) + 0.5), {}, -100),
    "each pixel": (lambda: lambda o, t: F.cross_entropy(o, t, reduction="none").mean(),
                   {}, -100),
}  # fmt: skip


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("shape", ["[B, H, W]", "[B, 1, H, W]"])
def test_the_objective_is_the_literal_one(name, shape):
    """Each view's outputs with each view's mask; loss and gradient."""
    build, more, outside = CRITERIA[name]
    criterion, (images, masks) = build(), batch_of()
    if shape == "[B, 1, H, W]":
        inner, masks = criterion, masks[:, None]
        criterion = lambda o, t: inner(o, t.squeeze(1))  # noqa: E731
        more = {"ignore_index": outside}
    net, scheme = Dense(), Scheme.heavier()
    _, motion = motion_at(0, images, scheme, 2)
    own = torch.cat([masks, move(masks, "mask", motion, outside)]).split(4)
    assert (own[1] == outside).any()

    def view_loss(v, output):
        return criterion(output.split(4)[v], own[v])

    task, expected = literal(net, images, view_loss, scheme, OPTIONS)
    expected.backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    _, watched = attach(net, criterion, scheme=scheme, **OPTIONS, **more)
    output = net(images)
    assert output.shape == (4, 4, 14, 20)
    total = watched(output, masks)
    total.backward()
    stats = attached(net).stats()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert stats["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    for parameter, grad in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-5)


def test_a_criterion_that_sums_over_pixels():
    """All views at once tell so; their masks are as many then, each its own."""

    def criterion(output, mask):
        return F.cross_entropy(output, mask, ignore_index=9, reduction="sum")

    net, (images, masks) = Dense(), batch_of()
    _, motion = motion_at(0, images, Scheme(), 2)
    own = torch.cat([masks, move(masks, "mask", motion, 9)]).split(4)
    task, mixed = literal(
        net, images, lambda v, o: criterion(o.split(4)[v], own[v]), Scheme(), OPTIONS
    )
    terms = mixed - 0.6 * task.double()
    _, watched = attach(net, criterion, ignore_index=9, **OPTIONS)
    total = watched(net(images), masks)
    expected = 0.6 * task.double() + 4 * terms
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert abs(3 * terms.item()) > 1e-4 * expected.item()


def test_several_steps_and_replay():
    """Every step has its own motion; a replayed one has the last step's."""
    net, (images, masks) = Dense(), batch_of()
    criterion, seen = nn.CrossEntropyLoss(), []
    criterion.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    criterion.forward = lambda o, t: seen.append(t) or F.cross_entropy(o, t)
    with attach(net, criterion, **{**OPTIONS, "num_views": 2}) as attachment:
        for _ in range(2):
            criterion(net(images), masks).backward()
        with attachment.replay():
            criterion(net(images), masks).backward()
    moved = [t for t in seen if (t == -100).any()]
    for step in range(2):
        _, motion = motion_at(step, images, Scheme(), 1)
        assert torch.equal(moved[step], move(masks, "mask", motion, -100))
    assert torch.equal(moved[1], moved[2])
    assert not torch.equal(moved[0], moved[1])


PIPELINES = {
    "kornia": lambda: K.AugmentationSequential(
        K.RandomHorizontalFlip(), K.RandomAffine(40.0, (0.1, 0.1), resample="nearest")
    ),
    "kornia's one": lambda: K.RandomRotation(40.0, p=0.7, resample="nearest"),
    "torchvision": lambda: v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomAffine(40, (0.1, 0.1))]
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_of_other_libraries(name):
    """What the network sees and what the criterion gets show the same, step by step."""
    _, masks = batch_of()
    images = ((masks + 1) / 8)[:, None].repeat(1, 3, 1, 1)
    net, rows, own = Dense(), [], []

    def criterion(output, target):
        own.append(target)
        return F.cross_entropy(output, target)

    _, watched = attach(net, criterion, scheme=PIPELINES[name](), **OPTIONS)
    net.features[0].register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    for _ in range(4):
        watched(net(images), masks).backward()
        seen = (rows[-1][:, 0] * 8).round().long() - 1
        target = torch.cat(own[:3])
        assert torch.equal(target.clamp(min=-1), seen)  # black is what lies outside
        assert (target == -100).any()
        own.clear()


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_the_explicit_form_moves_targets(first_view):
    """All rows' masks, and view 0's, too, where that one is transformed."""
    images, masks = batch_of()
    net = Dense()
    options = {**OPTIONS, "ignore_index": -100}
    dai = DataAugmentationInvariance(net, first_view=first_view, **options)
    rows, targets = dai.views(images, masks)
    moved = 3 - (first_view == "clean")
    _, motion = motion_at(0, images, Scheme(), moved)
    expected = [masks] * (3 - moved) + [move(masks, "mask", motion, -100)]
    assert torch.equal(targets, torch.cat(expected))
    dai.loss(F.cross_entropy(net(rows), targets)).backward()
    dai.remove()


def test_an_augmented_first_view_is_refused_by_attach():
    """The loop holds the target of another picture than the output it gets."""
    images, masks = batch_of()
    net = Dense()
    _, criterion = attach(net, nn.CrossEntropyLoss(), first_view="augmented", **OPTIONS)
    with pytest.raises(ValueError, match='take first_view="clean", or the explicit'):
        criterion(net(images), masks)


class Places(nn.Module):
    """Numbers an image: `[B, *shape]`."""

    def __init__(self, shape):
        super().__init__()
        self.features = Dense().features
        self.shape, count = shape, int(torch.tensor(shape).prod())
        self.head = nn.Linear(6, count)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3))).view(-1, *self.shape)


TOLD = {
    "keypoints": ((5, 2), 14.0),
    "boxes": ((4,), 14.0),
    "boxes of several": ((3, 4), 14.0),
    "heatmap": ((2, 7, 10), 1.0),
}


@pytest.mark.parametrize("name", TOLD)
def test_places_and_maps_follow_when_told(name):
    """`targets=` says what a float target is; the objective is the literal one."""
    shape, scale = TOLD[name]
    kind = name.split()[0]
    images, _ = batch_of()
    targets = torch.rand(4, *shape) * scale
    net, scheme, criterion = Places(shape), Scheme.heavier(), nn.SmoothL1Loss()
    _, motion = motion_at(0, images, scheme, 2)
    own = torch.cat([targets, move(targets, kind, motion, 0)]).split(4)

    def view_loss(v, output):
        return criterion(output.split(4)[v], own[v])

    task, expected = literal(net, images, view_loss, scheme, OPTIONS)
    _, watched = attach(net, criterion, scheme=scheme, targets=kind, **OPTIONS)
    total = watched(net(images), targets)
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert attached(net).stats()["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert not torch.equal(own[0], own[1])


def test_a_target_of_another_shape_than_was_told():
    """Flat key points are not taken for points in silence."""
    net, (images, _) = Places((10,)), batch_of()
    _, criterion = attach(net, nn.MSELoss(), targets="keypoints", **OPTIONS)
    with pytest.raises(ValueError, match=r"means \[B, K, 2\], but the criterion got"):
        criterion(net(images), torch.rand(4, 10))


SHAPES = {
    "depth": lambda b, h, w: torch.rand(b, h, w),
    "depth of one channel": lambda b, h, w: torch.rand(b, 1, h, w),
    "classes as floats": lambda b, h, w: torch.randint(3, (b, h, w)).double(),
    "a coarse map": lambda b, h, w: torch.rand(b, h // 2, w // 2),
    "a coarse mask": lambda b, h, w: torch.randint(3, (b, h // 2, w // 2)),
    "points": lambda b, h, w: torch.rand(b, 5, 2) * w,
    "points of pixels": lambda b, h, w: (torch.rand(b, 5, 2) * w).long(),
    "boxes": lambda b, h, w: torch.rand(b, 3, 4) * w,
    "boxes and classes": lambda b, h, w: torch.rand(b, 3, 5) * w,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SHAPES)
def test_no_target_with_places_stays_in_silence(name, seed):
    """Whatever the shape of the output beside it, and as an argument of any name."""
    torch.manual_seed(seed)
    count, height, width = torch.randint(8, 30, (3,)).tolist()
    images = torch.rand(count, 3, height, width)
    target = SHAPES[name](count, height, width)
    shape = [(1, height, width), (2, height, width), (10,), (7, 3)][seed]
    net = Places(shape)
    _, criterion = attach(net, lambda o, t: o.mean() + 0 * t.sum(), **OPTIONS)
    with pytest.raises(ValueError, match=r"belong to pixels.*targets="):
        criterion(net(images), target)
    attached(net).remove()
    taken = Taker()
    with (
        attach(taken, **OPTIONS),
        pytest.raises(ValueError, match=r"belong to pixels|two batches of"),
    ):
        taken(images, y=target)


class Taker(nn.Module):
    """Returns a loss of its own, whatever else it gets."""

    def __init__(self):
        super().__init__()
        self.features = Dense().features

    def forward(self, images, **others):
        if torch.is_grad_enabled():  # no look at whether it sums
            self.others = others
        return {"loss": self.features(images).mean()}


@pytest.mark.parametrize("seed", range(4))
def test_masks_in_a_line_are_refused(seed):
    """`[B, H * W]` and `[B * H * W]`: criterion, network, and explicit form."""
    torch.manual_seed(seed)
    count, *size = torch.randint(3, 12, (3,)).tolist()
    masks = torch.randint(2, (count, *size))
    masks = masks.bool() if seed % 2 else masks
    images, net, taken = torch.rand(count, 3, *size), Dense(), Taker()
    for flat in (masks.flatten(1), masks.flatten()):
        refused = pytest.raises(ValueError, match=r"as many as .* pixels.*flatten them")
        _, criterion = attach(net, lambda o, t: o.mean() + 0 * t.sum(), **OPTIONS)
        with refused:
            criterion(net(images), flat)
        attached(net).remove()
        with DataAugmentationInvariance(net, **OPTIONS) as dai, refused:
            dai.views(images, flat)
    with attach(taken, **OPTIONS), refused:
        taken(images, labels=masks.flatten(1))
    still = {**OPTIONS, "scheme": "photometric"}
    with DataAugmentationInvariance(net, **still) as dai:
        assert dai.views(images, masks.flatten(1))[1].shape == (
            3 * count,
            masks[0].numel(),
        )


@pytest.mark.parametrize("shape", [(), (3,), (5, 2), (4 * 14 * 20,)])
@pytest.mark.parametrize("scheme", ["photometric", "heavier"])
def test_the_explicit_form_takes_one_target_an_image(shape, scheme):
    """Of targets that are not B nobody knows which belongs to which row."""
    options = {**OPTIONS, "scheme": scheme}
    with (
        DataAugmentationInvariance(Dense(), **options) as dai,
        pytest.raises(ValueError, match=r"targets for 4 images; give one an image"),
    ):
        dai.views(batch_of()[0], torch.rand(shape))


def test_what_has_no_places_is_repeated():
    """Sequences, numbers to be broadcast over pixels, images beside other outputs."""
    images, net = torch.rand(4, 3, 14, 20), Taker()
    kept = {"text": torch.rand(4, 7, 12), "gain": torch.rand(4, 3, 1, 1)}
    with attach(net, **OPTIONS):
        net(images, **kept)["loss"].backward()
    for name, value in net.others.items():
        repeats = 3, *[1] * (value.dim() - 1)
        assert torch.equal(value, kept[name].repeat(repeats))
    net = Dense()
    _, criterion = attach(net, lambda o, g, x: (o * g).mean() + 0 * x.sum(), **OPTIONS)
    criterion(net(images), torch.rand(4, 1, 1, 1), images).backward()


def test_labels_of_the_image_stay_beside_masks():
    """A class an image, class weights and images among the arguments are no masks."""
    net, (images, masks) = Dense(heads=True), batch_of()
    seen = []

    def criterion(output, mask, label, weight, x):
        seen.append((mask, label, weight, x))
        task = F.cross_entropy(output["out"], mask)
        return task + F.cross_entropy(output["aux"].mean((2, 3)), label, weight)

    label, weight = torch.tensor([0, 1, 2, 3]), torch.rand(4)
    _, watched = attach(net, criterion, ignore_index=-100, **OPTIONS)
    watched(net(images), masks, label, weight, images).backward()
    for view in seen[:3]:  # then all rows once, to see whether it sums
        assert [view[1] is label, view[2] is weight, view[3] is images] == [True] * 3
    assert seen[0][0] is masks
    assert (seen[1][0] == -100).any()


class Own(nn.Module):
    """Returns its loss, as Hugging Face's segmentation networks do."""

    def __init__(self, outside=-100):
        super().__init__()
        self.net, self.outside = Dense(), outside

    def forward(self, pixel_values, labels=None, valid=None, **_):
        logits = self.net(pixel_values)
        if torch.is_grad_enabled():  # no look at whether it sums
            self.seen = labels, valid
        loss = F.cross_entropy(logits, labels, ignore_index=self.outside)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_labels_of_a_network_with_its_own_loss(first_view):
    """`labels=[B, H, W]` moves as it is repeated; so does a mask of bool."""
    net, (images, masks) = Own(outside=255), batch_of()
    net.config = type("Config", (), {"semantic_loss_ignore_index": 255})()
    valid = torch.ones(masks.shape, dtype=torch.bool)
    with attach(net, first_view=first_view, **OPTIONS):
        output = net(pixel_values=images, labels=masks, pixel_mask=valid, valid=valid)
        output["loss"].backward()
    moved = 3 - (first_view == "clean")
    _, motion = motion_at(0, images, Scheme(), moved)
    expected = [masks] * (3 - moved) + [move(masks, "mask", motion, 255)]
    labels, inside = net.seen
    assert torch.equal(labels, torch.cat(expected))
    assert torch.equal(inside, labels != 255)


def test_a_mask_that_cannot_hold_the_label():
    """-100 is no uint8."""
    net, (images, masks) = Dense(), batch_of()
    dai = DataAugmentationInvariance(net, **OPTIONS)
    with pytest.raises(
        ValueError, match=r"torch.uint8 cannot hold -100.*ignore_index="
    ):
        dai.views(images, masks.byte())
    dai.remove()
    dai = DataAugmentationInvariance(net, ignore_index=255, **OPTIONS)
    assert dai.views(images, masks.byte())[1].eq(255).any()
    dai.remove()


def test_a_criterion_that_does_not_know_the_label():
    """It raises by itself, and a note says where the label came from."""
    net, (images, masks) = Dense(), batch_of()
    _, criterion = attach(
        net, lambda o, t: F.cross_entropy(o, t, ignore_index=255), **OPTIONS
    )
    with pytest.raises(IndexError, match="-100 is out of bounds") as caught:
        criterion(net(images), masks)
    assert any("give ignore_index=" in note for note in caught.value.__notes__)


def one_hot(mask):
    return torch.stack([(mask == k).float() for k in range(4)], 1)


def dice(output, mask):
    shares, wanted = output.softmax(1), one_hot(mask)
    return 1 - 2 * (shares * wanted).sum() / (shares + wanted).sum()


def dice_of_each(output, mask):
    shares, wanted = output.softmax(1).flatten(1), one_hot(mask).flatten(1)
    return (1 - 2 * (shares * wanted).sum(1) / (shares + wanted).sum(1)).mean()


def binary(output, mask):
    return F.binary_cross_entropy_with_logits(output[:, 0], mask.float())


def masked(output, mask):
    kept = mask >= 0
    each = F.cross_entropy(output, mask.clamp(min=0), reduction="none")
    return (each * kept).sum() / kept.sum()


LEARN = {
    "binary": binary,
    "the first class": lambda o, t: F.cross_entropy(o, t.clamp(0, 3)),
    "no class": lambda o, t: F.mse_loss(o.softmax(1), one_hot(t)),
    "dice": dice,
    "dice of each image": dice_of_each,
    "resized": lambda o, t: binary(F.interpolate(o, scale_factor=2), torch.cat(
        [t.repeat_interleave(2, 1).repeat_interleave(2, 2)])),
    "beside one that ignores": lambda o, t: F.cross_entropy(o, t) + binary(o, t),
}  # fmt: skip
IGNORE = {
    "function": lambda o, t: F.cross_entropy(o, t),
    "smoothed": lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1),
    "sum": lambda o, t: F.cross_entropy(o, t, reduction="sum") / len(t),
    "chosen": lambda o, t: F.cross_entropy(o.movedim(1, 3)[t >= 0], t[t >= 0]),
    "masked": masked,
    "coarse": lambda o, t: F.cross_entropy(F.avg_pool2d(o, 2), t[:, ::2, ::2]),
    "in place": lambda o, t: F.cross_entropy(o.mul_(2), t),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", [*LEARN, *IGNORE])
def test_a_label_that_nobody_named(name, seed):
    """Who trains on it is refused, who ignores it trains as if it were named."""
    torch.manual_seed(seed)
    net, options = Dense(), {**OPTIONS, "seed": seed}
    images, masks = torch.rand(4, 3, 12, 18), torch.randint(2, (4, 12, 18))
    call = {**LEARN, **IGNORE}[name]
    attachment = attach(net, call, **options)
    if name in LEARN:
        with pytest.raises(ValueError, match="nobody named it: give ignore_index="):
            attachment.criterion(net(images), masks)
    else:
        state = torch.get_rng_state()
        total = attachment.criterion(net(images), masks)
        total.backward()
        found = [p.grad.clone() for p in net.parameters()]
        assert torch.equal(torch.get_rng_state(), state)
    attachment.remove()
    net.zero_grad()
    attachment = attach(net, call, ignore_index=-100, **options)
    again = attachment.criterion(net(images), masks)
    again.backward()
    if name in IGNORE:
        assert torch.equal(total, again)
        grads = [p.grad for p in net.parameters()]
        assert all(map(torch.equal, found, grads))


def test_a_label_that_no_criterion_is_seen_to_ignore():
    """The explicit form, and a network's own loss; flips show nothing outside."""
    images, masks = batch_of()
    flips = {**OPTIONS, "scheme": Scheme.light(translation=0.0, flip=1.0)}
    refused = pytest.raises(ValueError, match="nobody named it: give ignore_index=")
    with DataAugmentationInvariance(Dense(), **OPTIONS) as dai, refused:
        dai.views(images, masks)
    with attach(net := Own(), **OPTIONS), refused:
        net(images, labels=masks)
    with DataAugmentationInvariance(Dense(), **flips) as dai:
        assert torch.equal(dai.views(images, masks)[1][4:8], masks.flip(2))
    with attach(net := Own(), **flips):
        net(images, labels=masks)["loss"].backward()


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_targets_of_a_share_of_the_images(first_view):
    """Further views of the first two images have these two's masks, moved with them."""
    images, masks = batch_of()
    net, options = Dense(), {**OPTIONS, "share": 0.5, "ignore_index": -100}
    dai = DataAugmentationInvariance(net, first_view=first_view, **options)
    rows, targets = dai.views(images, masks)
    dai.remove()
    seed = mix_seed(7, 0, 0)
    blocks = [(2, 2, seed)]
    if first_view == "augmented":
        blocks = [(1, 4, seed), (2, 2, mix_seed(seed, 1))]
    expected = [masks] if first_view == "clean" else []
    for views, count, own in blocks:
        made = Views(views, images[:count].shape, own, images.device)
        motion = motion_of(Scheme(), made)
        expected.append(move(masks[:count], "mask", motion, -100))
    assert len(rows) == len(targets) == 8
    assert torch.equal(targets, torch.cat(expected))


@pytest.mark.parametrize("options", [{"share": 0.5}, {"every": 2}], ids=str)
def test_the_gradient_with_views_of_some(options):
    """`check` compares it with the literal one, each view with its own masks."""
    found = check(Dense(), nn.CrossEntropyLoss(), batch_of(), **OPTIONS, **options)
    assert found.ok, str(found)


@pytest.mark.parametrize("heads", [False, True])
def test_check_says_how_targets_follow(heads):
    """And its literal gradient takes each view's own target."""
    images, masks = batch_of()
    net = Dense(heads=heads)

    def criterion(output, targets):
        output = output["out"] if heads else output
        mask, label = targets
        return F.cross_entropy(output, mask) + output.mean((2, 3))[0, label[0]]

    batch = images, (masks, masks[:, 0, 0])
    found = check(net, criterion, batch, ignore_index=-100, **OPTIONS)
    assert found.ok, str(found)
    how = found.targets["target[0]"]
    assert how == "[2, 14, 20] mask, moves: nearest pixel, -100 outside the image"
    assert found.targets["target[1]"] == "[2] as it is, for each view"
    assert "targets    target[0] [2, 14, 20] mask, moves" in str(found)


NOTICES = {
    "heavier": (lambda: "heavier", "masks with them; other positions in the targets"),
    "named": (lambda: "randaugment", "does not tell where to"),
    "pixels that move later": (
        lambda: Scheme() + K.RandomHorizontalFlip(), "does not tell where to"),
    "the first version's": (
        lambda: transforms.RandomRotation(20), "does not tell where to"),
    "torchvision's policies": (lambda: v2.RandAugment(), "does not tell where to"),
    "bent": (lambda: K.RandomElasticTransform(p=1.0),
             r"masks with them; other positions .* are refused"),
    "torchvision": (PIPELINES["torchvision"],
                    r"masks with them; other positions .* are refused"),
    "kornia": (PIPELINES["kornia"], "masks with them; other positions in the targets"),
    "photometric": (lambda: "photometric", None),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Default grid_sample")  # kornia's own
@pytest.mark.parametrize("name", NOTICES)
def test_the_notice_says_what_follows(name, caplog):
    """As the same run then moves or refuses masks."""
    build, told = NOTICES[name]
    net, (images, masks) = Dense(), batch_of()
    _, criterion = attach(net, nn.CrossEntropyLoss(), scheme=build(), **OPTIONS)
    output = net(images)
    found = re.search(r"pixels move, .*", caplog.text)
    assert bool(found) == bool(told)
    assert told is None or re.search(told, found[0])
    if told and "does not tell" in told:
        with pytest.raises(ValueError, match="moves them without telling where to"):
            criterion(output, masks)
    else:
        criterion(output, masks).backward()


def test_the_notice_names_what_was_told(caplog):
    """Kinds beside masks."""
    net, (images, _) = Places((5, 2)), batch_of()
    attach(net, nn.MSELoss(), targets="keypoints", **OPTIONS)
    net(images)
    assert "pixels move, and masks and keypoints with them" in caplog.text


def test_check_of_a_network_with_its_own_loss():
    """Arguments are named."""
    images, masks = batch_of()
    batch = {"pixel_values": images, "labels": masks}
    found = check(Own(), None, batch, ignore_index=-100, **OPTIONS)
    assert found.ok, str(found)
    assert found.targets["labels"].startswith("[2, 14, 20] mask, moves: nearest pixel")


def test_settings_of_targets():
    """Words and numbers that JSON holds; others are refused."""
    with pytest.raises(ValueError, match="targets is None or 'mask' or 'heatmap'"):
        attach(Dense(), nn.CrossEntropyLoss(), targets="masks")
    for wrong in (True, 0.5, "255"):
        with pytest.raises(TypeError, match="ignore_index must be an int or None"):
            attach(Dense(), nn.CrossEntropyLoss(), ignore_index=wrong)


def test_the_snippet_of_the_documentation():
    """It runs as it stands, and gradients arrive."""
    text = (REFERENCE.parent / "docs" / "targets.md").read_text()
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], names)
    assert all(p.grad is not None for p in names["net"].parameters())
    assert attached(names["net"]).stats()["criterion_calls"] == 1


@pytest.fixture
def segmentation(monkeypatch):
    """The reference script as a module."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    import segmentation

    return segmentation


def test_torchvisions_reference(segmentation):
    """Its criterion on two outputs, its network, shapes: literal task, falling loss."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images, masks = segmentation.pictures(6, 48, generator)
    net, views = segmentation.network(), 2
    seed, motion = motion_at(0, images, Scheme(), views - 1)
    rows = expand(images, views, Scheme(), first_view="clean",
                  normalization=Normalization(), seed=seed)  # fmt: skip
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(2)  # of the dropout
    output = {name: out.split(6) for name, out in net(rows).items()}
    own = masks, move(masks, "mask", motion, 255)
    expected = [
        segmentation.criterion({n: out[v] for n, out in output.items()}, own[v])
        for v in range(views)
    ]
    net.load_state_dict(state)
    _, criterion = attach(net, segmentation.criterion, ignore_index=255, **PLAIN)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(2)
        loss = criterion(net(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(attached(net).stats()["task_loss"])
    attached(net).remove()
    assert losses[0] == pytest.approx(sum(expected).item() / views, rel=1e-5)
    assert min(losses[-3:]) < 0.8 * losses[0]
