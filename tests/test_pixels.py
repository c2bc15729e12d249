"""The normalisation that images carry: guessed, configured or given, and checked."""

import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from dai_plugin import Scheme
from dai_plugin.views.expand import expand
from dai_plugin.views.normalization import (
    PRESETS,
    Normalization,
    channel_ranges,
    from_batch,
)
from dai_plugin.views.pixels import Pixels
from dai_plugin.views.warp import bounds, clip, clip_, widened

IMAGENET = PRESETS[3]["ImageNet"]
# Colours change by next to nothing: what is clipped shows.
FAINT = Scheme.photometric(contrast=1e-6, brightness=0.0)
MISFIT = "outside [0, 1]. It is kept, and views are clipped to the range of each batch"


def alone(compute, device):
    """One process."""
    return compute()


def configured(mean, std):
    """A network with timm's way of saying what it was trained on."""
    model = nn.Identity()
    model.default_cfg = {"mean": mean, "std": std}
    return model


def random_pixels(*shape, low=0.0, high=1.0):
    """From low to high, both of them there in every channel."""
    images = torch.rand(*shape) * (high - low) + low
    images[..., 0, 0], images[..., 0, 1] = low, high
    return images


def carrying(pixels, mean, std):
    mean, std = Normalization.given(mean, std).tensors(pixels)
    return (pixels - mean) / std


def settle(batches, model=None, mean=None, std=None):
    pixels = Pixels(model or nn.Identity(), mean, std)
    for images in batches:
        pixels.settle(images, alone)
    return pixels


def view(images, normalization, scheme=FAINT, seed=0):
    return expand(images, 1, scheme, first_view="augmented",
                  normalization=normalization, seed=seed)  # fmt: skip


def same(first, mean, std):
    other = Normalization.given(mean, std)
    return (first.mean, first.std) == (other.mean, other.std)


def kept(images, normalization):
    """Whether a view with all but no change of colour is the images."""
    changed = view(images, normalization) - images
    return changed.abs().max().item() < 1e-4 * images.abs().max().clamp(min=1).item()


