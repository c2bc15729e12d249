"""The losses as their formulas are written: loops over pairs, float64, nothing clever.

Slow, for a few images: `dai_plugin.check` compares a run with these.
"""

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped(rows: Tensor, groups: Tensor, correction: int) -> Tensor:
    """Mean distance within groups over that of all pairs, arXiv:1906.04547.

    Args:
        rows: `[N, ...]`.
        groups: `[N]`, the number of the group that each row belongs to.
        correction: 0 counts all ordered pairs, 1 distinct ones.
    """
    flat = rows.double().flatten(1)
    distances = (flat[:, None] - flat[None, :]).square().mean(2)
    pairs = torch.ones_like(distances) - correction * torch.eye(len(flat)).to(distances)
    total = (distances * pairs).sum() / pairs.sum().clamp(min=1)
    within = []
    for group in torch.unique(groups):
        inside = pairs * (groups[:, None] == group) * (groups[None, :] == group)
        if inside.sum():
            within.append((distances * inside).sum() / inside.sum())
    return torch.stack(within).mean() / total if within and total > 0 else total * 0


def jensen_shannon(views: Tensor) -> Tensor:
    """Mean divergence of the predictions `[M, B, K, ...]` from their mean."""
    views = views.double()
    if views.dim() == 2:
        views = views[:, :, None]
    if views.shape[2] == 1:
        views = torch.cat([views, 0 * views], 2)
    places = views.movedim(2, -1).flatten(1, -2)
    found = []
    for place in places.unbind(1):
        probabilities = place.softmax(1)
        mean = probabilities.mean(0)
        found += [(p * (p.log() - mean.log())).sum() for p in probabilities]
    return torch.stack(found).mean()


def cosine_distance(views: Tensor) -> Tensor:
    """Mean of one minus the cosine between views `[M, B, ...]` and their mean."""
    found = []
    for image in views.double().flatten(2).unbind(1):
        mean = image.mean(0)
        found += [1 - F.cosine_similarity(view, mean, dim=0) for view in image]
    return torch.stack(found).mean()


def vicreg(
    views: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Algorithm 1 of arXiv:2105.04906, for the pairs of M views `[M, B, ...]`."""
    rows = views.double().flatten(2)
    count, images, features = rows.shape
    total = rows.sum() * 0
    pairs = list(combinations(range(count), 2))
    for i, j in pairs:
        total = total + invariance * F.mse_loss(rows[i], rows[j]) / len(pairs)
    for view in rows:
        away = view - view.mean(0)
        squares = away.T @ away / max(images - 1, 1)
        hinge = (gamma - (squares.diagonal() + eps).sqrt()).relu().mean()
        off = squares - squares.diagonal().diag()
        spread = off.square().sum() / features
        total = total + 2 / count * (variance * hinge + covariance * spread)
    return total
