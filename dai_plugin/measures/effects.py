"""Corruptions by noise, blur, colour, compression and warps.

Each takes images `[N, C, H, W]` in [0, 1], the random streams of the images and its
constants, in the order of `constants.py`; results may leave [0, 1].
"""

import io

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dai_plugin.measures import filters
from dai_plugin.measures.counts import poisson_counts
from dai_plugin.measures.fields import Draws
from dai_plugin.measures.shuffles import shuffled

_ROUNDING = 1e-3  # of grey levels


def gaussian_noise(x: Tensor, draws: Draws, scale: float) -> Tensor:
    """Adds normal noise to every channel of every pixel."""
    return torch.add(x, draws.normal(*x.shape[1:]), alpha=scale)


def shot_noise(x: Tensor, draws: Draws, photons: float) -> Tensor:
    """Counts so many photons, at most, in every channel of every pixel."""
    levels = x.clamp(0, 1).mul_(255)
    whole = (levels + _ROUNDING).floor_()
    counts = poisson_counts(draws.uniform(0, 1, *x.shape[1:]), whole, photons)
    rest = levels.sub_(whole)
    if rest.amax() > _ROUNDING:
        # Counts of independent sources add up to counts of their sum.
        counts += draws.poisson(rest.clamp(min=0) * (photons / 255))
    return counts.div_(photons)


def impulse_noise(x: Tensor, draws: Draws, amount: float) -> Tensor:
    """Turns a share of the channels of all pixels to 0 or 1, as often each."""
    extremes = F.hardshrink(draws.uniform(-1, 1, *x.shape[1:]), 1 - amount)
    # Where they are not 0, beyond [0, 1] on either side.
    return torch.add(x, extremes, alpha=2 / (1 - amount))


def speckle_noise(x: Tensor, draws: Draws, scale: float) -> Tensor:
    """Adds normal noise in proportion to the brightness."""
    return torch.addcmul(x, x, draws.normal(*x.shape[1:]), value=scale)


def gaussian_blur(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Blurs with a Gaussian."""
    return filters.gaussian(x, sigma)


def defocus_blur(x: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """Blurs with the disk of a lens out of focus."""
    return filters.correlate(x, filters.disk(radius, sigma))


def glass_blur(
    x: Tensor, draws: Draws, sigma: float, reach: int, repeats: int
) -> Tensor:
    """Blurs, copies pixels from their neighbourhood, and blurs again."""
    # Cut off to grey levels, as published; what is a level already must stay it.
    x = (filters.gaussian(x, sigma) * 255 + _ROUNDING).floor() / 255
    moves = (draws.integers(4 * reach**2, *x.shape[2:]) for _ in range(repeats))
    return filters.gaussian(shuffled(x, moves, reach), sigma)


def motion_blur(x: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Blurs along a line in a random direction."""
    return filters.motion(x, draws.uniform(-45, 45), radius, sigma)


def zoom_blur(x: Tensor, draws: Draws, step: float, count: int) -> Tensor:
    """Averages magnifications, from none on, with the image counted once more."""
    step = (1 + step) - 1  # rounded as in numpy's arange, for the same crops
    # All images at a time: as channels, which lie beside each other, of a single one.
    height, width = x.shape[2:]
    one = x.reshape(-1, height * width).T.contiguous()
    one = one.view(1, height, width, -1).permute(0, 3, 1, 2)
    total = one.clone()
    for k in range(count):
        total += filters.zoomed(one, 1 + k * step)
    mean = total.permute(0, 2, 3, 1).view(height * width, -1).T / (count + 1)
    return mean.contiguous().view_as(x)


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Moves all pixels towards their channel's mean."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, factor)


def brightness(x: Tensor, draws: Draws, change: float) -> Tensor:
    """Adds to the value of HSV: with hue and saturation kept, colours scale with it."""
    value = x.amax(1, keepdim=True)
    black = (value <= 0).to(x)  # counts as 1, for no division by 0
    return (x + black).mul_((value + change).clamp_(0, 1).div_(value + black))


def saturate(x: Tensor, draws: Draws, factor: float, change: float) -> Tensor:
    """Changes the saturation of HSV: how far channels lie below the largest one.

    Grey has the hue 0 there, and so turns red where saturation is added.
    """
    value = x.amax(1, keepdim=True)
    depth = value - x
    deepest = depth.amax(1, keepdim=True)
    red = x.new_tensor([0, 1, 1])[:, None, None]
    share = torch.where(deepest > 0, depth / deepest, red)
    saturation = torch.where(value > 0, deepest / value, 0.0)
    return value * (1 - (saturation * factor + change).clamp(0, 1) * share)


def jpeg_compression(x: Tensor, draws: Draws, quality: int) -> Tensor:
    """Encodes and decodes with Pillow, on the CPU whatever the device."""
    levels = (x * 255).round_().clamp_(0, 255).to("cpu", torch.uint8)
    lines = levels.transpose(1, 2).contiguous()
    read = bytearray().join(_through_jpeg(image, quality) for image in lines)
    decoded = torch.frombuffer(read, dtype=torch.uint8).view_as(lines)
    return decoded.to(x.device).transpose(1, 2).to(x).div_(255)


def _through_jpeg(lines: Tensor, quality: int) -> bytes:
    """An image `[H, C, W]` of whole grey levels, compressed and read again."""
    height, channels, width = lines.shape
    mode, order = ("RGB", "RGB;L") if channels == 3 else ("L", "L")
    levels, file = lines.numpy().tobytes(), io.BytesIO()
    image = Image.frombytes(mode, (width, height), levels, "raw", order)
    image.save(file, "JPEG", quality=quality)
    read: bytes = Image.open(file).tobytes("raw", order)
    return read


def pixelate(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Shows images in fewer pixels."""
    return filters.coarse(x, share)


def elastic_transform(
    x: Tensor, draws: Draws, alpha: float, sigma: float, shift: float
) -> Tensor:
    """A random affine map of three points, then a smooth random displacement."""
    height, width = x.shape[2:]
    centre, arm = x.new_tensor([width // 2, height // 2]), min(height, width) // 3
    corners = centre + arm * x.new_tensor([[1, 1], [1, -1], [-1, -1]])
    moved = corners + draws.uniform(-shift, shift, 3, 2)
    # Each pixel shows the point that the map brings there.
    moved = torch.cat([moved, torch.ones_like(moved[..., :1])], -1)
    back = torch.linalg.solve(moved, corners.expand(len(x), 3, 2))[..., None, None]
    across = torch.arange(width, device=x.device)
    down = torch.arange(height, device=x.device)[:, None]
    x = filters.sample(
        x, back[:, 0] * across + (back[:, 1] * down + back[:, 2]), "reflect"
    )
    if not alpha:
        return x
    moves = draws.uniform(-1, 1, 2, height, width)
    moves = filters.gaussian(moves, sigma, truncate=3, border="symmetric").mul_(alpha)
    moves[:, 0] += across
    moves[:, 1] += down
    return filters.sample(x, moves, "symmetric")
