"""Attacks as versions of images: along the radius, at labels or predictions."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from torch import nn

import dai_plugin
from dai_plugin import measure
from dai_plugin.measures.adversary import adversarial
from dai_plugin.measures.attacked import SPATIAL, Attacks, name_of
from dai_plugin.measures.attacks import PGD, fgsm
from dai_plugin.measures.data import Batch
from dai_plugin.measures.spatial import WorstOf
from dai_plugin.measures.versions import Unfit
from dai_plugin.views.normalization import Normalization

PIXELS = {"mean": 0.0, "std": 1.0}
NONE = Normalization()
CARRIED = Normalization.given((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LABELS = torch.arange(24) % 3


@pytest.fixture(scope="module")
def pixels():
    """Noise on three patterns, each the brighter in one channel."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(24, 3, 12, 12, generator=generator)
    return 0.85 * noise + 0.15 * F.one_hot(LABELS, 3)[:, :, None, None]


@pytest.fixture(scope="module")
def trained(pixels):
    """Two networks that tell the patterns apart."""

    def train(seed):
        torch.manual_seed(seed)
        net = SmallNet(3)
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(25):
            optimizer.zero_grad()
            F.cross_entropy(net(pixels), LABELS, label_smoothing=0.2).backward()
            optimizer.step()
        optimizer.zero_grad()
        return net.eval()

    return train(0), train(1)


def a_batch(pixels, labels=LABELS, carried=NONE, start=0):
    return Batch(start, carried.carry(pixels, pixels), pixels, labels)


def versions(net, attacks, batch, carried=NONE, seed=0):
    """By name of the series, the versions as they reach the network."""
    return {
        series.name: [v.images for v in series.source.versions(batch, carried)]
        for series in attacks.series(net, seed)
    }


def accuracy(net, images):
    with torch.no_grad():
        return net(images).argmax(1).eq(LABELS).float().mean().item()


def test_versions_are_those_of_the_attacks(trained, pixels):
    """With their settings, behind the normalisation; "spatial" along its tries."""
    net, eps = copy.deepcopy(trained[0]), (0.01, 0.05)
    carried = Normalization.given(0.0, (0.5, 1.0, 2.0))
    attacks = Attacks(("fgsm", "pgd", "spatial"), eps, 3, 2, "margin")
    batch = a_batch(pixels, carried=carried)
    found = versions(net, attacks, batch, carried, seed=4)
    run = partial(adversarial, model=net, images=batch.images, labels=LABELS)
    pgd = partial(PGD, steps=3, restarts=2, loss="margin", seed=4)
    expected = {
        "attacks:fgsm": [fgsm(e, loss="margin") for e in eps],
        "attacks:pgd": [pgd(e) for e in eps],
        "attacks:spatial": [WorstOf(SPATIAL, k, 4) for k in (1, 3, 10)],
    }
    assert list(found) == list(expected)
    for name, images in found.items():
        for one, attack in zip(images, expected[name], strict=True):
            literal = run(attack, normalization=carried)
            torch.testing.assert_close(one, carried.carry(literal, one))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_series_lie_along_radii_and_tries(norm):
    attacks = Attacks(("fgsm", "spatial", "pgd"), (1 / 255, 0.5), norm=norm)
    fgsm_, spatial, pgd = attacks.series(nn.Identity(), 0)
    values = (1.0, 127.5) if norm == "linf" else (1 / 255, 0.5)
    unit = "of 255" if norm == "linf" else "length"
    assert (fgsm_.axis.name, fgsm_.axis.unit) == ("eps", unit)
    assert fgsm_.axis.values == pytest.approx(values)
    assert pgd.axis == fgsm_.axis
    assert (spatial.axis.name, spatial.axis.values) == ("k", (1.0, 3.0, 10.0))
    assert 0 < fgsm_.cost < spatial.cost < pgd.cost


def test_more_never_helps_the_defender(trained, pixels):
    """Gradients are not masked: larger radii, more steps and more tries fool more."""
    net = copy.deepcopy(trained[0])
    eps, clean = (0.01, 0.03, 0.06), accuracy(trained[0], pixels)
    rates = {}
    for steps in (1, 4, 16):
        attacks = Attacks(("pgd", "spatial"), eps, steps)
        found = versions(net, attacks, a_batch(pixels))
        rates[steps] = [accuracy(net, x) for x in found["attacks:pgd"]]
        tries = [accuracy(net, x) for x in found["attacks:spatial"]]
        for row in ([clean, *rates[steps]], [clean, *tries]):
            assert row == sorted(row, reverse=True)
    for fewer, more in ((1, 4), (4, 16)):
        assert all(a >= b for a, b in zip(rates[fewer], rates[more], strict=True))
    assert rates[16][-1] < rates[1][-1] < clean


def test_attacks_on_another_network_are_weaker(trained, pixels):
    """Black-box transfer fools less than the same attack on the network itself."""
    one, other = map(copy.deepcopy, trained)
    attacks = Attacks(("pgd",), (0.03, 0.06), 8)
    made = [versions(net, attacks, a_batch(pixels)) for net in (one, other)]
    made = [found["attacks:pgd"] for found in made]
    for own, (white, black) in ((one, made), (other, made[::-1])):
        rates = [
            (accuracy(own, w), accuracy(own, b))
            for w, b in zip(white, black, strict=True)
        ]
        assert all(w <= b for w, b in rates), rates
        assert rates[-1][0] < rates[-1][1], rates


