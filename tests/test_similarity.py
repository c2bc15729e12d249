"""Dissimilarity matrices and their comparison agree with the literal formulas."""

import gc
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SmallNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dai_plugin
from dai_plugin.measures.dissimilarity import dissimilarity_matrices
from dai_plugin.measures.matrix_files import load_matrices, save_matrices
from dai_plugin.measures.similarity import (
    linear_cka,
    noise_ceiling,
    rdm_correlation,
)

PIXELS = {"mean": 0.0, "std": 1.0}
PAGE = (Path(__file__).parents[1] / "docs" / "similarity.md").read_text()


@pytest.fixture
def images():
    return torch.rand(11, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def literal(rows, metric):
    """Pair by pair in float64."""
    rows = rows.double().flatten(1)
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, j in itertools.permutations(range(len(rows)), 2):
        if metric == "correlation":
            out[i, j] = 1 - torch.corrcoef(rows[[i, j]])[0, 1]
        else:
            out[i, j] = (rows[i] - rows[j]).square().mean()
    return out


def symmetric(n, seed=0, values=None):
    """A random matrix with a zero diagonal; few values make ties."""
    generator = torch.Generator().manual_seed(seed)
    m = torch.rand(n, n, generator=generator, dtype=torch.float64)
    if values:
        m = (m * values).floor()
    return m.triu(1) + m.triu(1).T


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
@pytest.mark.parametrize("layers", ["auto", "features.*"])
def test_matrices_agree_with_all_pairs(net, images, layers, metric):
    """Each number is the formula of its pair, at layers that are overwritten too."""
    net.eval()
    found = dissimilarity_matrices(
        net, images.split(4), layers=layers, metric=metric, **PIXELS
    )
    names = dai_plugin.select_layers(net, layers)
    assert list(found) == ["input", *names]
    torch.testing.assert_close(
        found["input"], literal(images, metric), atol=1e-6, rtol=0
    )
    rows = images
    for i, module in enumerate(net.features):
        rows = module(rows.clone()).detach()
        if f"features.{i}" in found:
            expected = literal(rows, metric)
            torch.testing.assert_close(
                found[f"features.{i}"], expected, atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_matrices_do_not_depend_on_batches(net, images, metric):
    """Batches of any size; symmetric to the bit, with a zero diagonal."""
    whole = dissimilarity_matrices(net, images, metric=metric, **PIXELS)
    loader = DataLoader(TensorDataset(images, torch.arange(11)), batch_size=4)
    for data in (images.split(1), images.split(3), loader):
        found = dissimilarity_matrices(net, data, metric=metric, **PIXELS)
        for name, matrix in found.items():
            assert matrix.dtype == torch.float64
            assert torch.equal(matrix, matrix.T)
            assert not matrix.diagonal().any()
            torch.testing.assert_close(matrix, whole[name], atol=1e-6, rtol=0)


def test_features_are_taken_in_pieces(net, images, monkeypatch):
    """The sums do not depend on how many features are looked at together."""
    whole = dissimilarity_matrices(net, images, **PIXELS)
    monkeypatch.setattr("dai_plugin.measures.dissimilarity._CHUNK", 37)
    for name, matrix in dissimilarity_matrices(net, images, **PIXELS).items():
        torch.testing.assert_close(matrix, whole[name], atol=1e-12, rtol=0)


def test_equal_and_nearly_equal_images(net, images):
    """The same image twice is at 0; a distance far below the pixels' size is kept."""
    images[1], images[2] = images[0], images[0] + 1e-4
    for metric in ("correlation", "euclidean"):
        found = dissimilarity_matrices(net, images.split(1), metric=metric, **PIXELS)
        for matrix in found.values():
            assert 0 <= matrix[0, 1] < 1e-12
    expected = literal(images, "euclidean")[0, 2]
    torch.testing.assert_close(found["input"][0, 2], expected, atol=0, rtol=1e-5)


def test_no_rounding_below_zero_and_none_instead_of_nan(images):
    """In double precision, where sums round: near images, and constant ones."""
    net = nn.Sequential(
        nn.MaxPool2d(2, dilation=2), nn.Conv2d(3, 7, 2), nn.ReLU()
    ).double()
    noise = torch.rand(11, 3, 12, 12, dtype=torch.float64) * 1e-10
    near = images[:1].double() + noise
    constant = torch.full((1, 3, 12, 12), 0.1, dtype=torch.float64)  # its mean is not
    data = torch.cat([near, constant]).split(1)
    for metric in ("correlation", "euclidean"):
        found = dissimilarity_matrices(
            net, data, layers=["0", "2"], metric=metric, **PIXELS
        )
        for matrix in found.values():
            assert (matrix[:11, :11] >= 0).all()
        assert found["0"][11].isnan().all() == (metric == "correlation")


def test_memory_is_two_batches_of_activations(images):
    """However many images: no more rows of a layer are alive than two batches have."""
    net, alive = nn.Sequential(nn.Conv2d(3, 7, 2), nn.ReLU()), []
    features = 7 * 11 * 11

    def count(*_):
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
        storages = {
            t.untyped_storage().data_ptr(): len(t)
            for t in tensors
            if t.dim() > 1 and math.prod(t.shape[1:]) == features
        }
        alive.append(sum(storages.values()))

    net[1].register_forward_hook(count)
    dissimilarity_matrices(
        net, images.repeat(2, 1, 1, 1)[:20].split(4), layers="1", **PIXELS
    )
    assert len(alive) == 5 * 6 / 2
    assert max(alive) <= 3 * 4  # the kept one; what enters the layer, what leaves it


def test_constant_activations_are_nan_and_said(net, images, caplog):
    """A correlation with a constant does not exist; a distance does."""
    images[4] = 0.3
    found = dissimilarity_matrices(net, images.split(4), **PIXELS)
    others = torch.arange(11) != 4
    assert found["input"][4].isnan().all()
    assert found["input"][:, 4].isnan().all()
    assert found["input"][others][:, others].isfinite().all()
    assert "constant or not finite: input (1 images)" in caplog.text
    assert "features" not in caplog.text.split("not finite")[1]
    distances = dissimilarity_matrices(net, images, metric="euclidean", **PIXELS)
    assert distances["input"].isfinite().all()
    complete = symmetric(11)
    assert math.isnan(rdm_correlation(found["input"], complete))
    assert math.isnan(rdm_correlation(complete, found["input"], "tau-a"))
    assert math.isnan(linear_cka(found["input"], complete))
    assert math.isnan(noise_ceiling([complete, found["input"], complete]).lower)
    kept = found["input"][others][:, others]
    assert math.isfinite(rdm_correlation(kept, complete[others][:, others]))


class Spoiling(nn.Module):
    """Not finite for an image with a white pixel."""

    def forward(self, x):
        return x / (x.amax((1, 2, 3), keepdim=True) < 1)


def test_an_activation_that_is_not_finite_spoils_its_own_pairs_alone(
    net, images, caplog
):
    """Whatever the batches; it is said where."""
    images = images.sigmoid()
    images[7, 0, 3, 3] = 1.0
    net = nn.Sequential(Spoiling(), net)
    for metric in ("correlation", "euclidean"):
        found = dissimilarity_matrices(net, images.split(4), metric=metric, **PIXELS)
        others = torch.arange(11) != 7
        for name, matrix in found.items():
            assert matrix[7, others].isnan().all() == (name != "input")
            assert matrix[others][:, others].isfinite().all()
        assert "1.features.2 (1 images)" in caplog.messages[-1]
        assert "input" not in caplog.messages[-1]


def test_the_model_is_left_as_it_was(net, images):
    """Mode and hooks."""
    net.features[1].eval()
    dissimilarity_matrices(net, images, **PIXELS)
    assert net.training
    assert not net.features[1].training
    assert not any(m._forward_hooks for m in net.modules())


class OneNumber(nn.Module):
    """A layer with one number an image, in no dimension of its own."""

    def forward(self, x):
        return x.mean((1, 2, 3))


def test_a_layer_may_have_one_number_an_image(images):
    """Distances exist, correlations do not."""
    net = nn.Sequential(nn.ReLU(), OneNumber())
    found = dissimilarity_matrices(
        net, images, layers="1", metric="euclidean", **PIXELS
    )
    values = images.double().mean((1, 2, 3))
    torch.testing.assert_close(
        found["1"], (values[:, None] - values).square(), atol=1e-6, rtol=0
    )
    found = dissimilarity_matrices(net, images, layers="1", **PIXELS)
    assert found["1"].isnan().all()


class Changing:
    """Batches that are others in each pass."""

    def __init__(self, *passes):
        self.passes = iter(passes)

    def __iter__(self):
        return iter(next(self.passes))


def test_data_that_cannot_be_compared_is_refused(net, images):
    """Too few images, other images each time, other sizes, unknown words."""
    with pytest.raises(ValueError, match="data holds 2 images; with fewer than 3"):
        dissimilarity_matrices(net, images[:2], **PIXELS)
    with pytest.raises(ValueError, match="'correlation' or 'euclidean', got 'cosine'"):
        dissimilarity_matrices(net, images, metric="cosine")
    batches = images.split(4)
    for second in (batches[::-1], batches[:2], [*batches, images]):
        with pytest.raises(ValueError, match=r"data gave .* in a later"):
            dissimilarity_matrices(net, Changing(batches, second, second), **PIXELS)
    shuffled = DataLoader(TensorDataset(images), batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match="draws its images by a RandomSampler"):
        dissimilarity_matrices(net, shuffled, **PIXELS)
    wide = [images, torch.rand(2, 3, 16, 12)]
    with pytest.raises(ValueError, match=r"image 11 is of size \[3, 16, 12\]"):
        dissimilarity_matrices(net, wide, **PIXELS)
    with pytest.raises(TypeError, match="one-shot generator"):
        dissimilarity_matrices(net, (batch for batch in batches))


@pytest.mark.parametrize("n", [3, 4, 9, 17])
@pytest.mark.parametrize("values", [None, 2, 5])
def test_rank_correlations_agree_with_all_pairs_of_pairs(n, values):
    """Literal ranks and literal signs, with and without ties."""
    a, b = symmetric(n, 1, values), symmetric(n, 2, values)
    i, j = torch.triu_indices(n, n, 1)
    x, y = a[i, j], b[i, j]
    signs = (x[:, None] - x).sign() * (y[:, None] - y).sign()
    expected = float(signs.triu(1).sum()) / math.comb(len(x), 2)
    assert rdm_correlation(a, b, "tau-a") == pytest.approx(expected, abs=1e-12)
    ranks = [
        (v[:, None] > v).sum(1) + ((v[:, None] == v).sum(1) + 1) / 2 for v in (x, y)
    ]
    expected = float(torch.corrcoef(torch.stack(ranks))[0, 1])
    found = rdm_correlation(a, b)
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_rank_correlations_of_the_same_order():
    """1 for any growing function of a matrix, -1 for a falling one."""
    a = symmetric(8)
    for method in ("spearman", "tau-a"):
        assert rdm_correlation(a, a.exp(), method) == pytest.approx(1)
        assert rdm_correlation(a, -a.exp(), method) == pytest.approx(-1)


def literal_cka(x, y, debiased):
    """Of activations: traces, as Song et al. and Kornblith et al. write them."""
    n = len(x)
    gram = [rows @ rows.T for rows in (x, y)]
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    one = torch.ones(n, dtype=torch.float64)

    def biased_hsic(k, m):
        return (k @ h @ m @ h).trace() / (n - 1) ** 2

    def unbiased_hsic(k, m):
        k, m = (each - each.diag().diag() for each in (k, m))
        sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        mixed = 2 / (n - 2) * (one @ k @ m @ one)
        return ((k @ m).trace() + sums - mixed) / (n * (n - 3))

    hsic = unbiased_hsic if debiased else biased_hsic
    k, m = gram
    return float(hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt())


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_agrees_with_the_formula_over_activations(debiased):
    """The distances hold what the activations' inner products do."""
    generator = torch.Generator().manual_seed(0)
    for n, d, e in [(4, 3, 5), (9, 2, 40), (20, 7, 7)]:
        x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 3
        y = torch.randn(n, e, generator=generator, dtype=torch.float64)
        y[:, :2] += x[:, :2]
        a, b = literal(x, "euclidean"), literal(y, "euclidean")
        expected = literal_cka(x, y, debiased)
        assert linear_cka(a, b, debiased=debiased) == pytest.approx(expected, abs=1e-9)
        turned = x @ torch.linalg.qr(torch.randn(d, d).double())[0] * 5 - 2
        same = linear_cka(a, literal(turned, "euclidean"), debiased=debiased)
        assert same == pytest.approx(1)


def test_debiased_cka_of_unrelated_features_is_near_zero():
    """Where the biased one is far from it: fewer images than features."""
    generator = torch.Generator().manual_seed(0)
    found = [
        literal(torch.randn(12, 400, generator=generator), "euclidean")
        for _ in range(12)
    ]
    pairs = list(zip(found[::2], found[1::2], strict=True))
    biased = [linear_cka(a, b) for a, b in pairs]
    debiased = [linear_cka(a, b, debiased=True) for a, b in pairs]
    assert min(biased) > 0.9
    assert abs(sum(debiased)) / len(pairs) < 0.15


def test_layers_of_a_network_are_compared(net, images):
    """Every measure is 1 for a network beside itself, less for another one."""
    torch.manual_seed(1)
    other = SmallNet()
    one = dissimilarity_matrices(net, images, metric="euclidean", **PIXELS)
    two = dissimilarity_matrices(other, images, metric="euclidean", **PIXELS)
    for measure in (rdm_correlation, linear_cka):
        for name in one:
            assert measure(one[name], one[name]) == pytest.approx(1)
        assert measure(one["features.4"], two["features.4"]) < 0.999
        assert measure(one["input"], two["input"]) == pytest.approx(1)


@pytest.mark.parametrize("method", ["spearman", "tau-a"])
def test_the_noise_ceiling_is_literal(method):
    """Each subject with the mean of all ranks, and with that of the others."""
    subjects = torch.stack([symmetric(6, 9) + symmetric(6, s) for s in range(4)])
    i, j = torch.triu_indices(6, 6, 1)
    ranks = torch.zeros_like(subjects)
    ranks[:, i, j] = subjects[:, i, j].argsort(1).argsort(1).double()
    ranks = ranks + ranks.mT
    lower, upper = noise_ceiling(subjects, method)
    everyone = [rdm_correlation(s, ranks.mean(0), method) for s in subjects]
    assert upper == pytest.approx(sum(everyone) / 4)
    others = [
        rdm_correlation(
            subjects[s], ranks[[t for t in range(4) if t != s]].mean(0), method
        )
        for s in range(4)
    ]
    assert lower == pytest.approx(sum(others) / 4)
    assert lower < upper < 1
    same = noise_ceiling([subjects[0]] * 3, method)
    assert same == pytest.approx((1, 1))


REFUSED = [
    (symmetric(4), symmetric(5), r"got sizes \[4, 4\], \[5, 5\]"),
    (symmetric(2), symmetric(2), r"at least 3; got \[2, 2\]"),
    (torch.rand(4, 5), symmetric(4), r"\[N, N\] for N images.*got \[4, 5\]"),
    (symmetric(4)[None], symmetric(4), r"got \[1, 4, 4\]"),
    (symmetric(4).triu(), symmetric(4), "is symmetric, got one that is not"),
]


@pytest.mark.parametrize(("a", "b", "message"), REFUSED)
def test_matrices_that_do_not_fit_are_refused(a, b, message):
    """By both measures and among subjects."""
    for measure in (rdm_correlation, linear_cka):
        with pytest.raises(ValueError, match=message):
            measure(a, b)
    with pytest.raises(ValueError, match=message):
        noise_ceiling([a, b])


def test_words_and_numbers_that_do_not_fit_are_refused():
    """Methods, a single subject, similarities for distances, 3 images debiased."""
    a = symmetric(3)
    with pytest.raises(ValueError, match="'spearman' or 'tau-a', got 'pearson'"):
        rdm_correlation(a, a, "pearson")
    with pytest.raises(ValueError, match="'spearman' or 'tau-a', got 'pearson'"):
        noise_ceiling([a, a], "pearson")
    with pytest.raises(ValueError, match="at least 2 subjects, got 1"):
        noise_ceiling(a[None])
    with pytest.raises(ValueError, match="the diagonal must be 0"):
        linear_cka(a + 1, a)
    with pytest.raises(ValueError, match=r"at least 4; got \[3, 3\]"):
        linear_cka(a, a, debiased=True)


def test_matrices_are_saved_and_loaded(tmp_path):
    """To the bit, in order, under any name; numpy reads the same file."""
    matrices = {
        "input": symmetric(5),
        "layer1.0.relu:1": symmetric(5, 1),
        "file": symmetric(5, 2),
        "output of the network": symmetric(5, 3),
    }
    save_matrices(tmp_path / "net.npz", matrices)
    found = load_matrices(tmp_path / "net.npz")
    assert list(found) == list(matrices)
    assert all(torch.equal(found[name], m) for name, m in matrices.items())
    with np.load(tmp_path / "net.npz") as arrays:
        assert np.array_equal(arrays["file"], matrices["file"].numpy())
    subjects = torch.stack([symmetric(5), symmetric(5, 1)]).float()
    np.savez_compressed(tmp_path / "subjects.npz", it=subjects.numpy())
    found = load_matrices(str(tmp_path / "subjects.npz"))
    assert torch.equal(found["it"], subjects.double())


def test_files_that_hold_no_matrices_are_refused(tmp_path):
    """A single array, words, other shapes: by name."""
    np.save(tmp_path / "one.npy", np.eye(3))
    with pytest.raises(ValueError, match=r"one\.npy holds one array without a name"):
        load_matrices(tmp_path / "one.npy")
    for array in (np.array(["a"]), np.ones((3, 4)), np.eye(3) * 1j):
        np.savez(tmp_path / "x.npz", it=np.eye(3), labels=array)
        with pytest.raises(ValueError, match=r"x\.npz holds 'labels' of shape"):
            load_matrices(tmp_path / "x.npz")


def test_the_page_compares_with_a_published_set(net, tmp_path):
    """What the page defines runs on a file of its layout."""
    names = {"model": net}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
        exec(snippet, names)
    subjects = torch.stack([symmetric(9, 9) + symmetric(9, s) for s in range(4)])
    np.savez(tmp_path / "it.npz", it=subjects.numpy())
    images = torch.rand(9, 3, 12, 12)
    scores, ceiling = names["beside_subjects"](net, images, tmp_path / "it.npz", "it")
    matrices = dissimilarity_matrices(net, images)
    assert list(scores) == list(matrices)
    expected = [rdm_correlation(matrices["input"], s, "tau-a") for s in subjects]
    assert scores["input"] == pytest.approx(sum(expected) / 4)
    assert ceiling == noise_ceiling(subjects, "tau-a")
