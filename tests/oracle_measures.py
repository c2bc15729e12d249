"""Measures as their papers write them, in float64, image by image and unit by unit.

`versions` are activations `[1 + T, N, ...]`: those of the images, then of each version.
"""

import math

import oracle
import torch


def class_scores(clean, labels):
    """1 - mean distance to the class / mean distance to all, pairs one by one."""
    d, labels = oracle.distances(clean), labels.tolist()
    found = []
    for i, label in enumerate(labels):
        own = [j for j, other in enumerate(labels) if other == label]
        near = torch.stack([d[i, j] for j in own]).mean()
        found.append(1 - near / d[i].mean() if len(own) > 1 else torch.tensor(math.nan))
    return torch.stack(found)


def cosines(versions):
    """`[N, T]` of the vectors themselves."""
    rows = versions.double().flatten(2)
    unit = rows / rows.square().sum(2, keepdim=True).sqrt()
    return torch.stack([(unit[0] * each).sum(1) for each in unit[1:]], 1)


def normalized_variance(versions):
    """Unit by unit: mean variance over versions by mean variance over images."""
    rows, ratios = versions.double().flatten(2), []
    for unit in rows.unbind(2):
        inside = [(x - x.mean()).square().mean() for x in unit.unbind(1)]
        between = [(x - x.mean()).square().mean() for x in unit.unbind(0)]
        if sum(between) > 1e-20:
            ratios.append(sum(inside) / len(inside) / (sum(between) / len(between)))
    return torch.stack(ratios).mean()


def firing(versions, rate=0.01, best=0.2):
    """Unit by unit and sign by sign: local by global firing rate, mean of the best."""
    rows, found = versions.double().flatten(2), []
    images = rows.shape[1]
    for unit in rows.unbind(2):
        scores = []
        for sign in (1, -1):
            value = sign * unit
            rank = max(1, round(rate * images))
            threshold = value[0].sort(descending=True).values[rank]
            fires = [i for i in range(images) if value[0, i] > threshold]
            if fires:
                local = [(value[1:, i] > threshold).double().mean() for i in fires]
                scores.append(sum(local) / len(local) / (len(fires) / images))
        if scores:
            found.append(max(scores))
    found = torch.stack(found).sort(descending=True).values
    return found[: math.ceil(best * len(found))].mean()


def spectrum(clean):
    """Share of the first component and effective rank, from singular values."""
    rows = clean.double().flatten(1)
    spread = torch.linalg.svdvals(rows - rows.mean(0))
    spread = spread[spread > spread[0] * 1e-6]
    parts = spread / spread.sum()
    rank = math.exp(-sum(p * math.log(p) for p in parts.tolist()))
    return spread[0] ** 2 / spread.square().sum(), rank


def follow(maps, drawn, height, width):
    """Each map pixel by pixel, by its image's matrix in the pixels of the map."""
    down, across = maps.shape[2] / height, maps.shape[3] / width
    moved = []
    for i, image in enumerate(maps):
        names = ("flip", "zoom_x", "zoom_y", "rotation", "shear")
        p = [drawn[name][i].item() for name in names]
        shift = drawn["shift_x"][i].item() * width, drawn["shift_y"][i].item() * height
        m = torch.tensor(oracle.affine_matrix(*p, *shift), dtype=torch.float64)
        scale = torch.tensor([across, down, 1.0], dtype=torch.float64)
        moved.append(oracle.warp(image, (m * scale[:, None] / scale).tolist()))
    return torch.stack(moved)


def equivariance(clean, moved, version):
    """1 - distance of the moved map from the version's / mean distance to all."""
    d = oracle.distances(clean)
    apart = (moved.double() - version.double()).flatten(1).square().mean(1)
    return 1 - apart / d.mean(1)


def calibration_error(confidence, hits, bins=15):
    """Bin by bin: |accuracy - mean confidence|, weighed by the predictions in it."""
    error, count = 0.0, len(hits)
    for k in range(bins):
        inside = [
            i
            for i, c in enumerate(confidence.tolist())
            if k / bins < c <= (k + 1) / bins or (k == 0 and c == 0)
        ]
        if inside:
            right = sum(bool(hits[i]) for i in inside) / len(inside)
            sure = sum(confidence[i].item() for i in inside) / len(inside)
            error += len(inside) / count * abs(right - sure)
    return error


def effective_invariance(clean, version):
    """Deng et al.: root of the product of the confidences, 0 where classes differ."""
    found = []
    for p, q in zip(clean.double(), version.double(), strict=True):
        same = p.argmax() == q.argmax()
        found.append(math.sqrt(p.max() * q.max()) if same else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def retrieval(features, queries):
    """Whether the own one of N features has a greater cosine than all others."""
    found = []
    for i, query in enumerate(queries.double()):
        near = torch.cosine_similarity(query[None], features.double())
        others = [near[j] for j in range(len(features)) if j != i]
        found.append(bool(near[i] > max(others)))
    return torch.tensor(found)
