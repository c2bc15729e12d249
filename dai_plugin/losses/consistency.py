"""Losses between the views of an image that compare no images: pure functions.

Shapes: `[M, B, ...]`, M views of B images. Statistics are float32 (float64 of float64),
whatever autocast says, and cost O(M * B * D); autograd follows.
"""

import math

import torch
from torch import Tensor

_LEAST = -1e30  # log-probability of a class that is ruled out, instead of -infinity


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the predictions of an image's views, in nats.

    Entropy of the mean prediction less the mean entropy, averaged over images and, for
    dense predictions, over their positions: what AugMix trains (Hendrycks and others,
    arXiv:1912.02781, section 3). 0 where all views are predicted alike, at most log M.

    Args:
        logits: `[M, B, K, ...]` of a softmax over K classes; of K = 1, or `[M, B]`, the
            logits of one sigmoid.
    """
    logits = _wide(logits)
    if logits.dim() == 2:
        logits = logits[:, :, None]
    if logits.shape[2] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], 2)
    logs = logits.log_softmax(2).clamp(min=_LEAST)
    mixture = logs.logsumexp(0) - math.log(len(logs))
    return (logs.exp() * (logs - mixture)).sum(2).mean()


def cosine_distance(activations: Tensor) -> Tensor:
    """One minus the cosine between each view and its image's mean, averaged.

    Half the squared distance of the unit vectors, which is the same and keeps its
    digits where they nearly agree. 0 where the views of an image point in one
    direction; a row of zeros, which points in none, counts half and has no gradient.

    Args:
        activations: `[M, B, ...]`; features are flattened.
    """
    rows = _wide(activations).flatten(2)
    apart = _unit(rows) - _unit(rows.mean(0))
    return apart.square().sum(2).mean() / 2


def vicreg(
    activations: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Invariance, variance and covariance (Bardes, Ponce, LeCun, arXiv:2105.04906).

    With two views that of the paper's algorithm 1: mean squared difference of the views
    (over features, too), the hinge of each feature's standard deviation over the images
    of a view at `gamma`, and the squares of the covariances off the diagonal over the
    number of features, the last two summed over the views. With more views, the mean
    over the pairs of views, and twice the mean over the views.

    Args:
        activations: `[M, B, ...]`; features are flattened. Squares of covariances are
            summed from a matrix over the features or over the images of a view, of
            which the smaller is taken.
        invariance: weight of the first.
        variance: weight of the second.
        covariance: weight of the third.
        gamma: standard deviation that each feature is to have.
        eps: added to the variance before its root.
    """
    rows = _wide(activations).flatten(2)
    views, images, features = rows.shape
    apart = (rows - rows.mean(0)).square().sum()
    distance = 2 * apart / (max(views - 1, 1) * images * features)
    centred = rows - rows.mean(1, keepdim=True)
    freedom = max(images - 1, 1)
    variances = centred.square().sum(1) / freedom
    hinge = (gamma - (variances + eps).sqrt()).relu().mean()
    with torch.autocast(rows.device.type, enabled=False):
        turned = centred.mT
        few = features <= images
        squares = (turned @ centred if few else centred @ turned) / freedom
    off = squares.square().sum((1, 2)) - variances.square().sum(1)
    spread = 2 * off.mean() / features
    return invariance * distance + variance * 2 * hinge + covariance * spread


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; those of zeros stay so, and get no gradient."""
    squares = rows.square().sum(-1, keepdim=True)
    dead = squares < torch.finfo(rows.dtype).tiny
    return rows * torch.where(dead, 0.0, torch.where(dead, 1.0, squares).rsqrt())


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
