"""Fog, frost, snow and spatter: what lies between a lens and the world."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dai_plugin.measures import filters
from dai_plugin.measures.fields import Draws, frosted_glass, plasma
from dai_plugin.measures.liquid import drops


def fog(x: Tensor, draws: Draws, thickness: float, decay: float) -> Tensor:
    """Adds clouds, and keeps how bright the brightest is."""
    brightest = x.amax((1, 2, 3), keepdim=True)
    clouds = _cropped(plasma(draws, _power(x), decay)[:, None], x)
    foggy = torch.add(x, clouds, alpha=thickness)
    return foggy.mul_(brightest / (brightest + thickness))


def frost(x: Tensor, draws: Draws, share: float, amount: float) -> Tensor:
    """Blends images with pictures of frost, made for each."""
    pictures = _cropped(frosted_glass(draws, _power(x)), x)
    return (share * x).add_(_as(pictures, x), alpha=amount)


def snow(
    x: Tensor,
    draws: Draws,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: int,
    sigma: float,
    share: float,
) -> Tensor:
    """Whitens images and adds flakes that fall in a random direction, twice."""
    flakes = mean + spread * draws.normal(1, *x.shape[2:])
    flakes = filters.zoomed(flakes, zoom)
    flakes = F.threshold(flakes, threshold, 0).clamp_(max=1)
    flakes = filters.motion(flakes, draws.uniform(-135, -45), radius, sigma)
    whitened = torch.maximum(x, _grey(x) * 1.5 + 0.5)
    return whitened.lerp_(x, share).add_(flakes + flakes.rot90(2, (2, 3)))


def spatter(
    x: Tensor,
    draws: Draws,
    mean: float,
    spread: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Puts drops of water or mud on the lens."""
    liquid = mean + spread * draws.normal(*x.shape[2:])
    liquid = filters.gaussian(liquid, sigma)
    if mud:
        layer = filters.gaussian((liquid > threshold).to(x), strength)[:, None]
        layer = torch.where(layer < 0.8, 0.0, layer)
        return torch.lerp(x, _colour((63, 42, 20), x), layer)
    liquid = F.threshold(liquid, threshold, 0).clamp_(max=1)
    return x + strength * drops(liquid)[:, None] * _colour((175, 238, 238), x)


def _power(x: Tensor) -> int:
    """The power of two from which images of this size can be cut."""
    return 1 << (max(x.shape[2:]) - 1).bit_length()


def _cropped(fields: Tensor, x: Tensor) -> Tensor:
    return fields[..., : x.shape[2], : x.shape[3]]


def _grey(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, `[N, 1, H, W]`; grey images are their own."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    return (0.299 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _as(pictures: Tensor, x: Tensor) -> Tensor:
    """Coloured pictures with as many channels as the images."""
    return _grey(pictures) if x.shape[1] == 1 else pictures


def _colour(levels: tuple[int, int, int], x: Tensor) -> Tensor:
    return _as(x.new_tensor(levels)[None, :, None, None] / 255, x)
