"""The images that break most and those that hold best, found with flat memory."""

import random

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

from dai_plugin import Scheme
from dai_plugin.measures.data import Batch, Batches
from dai_plugin.measures.passes import first_pass, observed, second_pass
from dai_plugin.measures.pictures import KEPT, Pictured
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.versions import Transformations
from dai_plugin.measures.worst import describe
from dai_plugin.views.normalization import Normalization

COUNT, VERSIONS = 61, 4


def network(seed=0, channels=3):
    """One that is sure, and often changes its mind."""
    torch.manual_seed(seed)
    net = SmallNet(channels=channels).eval()
    nn.init.normal_(net.classifier.weight, std=40.0)
    with torch.no_grad():  # between the classes
        net.classifier.bias -= net(data(seed, channels=channels)).mean(0)
    return net


def data(seed=0, side=12, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(COUNT, channels, side, side + 3, generator=generator)


def pictured(net, images, batch=16, scheme=None):
    batches = Batches(net, images.split(batch), 0.0, 1.0, "cpu")
    looking = [Pictured()]
    taps = Taps(net, observed(looking))
    first_pass(taps, batches, looking)
    source = Transformations(scheme or Scheme.heavier(), VERSIONS, 0)
    second_pass(taps, batches, source, looking)
    assert looking[0].tables() == {}
    return looking[0].pictures()


@torch.no_grad()
def shown(net, images):
    """Versions `[T, N, ...]`, their parameters, what the network makes of all."""
    source = Transformations(Scheme.heavier(), VERSIONS, 0)
    batch = Batch(0, images, images, None)
    found = list(source.versions(batch, Normalization()))
    versions = torch.stack([version.images for version in found])
    made = torch.stack([net(images), *map(net, versions)])
    return versions, [version.drawn for version in found], made


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_images_are_those_that_a_literal_look_finds(seed):
    """Image by image, version by version, without batches."""
    net, images = network(seed), data(seed)
    versions, drawn, logits = shown(net, images)
    p = logits.softmax(2)
    rows = []
    for i in range(COUNT):
        clean, own = p[0, i], p[1:, i]
        away = [bool(q.argmax() != clean.argmax()) for q in own]
        near = [
            0.0 if a else (clean.max() * q.max()).sqrt().item()
            for a, q in zip(away, own, strict=True)
        ]
        if any(away):
            sure = [q.max().item() if a else -1 for a, q in zip(away, own, strict=True)]
            worst = sure.index(max(sure))
        else:
            worst = near.index(min(near))
        rows.append((sum(away), sum(near), i, worst))
    breaks = sorted(rows, key=lambda row: (-row[0], row[1], row[2]))[:KEPT]
    holds = sorted(rows, key=lambda row: (row[0], -row[1], row[2]))[:KEPT]
    found = pictured(net, images)
    assert list(found) == ["breaks", "holds"]
    assert 0 < sum(row[0] for row in rows) < COUNT * VERSIONS
    for pictures, expected in zip(found.values(), (breaks, holds), strict=True):
        assert pictures.images.tolist() == [row[2] for row in expected]
        assert pictures.versions.tolist() == [row[3] for row in expected]
        for k, (_, _, i, worst) in enumerate(expected):
            pair = torch.stack([images[i], versions[worst, i]])
            assert torch.equal(pictures.pixels[k], (pair * 255).round().byte())
            own = {name: values[i].item() for name, values in drawn[worst].items()}
            assert pictures.words[k] == describe(own)


def test_batches_change_nothing():
    net, images = network(), data()
    whole = pictured(net, images, COUNT)
    for batch in (1, 7, 30):
        for name, pictures in pictured(net, images, batch).items():
            assert torch.equal(pictures.images, whole[name].images)
            assert torch.equal(pictures.versions, whole[name].versions)
            assert torch.equal(pictures.pixels, whole[name].pixels)
            assert pictures.words == whole[name].words


def test_few_images_are_all_shown():
    images = data()[:5]
    found = pictured(network(), images)
    for pictures in found.values():
        assert sorted(pictures.images.tolist()) == [0, 1, 2, 3, 4]
        assert pictures.pixels.shape == (5, 2, 3, 12, 15)
        assert pictures.pixels.dtype == torch.uint8


@pytest.mark.parametrize(
    ("side", "size"), [(93, (93, 96)), (200, (95, 96)), (9, (9, 12))]
)
def test_thumbnails_are_small_and_smooth(side, size):
    """Longest side at most 96, antialiased; any number of channels."""
    images = data(side=side, channels=1)[:3]
    found = pictured(network(channels=1), images)["holds"]
    assert found.pixels.shape == (3, 2, 1, *size)
    expected = F.interpolate(images, size, mode="bilinear", antialias=True)
    expected = (expected * 255).round().byte()[found.images]
    assert torch.equal(found.pixels[:, 0], expected)


def test_a_network_that_returns_nan_breaks_nothing_else():
    net = network()
    images = data()
    nn.init.constant_(net.classifier.bias, torch.nan)
    found = pictured(net, images)
    assert found["breaks"].images.tolist() == list(range(KEPT))


def test_words_tell_what_was_drawn():
    """Those parameters that change something; nothing of schemes that tell none."""
    still = {"flip": 1.0, "shift_x": 0.0, "shift_y": 0.0, "zoom_x": 1.0, "zoom_y": 1.0}
    still |= {"rotation": 0.0, "shear": 0.0, "contrast": 1.0, "brightness": 0.0}
    assert describe({}) == describe(still) == ""
    changed = {"rotation": -0.3665, "zoom_x": 0.83, "zoom_y": 0.83, "contrast": 0.7}
    assert describe(still | changed) == (
        "rotation -21 degrees, zoom 0.83, contrast 0.70"
    )
    draw = random.Random(0)
    zoom = draw.uniform(1.1, 1.9)
    changed = {"flip": -1.0, "shift_x": -0.05, "zoom_x": zoom, "shear": 0.15}
    assert describe(still | changed | {"brightness": 0.124}) == (
        f"flipped, zoom {zoom:.2f} x 1.00, shift -5% right, 0% down, "
        "shear 9 degrees, brightness +0.12"
    )
    images = data()[:3]
    found = pictured(network(), images, scheme=lambda rows: rows.flip(3))
    assert found["breaks"].words == [""] * 3
