"""Random fields, each image's drawn from its own seed: noise, clouds, frost."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Draws:
    """One random stream an image, so that an image's draws know of no other image.

    The same seed gives the same draws on the same kind of device.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device) -> None:
        self._device = device
        self._streams = [torch.Generator(device).manual_seed(s) for s in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, `[N, *shape]`."""
        fields = self._empty(shape)
        for field, stream in zip(fields, self._streams, strict=True):
            field.normal_(generator=stream)
        return fields

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers from `low` to `high`, `[N, *shape]`."""
        fields = self._empty(shape)
        for field, stream in zip(fields, self._streams, strict=True):
            field.uniform_(low, high, generator=stream)
        return fields

    def integers(self, count: int, *shape: int) -> Tensor:
        """Whole numbers from 0 up to but not including `count`, `[N, *shape]` int32."""
        fields = self._empty(shape, torch.int32)
        for field, stream in zip(fields, self._streams, strict=True):
            field.random_(count, generator=stream)
        return fields

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts with the given means `[N, ...]`."""
        pairs = zip(rates, self._streams, strict=True)
        return torch.stack([torch.poisson(x, generator=stream) for x, stream in pairs])

    def _empty(
        self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return torch.empty(len(self._streams), *shape, device=self._device, dtype=dtype)


def plasma(draws: Draws, size: int, decay: float) -> Tensor:
    """Clouds by the diamond-square algorithm on a torus, `[N, size, size]` in [0, 1].

    Args:
        draws: one random number for each point.
        size: a power of two.
        decay: what the half range of the displacements, 100 at first and squared when
            applied, is divided by at each halving of the grid.

    Source: Fournier, Fussell & Carpenter, Communications of the ACM 25(6), 1982.
    """
    noise = draws.uniform(-1, 1, size, size)
    corners = noise.new_zeros(len(noise), 1, 1)
    step, reach = size, 100.0
    while step >= 2:
        whole, half = slice(0, None, step), slice(step // 2, None, step)
        right, down = corners + corners.roll(-1, 2), corners + corners.roll(-1, 1)
        centres = (right + right.roll(-1, 1)).div_(4)
        centres.add_(noise[:, half, half], alpha=reach**2)
        above = (right + centres).add_(centres.roll(1, 1)).div_(4)
        above.add_(noise[:, whole, half], alpha=reach**2)
        beside = (down + centres).add_(centres.roll(1, 2)).div_(4)
        beside.add_(noise[:, half, whole], alpha=reach**2)
        finer = noise.new_empty(len(noise), 2 * size // step, 2 * size // step)
        finer[:, ::2, ::2], finer[:, ::2, 1::2] = corners, above
        finer[:, 1::2, ::2], finer[:, 1::2, 1::2] = beside, centres
        corners = finer
        step, reach = step // 2, reach / decay
    return _stretched(corners)


def frosted_glass(draws: Draws, size: int) -> Tensor:
    """Pictures of frost, `[N, 3, size, size]` in [0, 1]: crystals on pale blue glass.

    The crystals are the creases of clouds, where their height crosses the middle, on a
    finer grain. Brightness differs between pictures; their mean, spread, tint and
    spectrum are near those of the photographs that the published sets were made with.
    """
    clouds, grain = plasma(draws, size, 1.7), plasma(draws, size, 0.95)
    level = draws.uniform(0.4, 0.88, 1, 1)
    height = clouds - clouds.mean((1, 2), keepdim=True)
    creases = (1 - 4 * height.abs()).clamp(min=0)
    crystals = _standard(_standard(creases) + 2 * _standard(grain))
    tint = crystals.new_tensor([-0.07, 0.02, 0.05])
    glass = torch.add(level, crystals, alpha=0.11)[:, None] + tint[:, None, None]
    return glass.clamp_(0, 1)


def _standard(fields: Tensor) -> Tensor:
    fields = fields - fields.mean((1, 2), keepdim=True)
    return fields.div_(fields.square().mean((1, 2), keepdim=True).sqrt())


def _stretched(fields: Tensor) -> Tensor:
    fields = fields - fields.amin((1, 2), keepdim=True)
    return fields.div_(fields.amax((1, 2), keepdim=True))
