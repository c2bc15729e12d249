"""Corruptions of images: what holds of all of them, and each beside its formula."""

import colorsys
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dai_plugin.measures import filters
from dai_plugin.measures.constants import CONSTANTS, EXTRA_NAMES, NAMES
from dai_plugin.measures.corruptions import corrupt
from dai_plugin.measures.fields import Draws, frosted_glass, plasma
from dai_plugin.measures.shuffles import shuffled

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


def stream(seed):
    """The random numbers of one image."""
    return Draws([seed], torch.device("cpu"))


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
        ({"severity": 2.0}, ValueError, "severity is 2.0"),
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
    """Sides above 64 pixels are blurred in stretches."""
    images = photographs(2, 140, 33)
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
    moves = torch.randint(-reach, reach, (2, 2, 3, 30, 21), dtype=torch.int32)
    moves[:, :, 0] = reach - 1  # the longest chains
    moves[:, 1, 1] = 0
    literal = images.clone()
    for field, k in np.ndindex(2, 3):
        for y in range(30 - reach, reach, -1):
            for x in range(21 - reach, reach, -1):
                down, right = moves[field, :, k, y, x].tolist()
                literal[k, :, y, x] = literal[k, :, y + down, x + right]
    fields = [(down + reach) * 2 * reach + right + reach for down, right in moves]
    assert torch.equal(shuffled(images, fields, reach), literal)


