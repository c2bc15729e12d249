"""What a batch of somebody's data holds: images, their labels, their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Contents:
    """What was found in a batch.

    Attributes:
        images: `[B, C, H, W]`.
        labels: `[B]` classes on the CPU, None if there are none.
        names: B names, empty if there are none.
        alike: shapes of all tensors that could as well be the images.
    """

    images: Tensor
    labels: Tensor | None
    names: Sequence[str]
    alike: Sequence[Sequence[int]]


def find_contents(batch: Any, channels: int | None) -> Contents:
    """Finds them among the leaves of nested tuples, lists and dicts, in their order.

    The images are the first 4-D tensor, floating or uint8, with the channels that the
    network takes; where none has so many, the first at all. Labels are the first
    integer tensor `[B]`, of any width (bool is no class, nor are rows of one-hot or
    soft labels). B strings are the names.

    Args:
        batch: what the loader gives.
        channels: of the network's first convolution, None if it has none.

    Raises:
        ValueError: there are no images.
    """
    leaves = pytree.tree_leaves(batch)
    fours = [x for x in leaves if isinstance(x, Tensor) and x.dim() == 4]
    if not fours:
        raise ValueError("a batch of data holds no images [B, C, H, W]")
    pixels = [x for x in fours if x.is_floating_point() or x.dtype == torch.uint8]
    fitting = [x for x in pixels if x.shape[1] == channels]
    # Integers of another kind are refused later, with advice.
    likely = fitting or pixels or fours
    rows = len(likely[0])
    strings = [leaf for leaf in leaves if isinstance(leaf, str)]
    return Contents(
        likely[0],
        next((_classes(x) for x in leaves if _is_labels(x, rows)), None),
        strings if len(strings) == rows else [],
        [list(x.shape) for x in likely],
    )


def channels_of(base: nn.Module) -> int | None:
    """Channels of the images that the network's first convolution takes."""
    convolutions = (m for m in base.modules() if isinstance(m, nn.Conv2d))
    return next((m.in_channels for m in convolutions if m.in_channels), None)


def _is_labels(leaf: Any, rows: int) -> bool:
    if not isinstance(leaf, Tensor) or leaf.shape != (rows,):
        return False
    fractions = leaf.is_floating_point() or leaf.is_complex()
    return not fractions and leaf.dtype != torch.bool


def _classes(labels: Tensor) -> Tensor:
    return labels.detach().cpu().long()
