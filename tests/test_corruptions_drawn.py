"""Drops on a lens beside OpenCV, and every corruption beside `imagecorruptions`."""

import itertools

import numpy as np
import pytest
import torch
from test_corruptions import ALL, arrays, photographs

from dai_plugin.measures import filters
from dai_plugin.measures.constants import CONSTANTS
from dai_plugin.measures.corruptions import corrupt
from dai_plugin.measures.liquid import distance, drops, edges, equalized

cv2 = pytest.importorskip("cv2", reason="needs --group integrations")
ndimage = pytest.importorskip("scipy.ndimage", reason="needs --group integrations")

SEVERITIES = range(1, 6)
DETERMINISTIC = (
    *("brightness", "contrast", "defocus_blur", "gaussian_blur"),
    *("jpeg_compression", "pixelate", "saturate"),
)


@pytest.fixture(scope="module")
def independent():
    package = pytest.importorskip(
        "imagecorruptions", reason="needs --group integrations"
    )
    return lambda image, name, severity: package.corrupt(image, severity, name)


def levels(image):
    """One image [1, C, H, W] as uint8 [H, W, C]."""
    return (arrays(image)[0] * 255).round().astype(np.uint8)


def liquids(of, severity, count=6, side=96):
    """What is on the lens at a severity, `[N, H, W]`."""
    mean, spread, sigma, threshold, *_ = CONSTANTS[of]["spatter"][severity - 1]
    torch.manual_seed(severity)
    fields = filters.gaussian(mean + spread * torch.randn(count, side, side), sigma)
    return torch.where(fields < threshold, 0.0, fields).clamp(0, 1)


@pytest.mark.parametrize("of", CONSTANTS)
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_edges_are_cannys(of, severity):
    fields = (liquids(of, severity) * 255).floor()
    for field, found in zip(fields, edges(fields, 50, 150), strict=True):
        literal = cv2.Canny(field.byte().numpy(), 50, 150) > 0
        assert (literal == found.numpy()).mean() > 0.999


def test_edges_of_photographs_are_cannys():
    """Weak edges count where they touch strong ones."""
    fields = (photographs(6, 80, 70, channels=1)[:, 0] * 255).round()
    fields += torch.randint(0, 12, fields.shape)
    fields = fields.clamp(0, 255)
    for field, found in zip(fields, edges(fields, 50, 150), strict=True):
        literal = cv2.Canny(field.byte().numpy(), 50, 150) > 0
        assert (literal == found.numpy()).mean() > 0.995


def test_distances_are_euclidean_up_to_their_limit():
    torch.manual_seed(0)
    marked = torch.rand(5, 60, 70) < 0.002
    marked[0] = False
    for field, found in zip(marked, distance(marked), strict=True):
        literal = np.full(field.shape, 20.0)
        if field.any():
            literal = ndimage.distance_transform_edt(~field.numpy()).clip(max=20)
        assert np.abs(literal - found.numpy()).max() < 1e-5


def test_histograms_are_made_even_as_in_opencv():
    torch.manual_seed(0)
    fields = torch.randint(0, 21, (4, 30, 40)).float()
    fields[1] = 7
    fields[2, :20] = 3
    for field, found in zip(fields, equalized(fields), strict=True):
        literal = cv2.equalizeHist(field.byte().numpy())
        assert np.abs(literal - found.numpy()).max() <= 1


@pytest.mark.parametrize("of", CONSTANTS)
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_drops_shine_as_in_opencv(of, severity):
    """OpenCV's distances are approximate: nearly the same picture."""
    fields = liquids(of, severity)
    for field, found in zip(fields, drops(fields), strict=True):
        layer = (field * 255).byte().numpy()
        far = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
        even = cv2.equalizeHist(cv2.blur(far.clip(max=20), (3, 3)).astype(np.uint8))
        kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
        relief = cv2.blur(cv2.filter2D(even, cv2.CV_8U, kernel), (3, 3))
        shine = layer * relief.astype(float)
        if not shine.any():
            assert not found.any()
            continue
        shine /= shine.max()
        assert np.corrcoef(shine.ravel(), found.numpy().ravel())[0, 1] > 0.95
        assert found.mean().item() == pytest.approx(shine.mean(), rel=0.2, abs=0.01)


def test_a_dry_lens_stays_clear():
    assert not drops(torch.zeros(2, 32, 32)).any()


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_within_a_grey_level_of_the_independent_package(independent, name, severity):
    """It cuts values off to whole grey levels."""
    image = photographs(1, 96, 96, seed=severity)
    literal = independent(levels(image), name, severity).astype(float)
    ours = corrupt(image, name, severity, [0], constants="imagenet")
    assert np.abs(arrays(ours)[0] * 255 - literal).max() <= 1.01


@pytest.mark.parametrize(
    "name", sorted(set(ALL) - {*DETERMINISTIC, "elastic_transform", "frost"})
)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_independent_package_draws_from_the_same(independent, name, severity):
    """Mean, spread and spectrum of what is added, over many draws.

    Its elastic transform has constants of its own, and its frost is photographs.
    """
    image, count = photographs(1, 96, 96), 24
    np.random.seed(0)  # noqa: NPY002 - the stream that the package draws from
    theirs = np.stack(
        [independent(levels(image), name, severity) / 255 for _ in range(count)]
    )
    theirs = torch.from_numpy(theirs).float().permute(0, 3, 1, 2)
    images = image.expand(count, -1, -1, -1)
    ours = corrupt(images, name, severity, range(count), constants="imagenet")
    (a, sa, fa), (b, sb, fb) = (summary(x - image) for x in (theirs, ours))
    assert abs(a - b) < 0.02
    assert sb == pytest.approx(sa, rel=0.12)
    assert (fb / fa).log().abs().max() < 0.5


def summary(change):
    """Mean, spread, and power in four bands of frequency."""
    power = torch.fft.fft2(change).abs().square().mean((0, 1))
    axis = torch.fft.fftfreq(change.shape[-1])
    radius = torch.hypot(axis[:, None], axis)
    bounds = [0.01, 0.05, 0.1, 0.2, 0.5]
    bands = [
        power[(radius > low) & (radius <= high)].mean()
        for low, high in itertools.pairwise(bounds)
    ]
    return change.mean().item(), change.std().item(), torch.stack(bands) + 1e-3


def test_frost_is_like_photographs_of_frost(independent):
    """Where nothing else is seen: brightness, tint, spread and spectrum."""
    black = torch.zeros(48, 3, 224, 224)
    np.random.seed(0)  # noqa: NPY002 - the stream that the package draws from
    theirs = np.stack([independent(levels(black[:1]), "frost", 5) for _ in range(48)])
    ours = corrupt(black, "frost", 5, range(48), constants="imagenet")
    literal = torch.from_numpy(theirs / 255).float().permute(0, 3, 1, 2)
    assert (literal.mean((0, 2, 3)) - ours.mean((0, 2, 3))).abs().max() < 0.15
    spreads = [x.std((2, 3)).mean().item() for x in (literal, ours)]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)
    bands = [summary(x - x.mean((2, 3), keepdim=True))[2] for x in (literal, ours)]
    assert (bands[1] / bands[0]).log2().abs().max() < 1
