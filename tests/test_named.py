"""Named schemes: every row draws its own, from the step's numbers alone."""

import math
import random

import numpy as np
import pytest
import torch
from conftest import SmallNet
from torchvision.transforms import v2

from dai_plugin import (
    AugMix,
    AutoAugment,
    DataAugmentationInvariance,
    RandAugment,
    Scheme,
    Settings,
    SimCLR,
    TrivialAugment,
    attach,
)
from dai_plugin.views import named, policies
from dai_plugin.views.expand import expand
from dai_plugin.views.named import NAMED
from dai_plugin.views.normalization import PRESETS, Normalization
from dai_plugin.views.schemes import find_scheme, moves_pixels

PIXELS = Normalization()


def rows_of(images, scheme, num_views=2, seed=0, known=PIXELS, **options):
    return expand(
        images, num_views, find_scheme(scheme), first_view="augmented",
        normalization=known, seed=seed, **options,
    )  # fmt: skip


def smooth(rows, side=16):
    coarse = torch.rand(rows, 3, 4, 4)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


@pytest.mark.parametrize("name", NAMED)
def test_a_name_stands_for_its_class(name):
    """Of the usual strengths; all of them move pixels."""
    assert find_scheme(name) == NAMED[name]()
    assert moves_pixels(find_scheme(name))


def streams():
    """The states of the global streams of torch, Python and NumPy."""
    legacy = np.random.get_state()[1]  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), legacy.tolist()


@pytest.mark.parametrize("name", NAMED)
def test_the_seed_alone_decides(name):
    """Equal for equal seeds, whatever the global streams do, and without a trace."""
    images = smooth(6)
    before = streams()
    first = rows_of(images, name, seed=3)
    assert streams() == before
    torch.manual_seed(99)
    assert torch.equal(first, rows_of(images, name, seed=3))
    assert not torch.equal(first, rows_of(images, name, seed=4))


@pytest.fixture
def default():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["heavier", *NAMED])
def test_torchs_default_dtype_is_no_matter(default, name, dtype):
    """The same views, whatever it is."""
    images = smooth(16)
    first = rows_of(images, name, num_views=4, seed=3)
    default(dtype)
    again = rows_of(images, name, num_views=4, seed=3)
    assert torch.equal(again, first)


@pytest.mark.parametrize("name", NAMED)
def test_every_row_draws_its_own(name):
    """One image many times over gives many images."""
    rows = rows_of(smooth(1).repeat(16, 1, 1, 1), name, 2)
    # Some operations do nothing to a smooth image.
    assert len({tuple(row.flatten().tolist()) for row in rows}) > 10


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    "known", [PIXELS, Normalization.given(*PRESETS[3]["ImageNet"])]
)
def test_pixels_stay_pixels(name, known):
    """In [0, 1] behind the images' normalisation, finite, of the same kind."""
    mean, std = known.tensors(torch.zeros(1, 3, 1, 1))
    images = ((smooth(8) - mean) / std).to(memory_format=torch.channels_last)
    kept = images.clone()
    rows = rows_of(images, name, 3, known=known, check=True)
    assert torch.equal(images, kept)
    pixels = rows * std + mean
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    assert rows.is_contiguous(memory_format=torch.channels_last)
    half = rows_of(images.half(), name, 3, known=known)
    assert half.dtype == torch.float16


OUTSIDE = {
    "none": (0.0, 1.0, lambda x: 3 * x - 1.5),
    "misfit": (0.5, 0.25, lambda x: 8 * x - 4),
    "guessed": (None, None, lambda x: 12 * x - 6),
    "raw": (0.0, 1.0, lambda x: 255 * x),
}


