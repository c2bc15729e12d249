"""Similarity as a group of measures: between layers, networks and given matrices."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import SmallNet
from torch import nn

from dai_plugin import measure, select_layers
from dai_plugin.measures.compared import Similarity, between
from dai_plugin.measures.data import Batches
from dai_plugin.measures.dissimilarity import dissimilarity_matrices
from dai_plugin.measures.matrix_files import load_subjects
from dai_plugin.measures.similarity import linear_cka, noise_ceiling, rdm_correlation
from dai_plugin.measures.taps import Taps

PIXELS = {"mean": 0.0, "std": 1.0}
METRICS = ["correlation", "euclidean"]


@pytest.fixture
def images():
    return torch.rand(9, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def network(seed=0):
    """One whose activations are never constant."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Tanh(),
        nn.Conv2d(6, 4, 3),
        nn.Flatten(),
        nn.Linear(256, 5),
    ).eval()


def tables(similarity, net, data, layers):
    """Its tables, of [0, 1] pixels."""
    taps = Taps(net, select_layers(net, layers))
    return similarity.tables(Batches(net, data, 0.0, 1.0, "cpu"), taps)


def subjects(count, images, seed=0):
    torch.manual_seed(seed)
    found = torch.rand(count, images, images, dtype=torch.float64).triu(1)
    return found + found.mT