def test_clouds_are_the_diamond_square_algorithm():
    """Point by point on a torus, with the same random numbers."""
    size, decay, seed = 16, 1.7, 5
    noise = stream(seed).uniform(-1, 1, size, size)[0].double()
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
    ours = plasma(stream(seed), size, decay)[0]
    torch.testing.assert_close(ours.double(), height / height.max(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("of", "severity"), every("fog"))
def test_fog_adds_clouds_and_keeps_the_brightest(of, severity):
    images = photographs(1, 24, 30)
    thickness, decay = constants(of, "fog", severity)
    clouds = plasma(stream(9), 32, decay)[:, None, :24, :30]
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
    points = torch.rand(1, 2, 20, 27) * 60 - 20
    where = [points[0, 1].numpy(), points[0, 0].numpy()]
    for border, mode in (("reflect", "mirror"), ("symmetric", "reflect")):
        ours = filters.sample(images, points, border)[0].numpy()
        for channel, image in zip(ours, images[0].numpy(), strict=True):
            literal = ndimage.map_coordinates(image, where, order=1, mode=mode)
            assert np.abs(channel - literal).max() < 1e-4


@pytest.mark.parametrize(("of", "severity"), every("elastic_transform"))
def test_elastic_transform_is_an_affine_map_and_a_smooth_displacement(of, severity):
    images, draws = photographs(1, 40, 40), stream(3)
    alpha, sigma, shift = constants(of, "elastic_transform", severity)
    corners = np.array([[33, 33], [33, 7], [7, 7]], dtype=float)  # 20 +- 40 // 3
    moved = corners + draws.uniform(-shift, shift, 3, 2)[0].numpy()
    # The inverse map, from (x, y, 1) of the result to (x, y) of the image.
    back = np.linalg.solve(np.c_[moved, np.ones(3)], corners)
    y, x = np.mgrid[:40, :40].astype(float)
    places = np.stack([x, y, np.ones_like(x)], -1) @ back
    where = [places[..., 1], places[..., 0]]
    literal = images[0].double().numpy()
    literal = [
        ndimage.map_coordinates(i, where, order=1, mode="mirror") for i in literal
    ]
    if alpha:
        moves = draws.uniform(-1, 1, 2, 40, 40)[0].double().numpy()
        right, down = (
            alpha * ndimage.gaussian_filter(m, sigma, mode="reflect", truncate=3)
            for m in moves
        )
        where = [y + down, x + right]
        literal = [
            ndimage.map_coordinates(i, where, order=1, mode="reflect") for i in literal
        ]
    ours = corrupt(images, "elastic_transform", severity, [3], constants=of)
    assert np.abs(ours[0].numpy() - np.stack(literal).clip(0, 1)).max() < 1e-3


@pytest.mark.parametrize(("of", "severity"), every("glass_blur"))
def test_glass_blur_shuffles_between_two_blurs(of, severity):
    images, draws = photographs(1), stream(4)
    sigma, reach, repeats = constants(of, "glass_blur", severity)
    literal = (filters.gaussian(images, sigma) * 255 + 1e-3).floor() / 255
    for _ in range(repeats):
        moves = draws.integers(4 * reach**2, 32, 32)
        assert (moves.min(), moves.max()) == (0, 4 * reach**2 - 1)
        literal = shuffled(literal, [moves], reach)
    ours = corrupt(images, "glass_blur", severity, [4], constants=of)
    torch.testing.assert_close(ours, filters.gaussian(literal, sigma).clamp(0, 1))


@pytest.mark.parametrize(("of", "severity"), every("motion_blur"))
def test_motion_blur_is_within_45_degrees_of_the_horizontal(of, severity):
    images = photographs(1)
    angle = stream(5).uniform(-45, 45)
    literal = filters.motion(images, angle, *constants(of, "motion_blur", severity))
    ours = corrupt(images, "motion_blur", severity, [5], constants=of)
    torch.testing.assert_close(ours, literal.clamp(0, 1))


@pytest.mark.parametrize(("of", "severity"), every("snow"))
def test_snow_falls_and_falls_again_turned_by_half(of, severity):
    images, draws = photographs(1) * 0.5, stream(6)
    mean, spread, zoom, threshold, *line, share = constants(of, "snow", severity)
    flakes = filters.zoomed(mean + spread * draws.normal(1, 32, 32), zoom)
    flakes = (flakes * (flakes >= threshold)).clamp(0, 1)
    flakes = filters.motion(flakes, draws.uniform(-135, -45), *line)
    red, green, blue = images.unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    white = torch.maximum(images, 1.5 * grey + 0.5)
    literal = share * images + (1 - share) * white + flakes + flakes.flip(2, 3)
    ours = corrupt(images, "snow", severity, [6], constants=of)
    torch.testing.assert_close(ours, literal.clamp(0, 1))


@pytest.mark.parametrize(("of", "severity"), every("spatter"))
def test_spatter_has_the_colour_of_water_or_of_mud(of, severity):
    """And lies where there is more liquid than the threshold."""
    draws = stream(7)
    mean, spread, sigma, threshold, strength, mud = constants(of, "spatter", severity)
    liquid = filters.gaussian(mean + spread * draws.normal(48, 48), sigma)[0]
    ours = corrupt(torch.zeros(1, 3, 48, 48), "spatter", severity, [7], constants=of)[0]
    covered = ours[0] > 0
    assert covered.any()
    colour = torch.tensor([63, 42, 20] if mud else [175, 238, 238]) / 255
    depth = ours[:, covered] / colour[:, None]
    torch.testing.assert_close(depth, depth[:1].expand(3, -1), rtol=1e-4, atol=1e-6)
    if mud:
        layer = filters.gaussian((liquid > threshold).float(), strength)
        literal = torch.where(layer < 0.8, 0.0, layer)
        torch.testing.assert_close(ours[0], literal * colour[0])
    else:
        assert depth.max().item() == pytest.approx(strength, rel=1e-4)
        assert (liquid[covered] >= threshold).all()


def test_frost_is_blended_with_its_pictures():
    images = photographs(1, 40, 100)
    picture = frosted_glass(stream(8), 128)[..., :40, :100]
    for of in CONSTANTS:
        share, amount = constants(of, "frost", 2)
        ours = corrupt(images, "frost", 2, [8], constants=of)
        literal = (share * images + amount * picture).clamp(0, 1)
        torch.testing.assert_close(ours, literal)


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


def test_the_page_shows_the_constants():
    """Of every corruption, for both sets, severity by severity."""
    page = (Path(__file__).parents[1] / "docs" / "corruptions.md").read_text()
    table = page.split("## Constants")[1].split("## What differs")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if "|" in line]
    shown = {row[0].strip(): [cell.split(";") for cell in row[2:]] for row in rows[2:]}
    assert tuple(shown) == ALL
    for name, cells in shown.items():
        for levels, cell in zip(
            (CONSTANTS[of][name] for of in CONSTANTS), cells, strict=True
        ):
            listed = [x if isinstance(x, tuple) else (x,) for x in levels]
            assert [tuple(part.split()) for part in cell] == [
                tuple(map(str, level)) for level in listed
            ]