@pytest.mark.parametrize("name", PRESETS[3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_preset_is_recognised(name, dtype, caplog):
    """Images that reach black and white in each channel, with one warning."""
    images = carrying(random_pixels(6, 3, 9, 7), *PRESETS[3][name]).to(dtype)
    pixels = settle([images, images, images])
    assert same(pixels.known, *PRESETS[3][name])
    assert len(caplog.records) == 1
    assert "mean and std were not given; normalisation taken" in caplog.text


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", ["binary", "dark", "bright", "uniform"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_cubic_resampling_of_pixels_is_no_normalisation(kind, channels, antialias):
    """Overshoot of [0, 1] is taken for none, and stays in the views."""
    images = torch.rand(8, channels, 20, 24)
    images = {"binary": (images > 0.5).float(), "dark": images * 0.7,
              "bright": images * 0.7 + 0.3, "uniform": images}[kind]  # fmt: skip
    images = functional.resize(
        images, [31, 33], interpolation=InterpolationMode.BICUBIC, antialias=antialias
    )
    known = settle([images]).known
    assert known.none
    assert kept(images, known)


@pytest.mark.parametrize("first", [(0.1, 0.9), (0.5, 1.0), (0.4, 0.6)], ids=str)
@pytest.mark.parametrize("name", PRESETS[3])
def test_an_untypical_first_batch_is_corrected(name, first, caplog):
    """A batch of little contrast misleads; the next one is named, and its fit taken."""
    dull = carrying(random_pixels(2, 3, 8, 8, low=first[0], high=first[1]),
                    *PRESETS[3][name])  # fmt: skip
    whole = carrying(random_pixels(2, 3, 8, 8), *PRESETS[3][name])
    pixels = Pixels(nn.Identity(), None, None)
    pixels.settle(dull, alone)
    misled = not same(pixels.known, *PRESETS[3][name])
    pixels.settle(whole, alone)
    assert same(pixels.known, *PRESETS[3][name])
    assert ("batch 2, of 3 channels" in caplog.text) == misled
    assert len(caplog.records) == 1 + misled


@pytest.mark.parametrize("low", [0.0, -0.2, 0.3])
def test_a_batch_beyond_the_guess_is_never_clipped(low):
    """Neither a checked batch nor any later one, whatever was guessed first."""
    pixels = Pixels(nn.Identity(), None, None)
    for reach in (0.0, 0.0, 1.0, 3.0, 9.0):
        images = random_pixels(3, 3, 6, 5, low=low - reach, high=1 + reach)
        pixels.settle(images, alone)
        assert kept(images, pixels.known)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_later_batch_that_fits_nothing_is_told(channels, caplog):
    """The run goes on with what was guessed, unclipped; 0 to 255 is refused still."""
    raw = random_pixels(3, channels, 6, 5)
    strange = random_pixels(3, channels, 6, 5, low=-7.0, high=9.0)
    pixels = settle([raw, strange, strange])
    assert pixels.known.none
    assert kept(strange, pixels.known)
    told = [MISFIT in record.getMessage() for record in caplog.records]
    assert told == [False, True]
    with pytest.raises(ValueError, match="look like 0 to 255"):
        settle([raw, raw * 255])


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["black", "white"])
@pytest.mark.parametrize("name", PRESETS[3])
def test_pixels_at_the_ends_stay_there(name, value):
    """Rounding by the normalisation is no reason to widen the clip."""
    images = carrying(torch.full((2, 3, 4, 4), value), *PRESETS[3][name])
    known = Normalization.given(*PRESETS[3][name])
    brighter = Scheme.photometric(contrast=0.0, brightness=0.5)
    mean, std = known.tensors(images)
    for dtype in (torch.float32, torch.bfloat16):
        changed = view(images.to(dtype), known, brighter) * std + mean
        assert changed.min() > -0.01
        assert changed.max() < 1.01


@pytest.mark.parametrize("name", ["none", *PRESETS[3]])
@pytest.mark.parametrize("reach", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bounds_on_an_accelerator_are_those_of_the_processor(name, reach, dtype):
    """Tensors, which need not be waited for, clip as numbers do."""
    known = Normalization.given(*({"none": (0.0, 1.0)} | PRESETS[3])[name])
    pixels = random_pixels(2, 3, 5, 4, low=-reach, high=1 + reach)
    images = carrying(pixels, known.mean, known.std)
    slack = 0.0 if known.none else 0.01
    low, high = known.pixels(channel_ranges(images))
    tensors = widened(torch.tensor(low), torch.tensor(high), known, 3, slack)
    views = (torch.randn(2, 2, 3, 5, 4) * 5).to(dtype)
    expected = clip_(views.clone(), bounds(images, known))
    tolerance = 0.008 if reach and dtype == torch.bfloat16 else 1e-5 * bool(reach)
    for clipped in (clip_(views.clone(), tensors), clip(views, tensors)):
        torch.testing.assert_close(clipped, expected, atol=0, rtol=tolerance)
    assert torch.equal(clip(views, bounds(images, known)), expected)


@pytest.mark.parametrize(
    ("low", "high"), [(-3, 5), (0, 255), (-0.1, 1), (0, 1), (2, 3)]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mean_0_std_1_follows_the_formula_between_the_ends_of_the_batch(
    low, high, channels
):
    """Contrast and brightness, clipped to [0, 1] and what the batch holds beyond."""
    images = random_pixels(3, channels, 5, 6, low=low, high=high)
    scheme = Scheme.photometric(brightness=0.4)
    got = expand(images, 2, scheme, first_view="augmented",
                 normalization=Normalization.given(0.0, 1.0), seed=3)  # fmt: skip
    drawn = scheme.draw(6, generator=torch.Generator().manual_seed(3))
    for row in range(6):
        image = images[row % 3].double()
        mean = image.mean((1, 2), keepdim=True)
        expected = drawn["contrast"][row].double() * (image - mean) + mean
        expected = (expected + drawn["brightness"][row].double()).clamp(
            min(0.0, images.min().item()), max(1.0, images.max().item())
        )
        error = oracle_error(got[row], expected)
        assert error < 2e-6


def oracle_error(got, expected):
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("low", "high"), [(-3, 5), (-1, 1), (-0.3, 1.3)])
def test_mean_0_std_1_is_never_questioned(low, high, caplog):
    """What was asked for is done."""
    pixels = settle([random_pixels(2, 3, 4, 4, low=low, high=high)] * 3, None, 0.0, 1.0)
    assert same(pixels.known, 0.0, 1.0)
    assert not caplog.records


def test_mean_0_std_1_on_0_to_255_is_told(caplog):
    """Brightness changes would be next to nothing."""
    settle([random_pixels(2, 3, 4, 4, high=255.0)] * 3, None, 0.0, 1.0)
    assert "came with mean=0, std=1: they stay unclipped" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("given", "carried"),
    [
        ((0.5, 0.5), IMAGENET),
        ((0.5, 0.25), (0.0, 1 / 255)),
        (PRESETS[3]["CIFAR-100"], IMAGENET),
        (PRESETS[3]["CIFAR-10"], PRESETS[3]["CIFAR-10, image by image"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("late", [0, 2])
def test_a_given_normalisation_that_does_not_fit_is_kept_and_told(
    given, carried, late, caplog
):
    """One warning with the values, at the first batch that shows it; no clipping."""
    images = carrying(random_pixels(4, 3, 6, 8), *carried)
    fitting = carrying(random_pixels(4, 3, 6, 8), *given)
    batches = [*[fitting] * late, images, images, images][:3]
    pixels = settle(batches, None, *given)
    assert same(pixels.known, *given)
    assert [MISFIT in record.getMessage() for record in caplog.records] == [True]
    assert f"{images.min().item():.4g} to" in caplog.text
    assert kept(images, pixels.known)


def test_a_configured_normalisation_that_fits_is_taken_silently(caplog):
    """Timm's configuration, float images and uint8."""
    for images in (
        carrying(random_pixels(4, 3, 6, 8), *IMAGENET),
        torch.randint(256, (4, 3, 6, 8), dtype=torch.uint8),
    ):
        assert same(settle([images] * 3, configured(*IMAGENET)).known, *IMAGENET)
    assert not caplog.records


@pytest.mark.parametrize(
    ("config", "carried", "reason"),
    [
        (IMAGENET, (0.0, 1.0), "(raw [0, 1] pixels, it seems), cannot carry mean"),
        ((0.5, 0.5), (0.0, 1.0), "(raw [0, 1] pixels, it seems), cannot carry mean"),
        ((0.5, 0.5), IMAGENET, "the model's default_cfg); normalisation taken: mean"),
        (IMAGENET, PRESETS[3]["CIFAR-10, image by image"], "cannot carry mean"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_a_configured_normalisation_gives_way(config, carried, reason, shift, caplog):
    """Raw images, or those of another network: what fits is taken, in one warning."""
    pixels = random_pixels(4, 3, 6, 8, low=shift if carried == (0.0, 1.0) else 0.0)
    found = settle([carrying(pixels, *carried)] * 3, configured(*config)).known
    assert same(found, *carried)
    assert [reason in record.getMessage() for record in caplog.records] == [True]


def test_a_configuration_comes_back_when_the_next_batch_shows_it(caplog):
    """A first batch of little contrast looks raw."""
    dull = carrying(random_pixels(2, 3, 4, 4, low=0.55, high=0.7), *IMAGENET)
    whole = carrying(random_pixels(2, 3, 4, 4), *IMAGENET)
    assert same(settle([dull, whole], configured(*IMAGENET)).known, *IMAGENET)
    assert len(caplog.records) == 2


def test_a_configuration_of_other_channels_gives_way():
    """`in_chans=1` leaves timm's three values in the configuration."""
    found = settle([random_pixels(4, 1, 6, 8)], configured(*IMAGENET)).known
    assert found.none


def test_values_that_fit_nothing_keep_the_configuration_or_are_refused(caplog):
    """Outliers are told; other channels and 0 to 255 raise."""
    images = torch.randn(4, 3, 8, 8) * 4
    found = settle([images] * 3, configured(*IMAGENET)).known
    assert same(found, *IMAGENET)
    assert [MISFIT in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(ValueError, match=r"std=1.0 leaves the values as they are, unc"):
        settle([torch.randn(4, 5, 8, 8) * 4], configured(*IMAGENET))
    for model in (configured(*IMAGENET), nn.Identity()):
        for low in (0, -20):
            with pytest.raises(ValueError, match="look like 0 to 255: divide them"):
                settle([random_pixels(2, 3, 4, 4, low=low, high=255)], model)


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool,
            torch.complex64]  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("given", [(None, None), (0.0, 1.0), (0.5, 0.5)], ids=str)
def test_only_uint8_is_scaled(dtype, given):
    """Other integers, bool and complex images are refused with advice."""
    images = torch.ones(2, 3, 4, 4).to(dtype)
    with pytest.raises(ValueError, match=r"which alone is scaled .* convert them: "):
        settle([images], None, *given)
    with pytest.raises(ValueError, match="convert them: "):
        Normalization().prepare(images)
    with pytest.raises(ValueError, match="convert them: "):
        from_batch(images)


def test_uint8_is_scaled_and_normalised():
    """By 255, then by what holds."""
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(settle([images]).prepare(images), images / 255)
    prepared = settle([images], None, *IMAGENET).prepare(images)
    torch.testing.assert_close(prepared, carrying(images / 255, *IMAGENET))


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((2, 3, 0, 4), "0 lines"),
        ((2, 3, 4, 0), "0 columns"),
        ((2, 0, 4, 4), "0 channels"),
        ((0, 3, 4, 4), "0 images"),
    ],
)
def test_images_without_pixels_are_refused(shape, what):
    """By name, in the check and in the views."""
    images = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"have {what}, so that there is no pixel"):
        settle([images])
    with pytest.raises(ValueError, match=f"have {what}"):
        view(images, Normalization())
    with pytest.raises(ValueError, match="views are made of"):
        settle([torch.zeros(2, 3, 4)])


def test_the_first_rank_decides_once():
    """The first batch alone is shared; after three batches nothing is looked at."""
    shared = []

    def share(compute, device):
        shared.append(device.type)
        return Normalization.given(*IMAGENET)  # what the first rank found

    pixels = Pixels(nn.Identity(), None, None)
    for reach in (1.0, 1.0, 1.0, 50.0):
        pixels.settle(random_pixels(2, 3, 4, 4, low=-reach, high=reach), share)
        assert same(pixels.known, *IMAGENET)
    assert shared == ["cpu"]


def test_a_batch_that_was_refused_decides_nothing():
    """The next one is the first."""
    pixels = Pixels(nn.Identity(), None, None)
    with pytest.raises(ValueError, match="0 to 255"):
        pixels.settle(random_pixels(2, 3, 4, 4, high=255.0), alone)
    assert pixels.known is None
    pixels.settle(carrying(random_pixels(2, 3, 4, 4), 0.5, 0.5), alone)
    assert same(pixels.known, 0.5, 0.5)


def test_what_was_restored_stays(caplog):
    """A checkpoint's normalisation is questioned, never changed."""
    pixels = Pixels(configured(*IMAGENET), None, None)
    pixels.known = Normalization.given(0.5, 0.5, "restored")
    pixels.settle(carrying(random_pixels(2, 3, 4, 4), *IMAGENET), alone)
    assert same(pixels.known, 0.5, 0.5)
    assert MISFIT in caplog.text


@pytest.fixture
def _defaults():
    yield
    torch.set_default_dtype(torch.float32)
    # Not "cpu", which would stay as a mode that sees every later call of torch.
    torch.set_default_device(None)


@pytest.mark.usefixtures("_defaults")
@pytest.mark.parametrize("distribution", ["uniform", "normal", "extremes"])
def test_torchs_defaults_change_nothing(distribution):
    """Neither the default dtype nor the default device reaches views or parameters."""
    scheme = Scheme.heavier(distribution=distribution)
    images = carrying(random_pixels(4, 3, 9, 8), *IMAGENET)

    def everything():
        generator = torch.Generator("cpu").manual_seed(1)
        drawn = scheme.draw(8, generator=generator)
        known = settle([images], None, *IMAGENET).known
        return [*drawn.values(), view(images, known, scheme), settle([images]).known]

    expected = everything()
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        got = everything()
        torch.set_default_dtype(torch.float32)
        assert all(
            a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(got[:-1], expected[:-1], strict=True)
        )
        assert got[-1] == expected[-1]
    torch.set_default_device("meta")
    got = everything()
    torch.set_default_device(None)
    for a, b in zip(got[:-1], expected[:-1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("_defaults")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_uint8_comes_in_the_default_dtype(dtype):
    """Scaled and normalised in float32 at least, rounded once."""
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    known = Normalization.given(*IMAGENET)
    exact = carrying(images.double() / 255, *IMAGENET)
    torch.set_default_dtype(dtype)
    prepared = known.prepare(images)
    assert prepared.dtype == dtype
    rounded = exact.to(dtype)
    torch.testing.assert_close(prepared, rounded, atol=1e-6, rtol=0.008)


@pytest.mark.parametrize("scheme", [Scheme.heavier(), lambda x: x.flip(3)])
@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_labelled_tensors_are_images(scheme, first_view):
    """Torchvision's `tv_tensors.Image` gives the rows of the tensor that it is."""
    plain = random_pixels(3, 3, 6, 8)
    options = {"first_view": first_view, "normalization": Normalization(), "seed": 5}
    expected = expand(plain, 3, scheme, **options)
    rows = expand(tv_tensors.Image(plain), 3, scheme, **options)
    assert type(rows) is torch.Tensor
    assert torch.equal(rows, expected)
    pixels = settle([tv_tensors.Image(plain)])
    assert pixels.known.none
    wanted = tv_tensors.Image(plain).requires_grad_()
    expand(wanted, 3, scheme, **options).sum().backward()
    assert wanted.grad is not None