def test_without_labels_predictions_are_attacked(trained, pixels):
    net = copy.deepcopy(trained[0])
    with torch.no_grad():
        predicted = net(pixels).argmax(1)
    attacks = Attacks(("pgd",), (0.05,), 3)
    blind = versions(net, attacks, a_batch(pixels, None))
    told = versions(net, attacks, a_batch(pixels, predicted))
    assert torch.equal(blind["attacks:pgd"][0], told["attacks:pgd"][0])


def test_batches_change_nothing(trained, pixels):
    net = copy.deepcopy(trained[0]).double()
    pixels = pixels.double()
    attacks = Attacks(("fgsm", "pgd", "spatial"), (0.04,), 3)
    whole = versions(net, attacks, a_batch(pixels))
    parts, start = [], 0
    for part, labels in zip(pixels.split(7), LABELS.split(7), strict=True):
        parts.append(versions(net, attacks, a_batch(part, labels, start=start)))
        start += len(part)
    for name, images in whole.items():
        for k, one in enumerate(images):
            together = torch.cat([part[name][k] for part in parts])
            torch.testing.assert_close(one, together, rtol=0, atol=1e-6)


def test_attacks_of_ones_own(trained, pixels):
    """Any callable on pixels is a series of one version, by its name."""

    def darker(model, images, labels):
        assert 0 <= images.min() <= images.max() <= 1
        assert model(images).shape == (len(labels), 3)
        return (images - 0.1).clamp(0, 1)

    net = copy.deepcopy(trained[0])
    attacks = Attacks((darker, PGD(0.02, steps=2)))
    batch = a_batch(pixels, carried=CARRIED)
    found = versions(net, attacks, batch, CARRIED)
    assert list(found) == ["attacks:darker", "attacks:PGD"]
    (moved,) = found["attacks:darker"]
    expected = (pixels - 0.1).clamp(0, 1)
    torch.testing.assert_close(moved, CARRIED.carry(expected, pixels))
    assert name_of(partial(darker, 1)) == "darker"


class Wrapped(nn.Module):
    """A network that returns a dict, or something else of the logits."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


def test_logits_are_found_in_what_a_network_returns(trained, pixels):
    net = copy.deepcopy(trained[0])
    attacks = Attacks(("pgd",), (0.03,), 2)
    plain = versions(net, attacks, a_batch(pixels))
    inside = Wrapped(net, lambda z: {"loss": None, "logits": z})
    assert torch.equal(
        versions(inside, attacks, a_batch(pixels))["attacks:pgd"][0],
        plain["attacks:pgd"][0],
    )


def test_a_network_without_a_gradient_says_so(trained, pixels, caplog):
    """Only the attacks that need one are unfit."""
    net = Wrapped(copy.deepcopy(trained[0]), torch.Tensor.detach)
    spatial, pgd = Attacks(("spatial", "pgd")).series(net, 0)
    assert len(list(spatial.source.versions(a_batch(pixels), NONE))) == 3
    spatial.source.check(a_batch(pixels))
    with pytest.raises(Unfit, match="no gradient reaches the images from what"):
        pgd.source.check(a_batch(pixels))
    asked = ["output", Attacks(("spatial", "pgd"))]
    found = measure(net, pixels, measures=asked, num_transforms=1, **PIXELS)
    assert list(found.tables) == ["output", "attacks:spatial"]
    assert "attacks:pgd is left out: no gradient reaches the images" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_networks_are_attacked(trained, pixels, dtype):
    """Versions come in the images' dtype, pixels within the radius but for it."""
    net = copy.deepcopy(trained[0]).to(dtype)
    batch = Batch(0, pixels.to(dtype), pixels.to(dtype).float(), LABELS)
    (found,) = versions(net, Attacks(("pgd",), (0.05,), 3), batch).values()
    assert found[0].dtype == dtype
    assert accuracy(net, found[0]) < accuracy(net, pixels.to(dtype))
    assert (found[0].float() - batch.pixels).abs().max() < 0.05 + 0.005


def test_measured_attached_or_not(trained, pixels):
    """An attached network is attacked as if it were not, and stays attached."""
    net = copy.deepcopy(trained[0])
    asked = ["output", Attacks(("fgsm", "pgd"), (0.02, 0.05), 3)]
    options = {"measures": asked, "num_transforms": 1, **PIXELS}
    data = list(zip(pixels.split(10), LABELS.split(10), strict=True))
    plain = measure(net, data, **options).tables
    before = copy.deepcopy(net.state_dict())
    net, _ = dai_plugin.attach(net.train(), nn.CrossEntropyLoss())
    attached = measure(net, data, **options).tables
    for name in ("attacks:fgsm", "attacks:pgd"):
        rates = plain[name]["accuracy_transformed"]["output"]
        assert rates.shape == (24, 2)
        for measured, places in plain[name].items():
            for place, table in places.items():
                assert torch.equal(table, attached[name][measured][place]) or (
                    table.isnan().any()
                )
    assert net.training
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in net.parameters())
    dai_plugin.attached(net).remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ("deepfool",)}, "some of fgsm, pgd, spatial or callables .*deepf"),
        ({"attacks": ()}, r"got \[\] at \[0"),
        ({"eps": ()}, r"at some eps; got \['fgsm', 'pgd'\] at \[\]"),
        ({"attacks": ("pgd", "pgd")}, "two attacks of the name 'pgd': .* __name__"),
        ({"eps": (8,)}, r"eps must lie in \[0, 1\], as pixels do, got 8"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"loss": "mse"}, "unknown loss 'mse'"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Attacks(**options)