@pytest.mark.parametrize("late", [0, 2])
@pytest.mark.parametrize("name", [*NAMED, "sum", "heavier"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_a_named_scheme_clips_is_told(caplog, kind, name, late):
    """Once, in any of the first three batches; of what is not clipped nothing is."""
    mean, std, spread = OUTSIDE[kind]
    scheme = Scheme.light() + RandAugment() if name == "sum" else name
    fits = torch.rand(4, 3, 8, 8)
    if kind == "guessed":
        fits = spread(fits)
    dai = DataAugmentationInvariance(SmallNet(), scheme=scheme, mean=mean, std=std)
    for number in range(3):
        dai.views(spread(torch.rand(4, 3, 8, 8)) if number >= late else fits)
    told = caplog.text.count("the scheme clips its views to [0, 1]: what lies outside")
    assert told == (name != "heavier")
    assert name == "heavier" or "range of each batch instead" not in caplog.text
    dai.remove()


@pytest.mark.parametrize("name", NAMED)
def test_pixels_that_fit_are_not_told_of(caplog, name):
    """Nor is a little overshoot."""
    for mean, std in ((0.0, 1.0), PRESETS[3]["ImageNet"]):
        known = Normalization.given(mean, std)
        net = SmallNet()
        dai = DataAugmentationInvariance(net, scheme=name, mean=mean, std=std)
        shift, scale = known.tensors(torch.rand(1, 3, 1, 1))
        for _ in range(3):
            dai.views((torch.rand(4, 3, 8, 8) * 1.02 - 0.01 - shift) / scale)
        dai.remove()
    assert "clips" not in caplog.text


@pytest.mark.parametrize("name", NAMED)
def test_gradients_reach_the_images(name):
    """Adversarial images are trained through their views."""
    images = smooth(8).requires_grad_()
    rows_of(images, name, 2).square().sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0


def chosen(monkeypatch, scheme, rows=2000):
    """The operations and levels that a scheme asks for, call by call."""
    calls = []
    for file in (named, policies):
        monkeypatch.setattr(
            file, "perform_", lambda _, names, levels, s: calls.append((names, levels))
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scheme(torch.zeros(rows, 3, 2, 2))
    return calls


def near(count, total, probability):
    """Whether a frequency lies within five standard deviations."""
    spread = math.sqrt(total * probability * (1 - probability))
    return abs(count - total * probability) <= 5 * spread + 1e-9


SPACE = {"TranslateX": "translate_x", "TranslateY": "translate_y", "ShearX": "shear_x",
         "ShearY": "shear_y", "AutoContrast": "auto_contrast"}  # fmt: skip


def operations(space):
    return {SPACE.get(name, name.lower()) for name in space}


@pytest.mark.parametrize(
    ("scheme", "theirs"),
    [
        (RandAugment(), v2.RandAugment),
        (TrivialAugment(), v2.TrivialAugmentWide),
    ],
    ids=str,
)
def test_operations_are_torchvisions_each_as_often(monkeypatch, scheme, theirs):
    """Uniformly drawn from the same list, with either sign."""
    for names, levels in chosen(monkeypatch, scheme):
        space = operations(theirs._AUGMENTATION_SPACE)
        assert set(names) == space
        for name in space:
            assert near(names.count(name), len(names), 1 / len(space))
        assert near((levels > 0).sum().item(), (levels != 0).sum().item(), 0.5)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [(RandAugment, v2.RandAugment), (TrivialAugment, v2.TrivialAugmentWide),
     (AutoAugment, v2.AutoAugment)],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ranges_are_torchvisions(kind, theirs, share):
    """What a level means, from nothing to all, at 31 steps."""
    s, step = kind.strengths, round(share * 30)
    level = step / 30
    side = 64

    def theirs_at(name):
        return float(theirs._AUGMENTATION_SPACE[name][0](31, side, side)[step])

    assert theirs_at("ShearX") == pytest.approx(s.shear * level)
    shift = (s.translation * side + s.pixels) * level
    assert theirs_at("TranslateY") == pytest.approx(shift)
    assert theirs_at("Rotate") == pytest.approx(s.rotation * level)
    assert theirs_at("Color") == pytest.approx(s.colour * level)
    assert theirs_at("Solarize") == pytest.approx(1 - level)
    assert theirs_at("Posterize") == s._bits(level)


def test_magnitudes(monkeypatch):
    """RandAugment has one for all, TrivialAugment any, as often as any other."""
    for _, levels in chosen(monkeypatch, RandAugment(3, 12, 25)):
        assert set(levels.tolist()) == {0.5, -0.5}
    assert len(chosen(monkeypatch, RandAugment(3, 12, 25))) == 3
    ((_, levels),) = chosen(monkeypatch, TrivialAugment(11))
    counts = [(levels.abs() * 10).round().eq(k).sum().item() for k in range(11)]
    assert all(near(count, 2000, 1 / 11) for count in counts)


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_policies_are_torchvisions(policy):
    """25 pairs with their probabilities and magnitudes."""
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy(policy))._policies
    expected = [
        [(SPACE.get(n, n.lower()), p, (m or 0) / 9) for n, p, m in pair]
        for pair in theirs
    ]
    assert policies._policies(policy) == expected


def test_an_operation_of_a_policy_is_applied_as_often_as_it_says(monkeypatch):
    """Half of the rows, of a policy of one pair."""
    pair = [("invert", 0.5, 0.0), ("rotate", 1.0, 1 / 3)]
    monkeypatch.setattr(policies, "_policies", lambda _: [pair])
    first, second = chosen(monkeypatch, AutoAugment())
    assert near(first[0].count("invert"), 2000, 0.5)
    assert first[0].count("invert") + first[0].count("identity") == 2000
    assert set(second[0]) == {"rotate"}
    torch.testing.assert_close(second[1].abs(), torch.full((2000,), 1 / 3))


@pytest.mark.parametrize("all_ops", [False, True])
def test_augmix_chains(monkeypatch, all_ops):
    """Of one to three operations, at magnitudes up to the severity."""
    calls = chosen(monkeypatch, AugMix(severity=4.0, width=2, all_ops=all_ops), 3000)
    assert len(calls) == 3
    space = v2.AugMix._AUGMENTATION_SPACE
    space = operations(space if all_ops else v2.AugMix._PARTIAL_AUGMENTATION_SPACE)
    assert set(calls[0][0]) == space
    for step, (names, levels) in enumerate(calls):
        active = [name != "identity" for name in names]
        assert near(sum(active), 6000, 1 - step / 3)
        assert levels.abs().min() >= 0.01
        assert 0.39 < levels.abs().max() <= 0.4
    depths = chosen(monkeypatch, AugMix(depth=4))
    assert len(depths) == 4
    assert all("identity" not in names for names, _ in depths)


def test_augmix_mixes_by_drawn_weights(monkeypatch):
    """Chains of zeros and an image of ones leave the Beta weight, uniform here."""
    monkeypatch.setattr(named, "perform_", lambda rows, *_: rows.zero_())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = AugMix()(torch.ones(4000, 1, 1, 2))
    weights = rows[:, 0, 0, 0].sort().values
    assert torch.equal(rows[..., 0], rows[..., 1])
    assert (weights - torch.linspace(0, 1, 4000)).abs().max() < 0.04


def test_augmix_weights_sum_to_one(monkeypatch):
    """Chains that change nothing leave the image."""
    monkeypatch.setattr(named, "perform_", lambda *_: None)
    images = smooth(8)
    torch.testing.assert_close(AugMix(width=4)(images), images, atol=1e-6, rtol=0)


def test_simclr_crops_as_torchvision():
    """Areas and ratios of boxes as `RandomResizedCrop` draws them, within the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maps = SimCLR(crop=0.2)._crops(4000, 40, 60)
        theirs = [
            v2.RandomResizedCrop(8, (0.2, 1.0)).make_params([torch.empty(3, 40, 60)])
            for _ in range(4000)
        ]
    width, height = maps[:, 0, 0].abs(), maps[:, 1, 1]
    assert (maps[:, 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (maps[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    for ours, other in (
        (width * height, [p["width"] * p["height"] / 2400 for p in theirs]),
        (width * 60 / height / 40, [p["width"] / p["height"] for p in theirs]),
    ):
        levels = torch.linspace(0.05, 0.95, 10)
        difference = ours.quantile(levels) - torch.tensor(other).quantile(levels)
        assert difference.abs().max() < 0.04
    assert near((maps[:, 0, 0] < 0).sum().item(), 4000, 0.5)


def test_simclr_changes_colours_in_an_order_of_each_row(monkeypatch):
    """Four of 24 orders, colours for 80 %, grey for 20 and blur for 50 %."""
    calls = chosen(monkeypatch, SimCLR(), 4000)
    *colours, grey, blur = [names for names, _ in calls]
    orders = [order for order in zip(*colours, strict=True) if "identity" not in order]
    assert near(len(orders), 4000, 0.8)
    assert len(set(orders)) == 24
    assert near(grey.count("grey"), 4000, 0.2)
    assert near(blur.count("blur"), 4000, 0.5)


def test_simclr_without_anything_is_the_image():
    """All of the area, and no probability."""
    images = smooth(4)
    still = SimCLR(crop=1.0, ratio=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
    torch.testing.assert_close(still(images), images, atol=1e-6, rtol=0)
    mirrored = SimCLR(crop=1.0, ratio=1.0, flip=1.0, jitter=0.0, grey=0.0, blur=0.0)
    torch.testing.assert_close(mirrored(images), images.flip(3), atol=1e-6, rtol=0)


SHOWN = {
    RandAugment(2, 9): "2 of 14 operations a row, shear +-0.09, translation +-0.136 of "
    "the side, rotation +-9 deg, colours 1 +-0.27, posterize to 7 bits",
    TrivialAugment(): "translation +-0 to 32 pixels, rotation +-0 to 135 deg",
    AutoAugment("svhn"): "(svhn): 1 of 25 pairs a row, shear +-0 to 0.3",
    AugMix(severity=1): "3 chains a row of 1 to 3 of 9 operations, alpha 1",
    SimCLR(strength=0.5): "brightness, contrast, saturation 1 +-0.4, hue +-0.1",
}


@pytest.mark.parametrize("scheme", SHOWN, ids=repr)
def test_a_scheme_prints_its_ranges(scheme):
    """As the notice of the first step shows them."""
    assert SHOWN[scheme] in str(scheme)


WRONG = {
    "ops": (
        lambda: RandAugment(num_ops=0),
        "num_ops of RandAugment must be at least 1",
    ),
    "magnitude": (lambda: RandAugment(magnitude=31), "must be from 0 to 30, got 31"),
    "bins": (lambda: TrivialAugment(1), "num_magnitude_bins of TrivialAugment must be"),
    "policy": (lambda: AutoAugment("mnist"), "unknown policy 'mnist': take imagenet"),
    "severity": (lambda: AugMix(severity=11), "severity of AugMix must be from 0.1"),
    "width": (lambda: AugMix(width=0), "width of AugMix must be at least 1, got 0"),
    "depth": (lambda: AugMix(depth=0), "depth of AugMix must be at least 1, got 0"),
    "alpha": (lambda: AugMix(alpha=0), "alpha must be positive, got 0"),
    "flip": (lambda: SimCLR(flip=1.5), "flip of SimCLR must be from 0 to 1, got 1.5"),
    "crop": (lambda: SimCLR(crop=0.0), "crop of SimCLR must be from 0.001 to 1"),
    "sigma": (lambda: SimCLR(sigma=(2.0, 1.0)), "sigma is two numbers 0 < least"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_strengths_are_refused(name):
    """The message says what was received and what holds."""
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()


def test_an_unknown_word_lists_what_there_is():
    """Every name."""
    with pytest.raises(ValueError, match="unknown scheme 'heavy'") as error:
        find_scheme("heavy")
    for name in ("light", "heavier", "photometric", "halved", "given", *NAMED):
        assert name in str(error.value)


@pytest.mark.parametrize("name", NAMED)
def test_two_ways_of_training_see_the_same_views(net, batch, name):
    """The explicit form and attach, of the same seed."""
    images, targets = batch
    dai = DataAugmentationInvariance(
        net, scheme=name, seed=5, first_view="clean", mean=0.0, std=1.0
    )
    rows, _ = dai.views(images, targets)
    dai.loss(net(rows).sum()).backward()
    dai.remove()
    seen = []
    with attach(
        net, torch.nn.CrossEntropyLoss(), scheme=name, seed=5, mean=0.0, std=1.0
    ):
        handle = net.features[0].register_forward_pre_hook(
            lambda _, args: seen.append(args[0].detach().clone())
        )
        net(images)
        handle.remove()
    assert torch.equal(seen[0], rows)
    assert torch.equal(rows[: len(images)], images)


def test_settings_name_the_scheme():
    """And restore it from JSON."""
    plain = Settings(scheme=SimCLR(flip=0.0)).to_json()
    assert plain["scheme"]["scheme"]["name"] == "simclr"
    assert plain["scheme"]["scheme"]["sigma"] == [0.1, 2.0]
    assert Settings.from_json(plain).scheme == SimCLR(flip=0.0)
