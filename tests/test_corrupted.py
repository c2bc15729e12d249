"""Corruptions as versions of images: seeded by place, or read from a folder."""

import numpy as np
import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import measure
from dai_plugin.measures.constants import NAMES
from dai_plugin.measures.corrupted import Corruptions
from dai_plugin.measures.corruptions import corrupt
from dai_plugin.measures.data import Batch
from dai_plugin.measures.versions import Unfit
from dai_plugin.views.expand import mix_seed
from dai_plugin.views.normalization import Normalization

PIXELS = {"mean": 0.0, "std": 1.0}
NONE = Normalization()
CARRIED = Normalization.given((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def levels(count=6, side=20, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        256, (count, channels, side, side), generator=generator, dtype=torch.uint8
    )


def a_batch(pixels, carried=NONE, start=0, labels=None):
    return Batch(start, carried.carry(pixels, pixels), pixels, labels)


@pytest.mark.parametrize("name", [*NAMES, "saturate"])
def test_versions_are_those_of_corrupt(name):
    """By severity, seeded with the place of each image, in the images' normalisation.

    However the images come in batches.
    """
    pixels = levels(5) / 255
    corruptions = Corruptions([name], [1, 4])
    (series,) = corruptions.series(nn.Identity(), 7)
    assert (series.name, series.axis.values) == (f"corruptions:{name}", (1.0, 4.0))
    seeds = [mix_seed(7, i) for i in range(5)]
    expected = [corrupt(pixels, name, s, seeds) for s in (1, 4)]
    for sizes in ((5,), (2, 3), (1, 1, 1, 1, 1)):
        found, start = [], 0
        for part in pixels.split(sizes):
            batch = a_batch(part, CARRIED, start)
            start += len(part)
            found.append([v.images for v in series.source.versions(batch, CARRIED)])
        for one, of in zip(zip(*found, strict=True), expected, strict=True):
            together = CARRIED.carry(of, of)
            torch.testing.assert_close(torch.cat(one), together, rtol=0, atol=1e-5)


def test_another_seed_corrupts_otherwise():
    pixels = levels() / 255
    one, other = (
        next(s.source.versions(a_batch(pixels), NONE)).images
        for seed in (0, 1)
        for s in Corruptions(["fog"]).series(nn.Identity(), seed)
    )
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_stay_so(dtype):
    """Rounding by the normalisation takes pixels no further than to the nearest."""
    pixels = levels(2) / 255
    images = CARRIED.carry(pixels, pixels).to(dtype)
    mean, std = CARRIED.tensors(images)
    batch = Batch(0, images, images.float() * std + mean, None)
    (series,) = Corruptions(["contrast"], [1]).series(nn.Identity(), 0)
    (version,) = series.source.versions(batch, CARRIED)
    assert version.images.dtype == dtype


def test_small_images_and_other_pixels_are_refused_by_name():
    (series,) = Corruptions(["fog"]).series(nn.Identity(), 0)
    cases = [
        (torch.rand(2, 3, 12, 30), "images are 12 x 30 with 3 channels.*16 pixels"),
        (torch.rand(2, 4, 20, 20), "20 x 20 with 4 channels: .* one channel or three"),
        (torch.rand(2, 3, 20, 20) * 3, r"pixels from .* attacks and corruptions work"),
    ]
    for pixels, message in cases:
        with pytest.raises(ValueError, match=message):
            series.source.check(a_batch(pixels))


def test_grey_images_are_corrupted_but_not_saturated():
    pixels = levels(channels=1) / 255
    for series in Corruptions().series(nn.Identity(), 0):
        for version in series.source.versions(a_batch(pixels), NONE):
            assert version.images.shape == pixels.shape
    (series,) = Corruptions(["saturate"]).series(nn.Identity(), 0)
    with pytest.raises(Unfit, match="saturate changes colours, and images have one"):
        series.source.check(a_batch(pixels))


def test_measures_lie_along_the_severities():
    torch.manual_seed(0)
    net, images = SmallNet(), levels(7)
    labels = torch.arange(7) % 5
    found = [
        measure(
            net,
            list(zip(images.split(size), labels.split(size), strict=True)),
            measures=["layers", "output", Corruptions(["shot_noise", "fog"], [1, 5])],
            num_transforms=1,
            **PIXELS,
        )
        for size in (3, 7)
    ]
    for name in ("corruptions:shot_noise", "corruptions:fog"):
        one, other = (each.tables[name] for each in found)
        assert one["accuracy_transformed"]["output"].shape == (7, 2)
        for measured, places in one.items():
            for place, table in places.items():
                torch.testing.assert_close(
                    table, other[measured][place], rtol=1e-4, atol=1e-5, equal_nan=True
                )


@pytest.fixture
def folder(tmp_path):
    """The set of `levels(6)`, whose labels are 0 to 5."""
    images = torch.cat([levels(6, seed=s) for s in range(1, 6)])
    for name in ("fog", "rain"):
        np.save(tmp_path / f"{name}.npy", images.permute(0, 2, 3, 1).numpy())
    np.save(tmp_path / "labels.npy", np.tile(np.arange(6, dtype=np.uint8), 5))
    return tmp_path


def test_stored_versions_are_the_files(folder):
    """All that the folder holds, by name; images and labels in their batches."""
    all_series = Corruptions(folder=folder, severities=(2, 5)).series(nn.Identity(), 0)
    assert [s.name for s in all_series] == ["corruptions:fog", "corruptions:rain"]
    pixels = levels(6) / 255
    for start in (0, 2, 4):
        part = slice(start, start + 2)
        batch = a_batch(pixels[part], CARRIED, start, torch.arange(6)[part])
        for series in all_series:
            found = [v.images for v in series.source.versions(batch, CARRIED)]
            for severity, images in zip((2, 5), found, strict=True):
                expected = levels(6, seed=severity)[part] / 255
                assert torch.equal(images, CARRIED.carry(expected, expected))


def test_stored_versions_that_are_of_other_images_are_refused(folder):
    (series,) = Corruptions(["fog"], folder=folder).series(nn.Identity(), 0)
    cases = [
        (torch.rand(2, 3, 16, 20), 0, None, r"\[3, 20, 20\], the data \[3, 16, 20\]"),
        (torch.rand(2, 1, 20, 20), 0, None, r"\[3, 20, 20\], the data \[1, 20, 20\]"),
        (torch.rand(3, 3, 20, 20), 4, None, "holds 6 images a severity, .* least 7"),
        (
            torch.rand(2, 3, 20, 20),
            3,
            torch.tensor([3, 3]),
            r"6 labels a severity; that of image 4 \(severity 1\) is 4, but .* has 3",
        ),
    ]
    for pixels, start, labels, message in cases:
        with pytest.raises(ValueError, match=message):
            series.source.check(a_batch(pixels, start=start, labels=labels))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": ["rain"]}, ValueError, "no corruption 'rain'; take one of gaussian"),
        ({"names": []}, ValueError, r"need names and severities, got \[\] at \[1, 2"),
        ({"severities": []}, ValueError, r"names and severities, got .* at \[\]"),
        ({"severities": [0]}, ValueError, "severity is 0; take a whole number from 1"),
        ({"constants": "coco"}, ValueError, "constants is 'coco'; take imagenet or ci"),
        ({"folder": "nowhere"}, FileNotFoundError, "nowhere holds no corrupted sets"),
        (
            {"folder": "nowhere", "names": ["fog"]},
            FileNotFoundError,
            r"no nowhere/fog\.npy; corruptions there: none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        Corruptions(**options)