def literal_cka(a, b):
    """Kornblith et al., of centred activations `[N, D]`, entry by entry."""
    a, b = (x.double().flatten(1) for x in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    cross = sum(
        (a[:, i] @ b[:, j]) ** 2 for i in range(a.shape[1]) for j in range(b.shape[1])
    )
    return cross / ((a.T @ a).norm() * (b.T @ b).norm())


@pytest.mark.parametrize("metric", METRICS)
def test_tables_are_the_functions(images, metric):
    """Every number is that of `similarity` for its pair of layers, in any batches."""
    net, given = network(), subjects(3, 9)
    own, squared = (
        dissimilarity_matrices(net, images, layers=["0", "2", "4"], metric=m, **PIXELS)
        for m in (metric, "euclidean")
    )
    ceiling = noise_ceiling(given)
    for data in (images, images.split(4)):
        found = tables(Similarity(metric, given), net, data, ["0", "2", "4"])
        names = ["input", "0", "2", "4"]
        assert list(found["dissimilarity"]) == names
        assert ("squared_distance" in found) == (metric == "correlation")
        for name in names:
            matrix = found["dissimilarity"][name].double()
            torch.testing.assert_close(matrix, own[name], rtol=1e-5, atol=1e-6)
            expected = [rdm_correlation(own[name], each) for each in given]
            assert found["rdm"][name].tolist() == pytest.approx(expected, abs=1e-5)
        for i, j in itertools.product(range(4), repeat=2):
            a, b = names[i], names[j]
            cka = linear_cka(squared[a], squared[b])
            order = rdm_correlation(own[a], own[b])
            assert found["cka"]["layers"][i, j] == pytest.approx(cka, abs=1e-5)
            got = found["rank_correlation"]["layers"][i, j]
            assert got == pytest.approx(order, abs=1e-5)
        bounds = [found["noise_ceiling"][end].item() for end in ("lower", "upper")]
        assert bounds == pytest.approx(list(ceiling), abs=1e-6)


@torch.no_grad()
def test_cka_is_of_activations(images):
    """Of the features themselves, though they are never kept."""
    net = network()
    found = tables(Similarity(), net, images, ["0", "4"])
    small, wide = net(images), net[0](images).mean((2, 3))
    head = nn.Sequential(net[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    own = tables(Similarity(), head, images, ["2"])
    expected = literal_cka(small, wide)
    assert between(found, own)[2, 1].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_networks_are_compared_from_their_tables(images, metric):
    one, other = (
        tables(Similarity(metric), network(seed), images, layers)
        for seed, layers in ((0, ["0", "4"]), (1, ["2"]))
    )
    cka, order = (between(one, other, kind) for kind in ("cka", "rank_correlation"))
    assert cka.shape == order.shape == (3, 2)
    assert cka[0, 0] == pytest.approx(1, abs=1e-6)  # the same pixels
    assert order[0, 0] == pytest.approx(1, abs=1e-6)
    squared = "squared_distance" if metric == "correlation" else "dissimilarity"
    for (i, a), (j, b) in itertools.product(
        enumerate(one["dissimilarity"]), enumerate(other["dissimilarity"])
    ):
        expected = linear_cka(one[squared][a], other[squared][b])
        assert cka[i, j] == pytest.approx(expected, abs=1e-5)
        expected = rdm_correlation(one["dissimilarity"][a], other["dissimilarity"][b])
        assert order[i, j] == pytest.approx(expected, abs=1e-5)
    own = between(one, one)
    torch.testing.assert_close(own, one["cka"]["layers"], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="'cka' or 'rank_correlation', got 'rsa'"):
        between(one, other, "rsa")
    few = tables(Similarity(metric), network(), images[:5], ["0"])
    with pytest.raises(ValueError, match=r"got sizes .*\[9, 9\].*\[5, 5\]"):
        between(one, few)


def test_one_subject_has_no_ceiling(images):
    found = tables(Similarity(rdm=subjects(1, 9)[0]), network(), images, ["0"])
    assert found["rdm"]["0"].shape == (1,)
    assert "noise_ceiling" not in found
    assert "rdm" not in tables(Similarity(), network(), images, ["0"])


def test_dead_layers_are_nan_alone(images, caplog):
    """What has no correlation is NaN, and spoils no other layer."""
    net = network()
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    found = tables(Similarity(), net, images, ["0", "2"])
    for name in ("cka", "rank_correlation"):
        table = found[name]["layers"]
        assert table[:2, :2].isfinite().all()
        assert table[2].isnan().all()
        assert table[:, 2].isnan().all()
    assert "constant or not finite: 2 (9 images)" in caplog.text


def test_other_images_are_refused(images):
    similarity = Similarity(rdm=subjects(2, 8))
    for data in (images, images.split(2)):
        with pytest.raises(ValueError, match="rdm is of 8 images, but data holds 9; "):
            measure(network(), data, measures=similarity, **PIXELS)


def test_other_images_in_a_later_pass_are_found_out(images):
    """Those of the first pass of all groups are the ones that are compared."""

    class Fresh:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield images if self.passes < 3 else images.flip(0)

    with pytest.raises(ValueError, match="images in another order in a later pass"):
        measure(network(), Fresh(), measures=("output", "similarity"), **PIXELS)


def test_the_memory_of_many_images_is_told(images, caplog, monkeypatch):
    monkeypatch.setattr("dai_plugin.measures.compared._MANY", 8)
    measure(network(), images, measures="similarity", layers=["0"], **PIXELS)
    assert "matrices of 9 images take 0 GB of memory (2 layers" in caplog.text


def test_files_of_subjects(tmp_path):
    """The same matrices, whatever they are written in."""
    given = subjects(3, 5)
    np.save(tmp_path / "all.npy", given.numpy())
    np.save(tmp_path / "one.npy", given[0].numpy())
    np.savez(tmp_path / "all.npz", it=given.numpy())
    np.savez(tmp_path / "each.npz", a=given[0], rest=given[1:])
    np.savetxt(tmp_path / "one.csv", given[0].numpy(), delimiter=",")
    for name in ("all.npy", "all.npz", "each.npz"):
        assert torch.equal(load_subjects(tmp_path / name), given)
    for name in ("one.npy", "one.csv"):
        found = load_subjects(str(tmp_path / name))
        torch.testing.assert_close(found, given[:1], rtol=0, atol=1e-15)
    found = Similarity(rdm=tmp_path / "all.npz")
    assert torch.equal(found._subjects(), given)


def written(folder, name):
    """A file that holds no matrices of one size."""
    path = folder / name
    if name == "two.npz":
        np.savez(path, a=np.zeros((3, 3)), b=np.zeros((4, 4)))
    elif name == "none.npz":
        np.savez(path)
    elif name == "flat.npy":
        np.save(path, np.zeros((3, 4)))
    else:
        path.write_text("1;2\n3;4\n")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two.npz", r"holds matrices of \[3, 4\] images; all subjects saw the same"),
        ("none.npz", "holds matrices of no images"),
        ("flat.npy", r"holds 'the array' of shape \[3, 4\] and type float64"),
        ("words.csv", r"words\.csv holds no matrices \("),
        ("bytes.npz", r"bytes\.npz holds no matrices \("),
        ("rdm.mat", r"rdm\.mat must be a file \.npz, \.npy, \.csv of dissimilarity"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        Similarity(rdm=written(tmp_path, name))


def test_settings_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="metric must be 'correlation' or 'euclid"):
        Similarity("cosine")
    with pytest.raises(ValueError, match="is symmetric, got one that is not"):
        Similarity(rdm=torch.arange(9.0).view(3, 3))
    with pytest.raises(ValueError, match=re.escape("at least 3; got [2, 2]")):
        Similarity(rdm=torch.zeros(2, 2))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.npz"):
        Similarity(rdm=tmp_path / "no.npz")


def test_a_network_with_a_head_of_its_own(images):
    """Any network, its layers chosen as everywhere."""
    found = tables(Similarity(), SmallNet(), images, "auto")
    assert found["cka"]["layers"].shape[0] == len(found["dissimilarity"])
