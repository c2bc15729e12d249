"""The same numbers as rsatoolbox, the toolbox of representational similarity analysis.

Optional: `pip install --group integrations`; `make test-all` and CI have it.
"""

import numpy as np
import pytest
import torch
from torch import nn

from dai_plugin.measures.dissimilarity import dissimilarity_matrices
from dai_plugin.measures.similarity import noise_ceiling, rdm_correlation

rsatoolbox = pytest.importorskip("rsatoolbox", reason="needs --group integrations")

pytestmark = [
    # It warns that its ceiling for Kendall's tau is of mean ranks, as is the one here.
    pytest.mark.filterwarnings("default"),
]


def subjects(values=None):
    """Four matrices of 8 images with something in common; few values make ties."""
    generator = torch.Generator().manual_seed(0)
    m = torch.rand(4, 8, 8, generator=generator, dtype=torch.float64)
    m = m + torch.rand(8, 8, generator=generator, dtype=torch.float64)
    if values:
        m = (m * values).floor()
    return m.triu(1) + m.triu(1).mT


def theirs(matrices):
    return rsatoolbox.rdm.RDMs(np.asarray(matrices))


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_matrices(metric):
    """Of the pixels and of a layer."""
    torch.manual_seed(0)
    images = torch.rand(9, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    found = dissimilarity_matrices(
        net, images.split(2), layers="1", metric=metric, mean=0.0, std=1.0
    )
    rows = {"input": images, "1": net[:2](images).detach()}
    for name, matrix in found.items():
        dataset = rsatoolbox.data.Dataset(rows[name].double().flatten(1).numpy())
        expected = rsatoolbox.rdm.calc_rdm(dataset, method=metric).get_matrices()[0]
        np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["spearman", "tau-a"])
@pytest.mark.parametrize("values", [None, 4])
def test_rank_correlations(method, values):
    """Every pair of subjects, with ties and without."""
    matrices = subjects(values)
    expected = rsatoolbox.rdm.compare(theirs(matrices), theirs(matrices), method)
    found = [[rdm_correlation(a, b, method) for b in matrices] for a in matrices]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("method", ["spearman", "tau-a"])
@pytest.mark.parametrize("values", [None, 4])
def test_noise_ceilings(method, values):
    """Leaving one out, and with all."""
    matrices = subjects(values)
    expected = rsatoolbox.inference.boot_noise_ceiling(theirs(matrices), method)
    np.testing.assert_allclose(noise_ceiling(matrices, method), expected, atol=1e-12)
