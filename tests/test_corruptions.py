"""Corruptions of images: what holds of all of them, and each beside its formula."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dai_plugin.measures import filters
from dai_plugin.measures.constants import CONSTANTS, EXTRA_NAMES, NAMES
from dai_plugin.measures.corruptions import corrupt
from dai_plugin.measures.fields import Draws, plasma

ndimage = pytest.importorskip("scipy.ndimage", reason="needs --extra reference")

ALL = (*NAMES, *EXTRA_NAMES)
RANDOM = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("glass_blur", "motion_blur", "snow", "frost", "fog", "spatter"),
    "elastic_transform",
}
LEVEL = 1 / 255


def photographs(count=2, height=32, width=32, channels=3, seed=0):
    """Smooth images in whole grey levels."""
    torch.manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6)
    images = F.interpolate(coarse, (height, width), mode="bicubic", antialias=False)
    return (images.clamp(0, 1) * 255).round() / 255


def flat(level, side=64, count=4):
    return torch.full((count, 3, side, side), level)


def arrays(images):
    """Images as float64 arrays [H, W, C]."""
    return images.permute(0, 2, 3, 1).double().numpy()


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", ALL)
def test_every_corruption_keeps_what_images_are(name, channels):
    """Shape, dtype and range stay, at every severity, for both sets of constants."""
    if name == "saturate" and channels == 1:
        pytest.skip("has no meaning for grey images")
    images = photographs(2, 24, 37, channels)
    before = images.clone()
    for constants in CONSTANTS:
        for severity in range(1, 6):
            changed = corrupt(images, name, severity, [3, 4], constants=constants)
            assert changed.shape == images.shape
            assert changed.dtype == images.dtype
            assert changed.is_contiguous()
            assert 0 <= changed.min() <= changed.max() <= 1
            assert not torch.equal(changed, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ALL)
def test_an_image_and_its_seed_are_all_that_counts(name):
    """Neither the batch nor the global random stream changes a result."""
    images, seeds = photographs(5, 48, 40), torch.tensor([7, 0, 3, 7, 2**40])
    torch.manual_seed(1)
    together = corrupt(images, name, 3, seeds)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    for k in (0, 2, 4):
        alone = corrupt(images[k : k + 1], name, 3, seeds[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-6)
    others = corrupt(images, name, 3, [1, 2, 4, 5, 6])
    assert torch.equal(others, together) == (name not in RANDOM)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_single(name):
    images = photographs(1).half()
    exact = corrupt(images.float(), name, 2, [0])
    assert torch.equal(corrupt(images, name, 2, [0]), exact.half())


def test_no_images_are_no_images():
    assert corrupt(torch.empty(0, 3, 32, 32), "fog", 1, []).shape == (0, 3, 32, 32)


def test_constants_go_by_size_unless_they_are_given():
    for side, of in ((32, "cifar"), (64, "cifar"), (65, "imagenet")):
        images = photographs(1, side, side + 9)
        by_size = corrupt(images, "contrast", 1, [0])
        assert torch.equal(by_size, corrupt(images, "contrast", 1, [0], constants=of))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "rain"}, ValueError, "no corruption 'rain'; take one of gaussian_no"),
        ({"severity": 6}, ValueError, "severity is 6; take a whole number from 1 to 5"),
        ({"severity": True}, ValueError, "severity is True"),
        ({"severity": 1.5}, ValueError, "severity is 1.5"),
        ({"seeds": [1]}, ValueError, "1 seeds for 2 images; give one for each"),
        ({"constants": "coco"}, ValueError, "constants is 'coco'; take imagenet or ci"),
        ({"images": torch.zeros(2, 3, 9, 40)}, ValueError, "16 pixels a side"),
        ({"images": torch.zeros(2, 4, 32, 32)}, ValueError, r"give \[N, 3, H, W\]"),
        ({"images": torch.zeros(3, 32, 32)}, ValueError, r"\(3, 32, 32\)"),
        ({"images": torch.full((2, 3, 32, 32), 2.0)}, ValueError, r"lie in \[2, 2\]"),
        ({"images": torch.full((2, 3, 32, 32), math.nan)}, ValueError, "pixels lie in"),
        (
            {"images": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)},
            TypeError,
            "images / 255",
        ),
        (
            {"images": torch.zeros(2, 1, 32, 32), "name": "saturate"},
            ValueError,
            "saturate changes colours, and images have one channel",
        ),
    ],
)
def test_errors_say_what_was_received(change, error, message):
    call = {"images": photographs(), "name": "fog", "severity": 1, "seeds": [0, 1]}
    with pytest.raises(error, match=message):
        corrupt(**{**call, **change})


def every(name):
    return [(of, level) for of in CONSTANTS for level in range(1, 6)]


def constants(of, name, severity):
    return CONSTANTS[of][name][severity - 1]


@pytest.mark.parametrize(("of", "severity"), every("gaussian_blur"))
def test_gaussian_blur_is_scipys(of, severity):
    images = photographs(2, 40, 33)
    sigma = constants(of, "gaussian_blur", severity)
    ours = arrays(corrupt(images, "gaussian_blur", severity, [0, 1], constants=of))
    for image, changed in zip(arrays(images), ours, strict=True):
        literal = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")
        assert np.abs(literal - changed).max() < 1e-5


@pytest.mark.parametrize(("of", "severity"), every("defocus_blur"))
def test_defocus_blur_is_a_correlation_with_a_disk(of, severity):
    images = photographs(2, 40, 33)
    radius, sigma = constants(of, "defocus_blur", severity)
    kernel = filters.disk(radius, sigma).numpy()
    ours = arrays(corrupt(images, "defocus_blur", severity, [0, 1], constants=of))
    for image, changed in zip(arrays(images), ours, strict=True):
        literal = ndimage.correlate(image, kernel[..., None], mode="mirror")
        assert np.abs(literal - changed).max() < 1e-5
    assert kernel.sum() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("factor", [1, 1.05, 1.21, 1.3, 2, 4.5])
def test_a_zoom_is_scipys(factor):
    images = photographs(1, 40, 40)
    image, crop = arrays(images)[0], math.ceil(40 / factor)
    start = (40 - crop) // 2
    cut = image[start : start + crop, start : start + crop]
    large = ndimage.zoom(cut, (factor, factor, 1), order=1)
    trim = (large.shape[0] - 40) // 2
    literal = large[trim : trim + 40, trim : trim + 40]
    assert np.abs(literal - arrays(filters.zoomed(images, factor))[0]).max() < 1e-4


@pytest.mark.parametrize(("of", "severity"), every("zoom_blur"))
def test_zoom_blur_is_a_mean_of_zooms(of, severity):
    stops = {
        "imagenet": [
            (1.11, 0.01),
            (1.16, 0.01),
            (1.21, 0.02),
            (1.26, 0.02),
            (1.31, 0.03),
        ],
        "cifar": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    }
    images = photographs(1)
    factors = np.arange(1, *stops[of][severity - 1])
    zooms = [images, *(filters.zoomed(images, float(f)) for f in factors)]
    literal = torch.stack(zooms).mean(0)
    ours = corrupt(images, "zoom_blur", severity, [0], constants=of)
    torch.testing.assert_close(ours, literal, rtol=0, atol=LEVEL)


def neighbour(image, y, x):
    """A pixel of an image that goes on at its edges."""
    height, width = image.shape[:2]
    return image[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]


@pytest.mark.parametrize("angle", [-90.0, -45.0, -17.3, 0.0, 30.0, 45.0])
def test_motion_blur_is_a_sum_along_a_line(angle):
    images, radius, sigma = photographs(1, 20, 17), 6, 2.5
    image = arrays(images)[0]
    weights = [math.exp(-i * i / (2 * sigma**2)) for i in range(2 * radius + 1)]
    literal = np.zeros_like(image)
    for i, weight in enumerate(weights):
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        for y, x in np.ndindex(20, 17):
            literal[y, x] += weight * neighbour(image, y + down, x + right)
    ours = filters.motion(images, torch.tensor([angle]), radius, sigma)
    assert np.abs(literal / sum(weights) - arrays(ours)[0]).max() < 1e-5


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_pixels_are_shuffled_as_one_after_another(reach):
    """Chains of any length end where a loop over the pixels would have ended."""
    torch.manual_seed(reach)
    images = torch.rand(3, 3, 30, 21)
    moves = torch.randint(-reach, reach, (3, 2, 30, 21))
    moves[0] = reach - 1  # the longest chains
    moves[1, 1] = 0
    literal = images.clone()
    for k in range(3):
        for y in range(30 - reach, reach, -1):
            for x in range(21 - reach, reach, -1):
                down, right = moves[k, :, y, x].tolist()
                literal[k, :, y, x] = literal[k, :, y + down, x + right]
    assert torch.equal(filters.shuffled(images, moves, reach), literal)


def test_clouds_are_the_diamond_square_algorithm():
    """Point by point on a torus, with the same random numbers."""
    size, decay, seed = 16, 1.7, 5
    noise = Draws([seed], torch.device("cpu")).uniform(-1, 1, size, size)[0].double()
    height, step, reach = torch.zeros(size, size).double(), size, 100.0

    def corners(points):
        return sum(height[y % size, x % size] for y, x in points) / 4

    while step > 1:
        half, grid = step // 2, range(0, size, step)
        places = [(y + half, x + half) for y in grid for x in grid]
        for y, x in places:
            around = [(y - half, x - half), (y - half, x + half)]
            around += [(y + half, x - half), (y + half, x + half)]
            height[y, x] = corners(around) + reach**2 * noise[y, x]
        sides = [(y, x + half) for y in grid for x in grid]
        sides += [(y + half, x) for y in grid for x in grid]
        for y, x in sides:
            around = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
            height[y, x] = corners(around) + reach**2 * noise[y, x]
        step, reach = half, reach / decay
    height -= height.min()
    ours = plasma(Draws([seed], torch.device("cpu")), size, decay)[0]
    torch.testing.assert_close(ours.double(), height / height.max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("of", "severity"), every("fog"))
def test_fog_adds_clouds_and_keeps_the_brightest(of, severity):
    images = photographs(1, 24, 30)
    thickness, decay = constants(of, "fog", severity)
    clouds = plasma(Draws([9], torch.device("cpu")), 32, decay)[:, None, :24, :30]
    top = images.max()
    literal = (images + thickness * clouds) * top / (top + thickness)
    ours = corrupt(images, "fog", severity, [9], constants=of)
    torch.testing.assert_close(ours, literal)


@pytest.mark.parametrize(("of", "severity"), every("brightness"))
def test_brightness_and_saturate_change_hsv(of, severity):
    """Pixel by pixel, grey and black ones among them."""
    images = photographs(1, 16, 16)
    images[..., :4] = images[:, :1, :, :4]
    images[..., :2] = 0
    change = constants(of, "brightness", severity)
    factor, more = constants(of, "saturate", severity)
    lighter, richer = arrays(images)[0].copy(), arrays(images)[0].copy()
    for y, x in np.ndindex(16, 16):
        h, s, v = colorsys.rgb_to_hsv(*lighter[y, x])
        lighter[y, x] = colorsys.hsv_to_rgb(h, s, min(v + change, 1))
        richer[y, x] = colorsys.hsv_to_rgb(h, min(s * factor + more, 1), v)
    for name, literal in (("brightness", lighter), ("saturate", richer)):
        ours = arrays(corrupt(images, name, severity, [0], constants=of))[0]
        assert np.abs(ours - literal).max() < 1e-5


@pytest.mark.parametrize(("of", "severity"), every("contrast"))
def test_contrast_shrinks_towards_each_channels_mean(of, severity):
    images = photographs(2)
    mean = images.mean((2, 3), keepdim=True)
    literal = mean + (images - mean) * constants(of, "contrast", severity)
    ours = corrupt(images, "contrast", severity, [0, 1], constants=of)
    torch.testing.assert_close(ours, literal.clamp(0, 1))


@pytest.mark.parametrize("side", [32, 50])
@pytest.mark.parametrize(("of", "severity"), every("pixelate"))
def test_pixelate_and_jpeg_are_pillows(of, severity, side):
    """Within a grey level: Pillow rounds after each axis."""
    images = photographs(1, side, side)
    picture = Image.fromarray((arrays(images)[0] * 255).round().astype(np.uint8))
    small = int(side * constants(of, "pixelate", severity))
    blocks = picture.resize((small, small), Image.Resampling.BOX)
    blocks = blocks.resize((side, side), Image.Resampling.BOX)
    file = io.BytesIO()
    quality = constants(of, "jpeg_compression", severity)
    picture.save(file, "JPEG", quality=quality)
    for name, literal in (("pixelate", blocks), ("jpeg_compression", Image.open(file))):
        ours = arrays(corrupt(images, name, severity, [0], constants=of))[0] * 255
        assert np.abs(ours - np.asarray(literal, dtype=float)).max() <= 1.01


def test_points_are_read_as_scipy_reads_them():
    """For both kinds of mirrored border, far outside too."""
    images = photographs(1, 20, 27)
    points = torch.rand(1, 20, 27, 2) * 60 - 20
    where = [points[0, ..., 1].numpy(), points[0, ..., 0].numpy()]
    for border, mode in (("reflect", "mirror"), ("symmetric", "reflect")):
        ours = filters.sample(images, points, border)[0].numpy()
        for channel, image in zip(ours, images[0].numpy(), strict=True):
            literal = ndimage.map_coordinates(image, where, order=1, mode=mode)
            assert np.abs(channel - literal).max() < 1e-4


@pytest.mark.parametrize("of", CONSTANTS)
def test_elastic_displacements_have_the_published_size(of):
    """A ramp shows them: its change is the distance moved."""
    ramp = torch.linspace(0.2, 0.8, 128).expand(64, 3, 128, 128).contiguous()
    alpha, sigma, shift = constants(of, "elastic_transform", 4)
    changed = corrupt(ramp, "elastic_transform", 4, range(64), constants=of)
    moved = ((changed - ramp) / (0.6 / 127))[:, 0, 32:96, 32:96]
    # The affine part: three independent corners, uniform; read near their middle.
    centre = moved.mean((1, 2))
    assert abs(centre.mean()) < 3 * shift / math.sqrt(3 * 64)
    assert 0.2 * shift < centre.std() < 1.2 * shift
    fine = moved - F.avg_pool2d(moved, 33, 1, 16, count_include_pad=False)
    literal = ndimage.gaussian_filter(
        np.random.default_rng(0).uniform(-1, 1, (64, 128, 128)),
        (0, sigma, sigma),
        truncate=3,
    )
    expected = alpha * torch.from_numpy(literal)[:, 32:96, 32:96]
    expected -= F.avg_pool2d(expected, 33, 1, 16, count_include_pad=False)
    assert fine.std().item() == pytest.approx(expected.std().item(), rel=0.15)


@pytest.mark.parametrize(("of", "severity"), every("noise"))
def test_noise_has_the_published_variance(of, severity):
    """Of pixels so far from 0 and 1 that few are clipped."""
    level, images = 0.4, flat(0.4, 96)

    def spread(name):
        changed = corrupt(images, name, severity, range(4), constants=of)
        assert changed[0, 0].std() > 0
        return changed

    scale = constants(of, "gaussian_noise", severity)
    literal = (level + scale * np.random.default_rng(0).normal(size=10**6)).clip(0, 1)
    noisy = spread("gaussian_noise")
    assert noisy.mean().item() == pytest.approx(literal.mean(), rel=0.02)
    assert noisy.std().item() == pytest.approx(literal.std(), rel=0.02)
    scale = constants(of, "speckle_noise", severity)
    literal = level * (1 + scale * np.random.default_rng(0).normal(size=10**6))
    noisy = spread("speckle_noise")
    assert noisy.std().item() == pytest.approx(literal.clip(0, 1).std(), rel=0.02)
    photons = constants(of, "shot_noise", severity)
    literal = np.random.default_rng(0).poisson(level * photons, 10**6) / photons
    noisy = spread("shot_noise")
    assert noisy.std().item() == pytest.approx(literal.clip(0, 1).std(), rel=0.02)
    amount = constants(of, "impulse_noise", severity)
    noisy = spread("impulse_noise")
    for extreme in (0.0, 1.0):
        share = (noisy == extreme).float().mean().item()
        assert share == pytest.approx(amount / 2, rel=0.15)
    assert ((noisy == 0) | (noisy == 1) | (noisy == images)).all()


def test_channels_and_pixels_are_noisy_on_their_own():
    noise = corrupt(flat(0.5, 64), "gaussian_noise", 1, range(4)) - 0.5
    rows = noise.flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.08
    spectrum = torch.fft.fft2(noise).abs().square().mean((0, 1))
    halves = spectrum[1:16].mean() / spectrum[16:48].mean()
    assert halves.item() == pytest.approx(1, rel=0.1)
