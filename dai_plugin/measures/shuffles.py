"""Pixels that take colours of their neighbourhood, one after another."""

from collections.abc import Iterable

import torch
from torch import Tensor


def shuffled(images: Tensor, moves: Iterable[Tensor], reach: int) -> Tensor:
    """Copies pixels from their neighbourhood, one after another, in place.

    From the last pixel to the first, each takes the colour that its neighbour has by
    then; so once for each field of moves.

    Args:
        images: `[N, C, H, W]`.
        moves: `[N, H, W]` each: from a pixel to its neighbour, `d` down and `r` right
            (from -reach to reach - 1), as (d + reach) * 2 * reach + r + reach.
        reach: the first reach + 1 and the last reach - 1 rows and columns have no turn.
    """
    count, channels, height, width = images.shape
    source = torch.arange(count * height * width, device=images.device)
    for field in moves:
        source = source.index_select(0, _sources(field, reach))
    first = source.view(count, 1, height * width)
    first = first - first.new_tensor(range(count))[:, None, None] * height * width
    colours = images.flatten(2).gather(2, first.expand(-1, channels, -1))
    return colours.view_as(images)


def _sources(moves: Tensor, reach: int) -> Tensor:
    """Whose colour each pixel of a batch has after its turn, `[N * H * W]`.

    A neighbour that had its turn before passes on what it took itself: colours travel
    along chains, which pointer doubling follows, all pixels at once.
    """
    height, width = moves.shape[1:]
    own = torch.arange(moves.numel(), device=moves.device, dtype=torch.int32)
    rows, columns = (slice(reach + 1, n - reach + 1) for n in (height, width))
    inner = ..., rows, columns
    span = torch.arange(-reach, reach, device=moves.device, dtype=torch.int32)
    steps, turns = torch.zeros_like(moves), torch.zeros_like(moves, dtype=torch.bool)
    ways = (span[:, None] * width + span).flatten()
    part = moves[inner]
    steps[inner] = ways.index_select(0, part.flatten()).view_as(part)
    turns[inner] = True
    taken = own + steps.flatten()
    had_turn = (taken > own) & turns.flatten().index_select(0, taken)
    last, ends = own, own + steps.flatten() * had_turn
    while not torch.equal(last, ends):
        last = ends.index_select(0, ends)
        ends = last.index_select(0, last)
    return taken.index_select(0, ends)
