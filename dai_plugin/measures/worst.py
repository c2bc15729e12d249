"""The worst version of each image: how bad, what it looks like, what it was."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dai_plugin.measures.versions import Version
from dai_plugin.views.schemes import Parameters

_SIDE = 96  # pixels, of the longest side of a thumbnail


@dataclass(frozen=True)
class Rows:
    """Images so far, or those of a batch, each with its worst version.

    Attributes:
        image: `[n]` which of all.
        version: `[n]` number of the worst.
        broken: `[n]` share of versions that are predicted otherwise.
        near: `[n]` mean effective invariance.
        pixels: `[n, 2, C, h, w]` thumbnails, uint8: the image and its worst version.
        words: n, of the worst version.
    """

    image: Tensor
    version: Tensor
    broken: Tensor
    near: Tensor
    pixels: Tensor
    words: list[str]

    def __getitem__(self, some: list[int]) -> "Rows":
        return Rows(
            self.image[some],
            self.version[some],
            self.broken[some],
            self.near[some],
            self.pixels[some],
            [self.words[i] for i in some],
        )

    def __add__(self, others: "Rows") -> "Rows":
        return Rows(
            torch.cat([self.image, others.image]),
            torch.cat([self.version, others.version]),
            torch.cat([self.broken, others.broken]),
            torch.cat([self.near, others.near]),
            torch.cat([self.pixels, others.pixels]),
            self.words + others.words,
        )


class Worst:
    """The worst version of each image of a batch so far.

    Args:
        pixels: the images `[B, C, H, W]` in [0, 1].
        size: of their thumbnails.
    """

    def __init__(self, pixels: Tensor, size: tuple[int, int]) -> None:
        self._size, count = size, len(pixels)
        self._pixels = thumbnails(pixels, size)[:, None].repeat(1, 2, 1, 1, 1)
        self._badness = torch.full((count,), -torch.inf, device=pixels.device)
        self._version = torch.zeros(count, dtype=torch.int64, device=pixels.device)
        self._drawn: Parameters = {}
        self._broken, self._near = (
            torch.zeros(count, dtype=torch.float64, device=pixels.device)
            for _ in range(2)
        )
        self._versions = 0

    def take(
        self, version: Version, shown: Tensor, near: Tensor, away: Tensor, wrong: Tensor
    ) -> None:
        """Takes a version.

        Args:
            version: it.
            shown: its pixels `[B, C, H, W]`.
            near: effective invariance `[B]`.
            away: whether it is predicted otherwise `[B]`.
            wrong: how sure of that the network is `[B]`.
        """
        self._versions += 1
        self._broken += away
        self._near += near
        badness = torch.where(away, 2 + wrong, 1 - near)
        worse = badness > self._badness
        self._badness = torch.where(worse, badness, self._badness)
        self._version[worse] = version.number
        for name, values in (version.drawn or {}).items():
            kept = self._drawn.setdefault(name, values.clone())
            kept[worse] = values[worse]
        if worse.any():
            self._pixels[worse, 1] = thumbnails(shown[worse], self._size)

    def rows(self, start: int) -> Rows:
        """All images of the batch, of which so many came before."""
        count = len(self._version)
        drawn = {name: values.tolist() for name, values in self._drawn.items()}
        words = [
            describe({name: values[i] for name, values in drawn.items()})
            for i in range(count)
        ]
        return Rows(
            torch.arange(start, start + count),
            self._version.cpu(),
            (self._broken / self._versions).cpu(),
            (self._near / self._versions).cpu(),
            self._pixels.cpu(),
            words,
        )


def describe(drawn: dict[str, float]) -> str:
    """Parameters of a `Scheme`'s transformation in words, those that change something.

    For example "rotation -21 degrees, zoom 0.83, contrast 0.7"; "" of none.
    """
    if not drawn:
        return ""
    across, down = (round(100 * drawn[f"shift_{axis}"]) for axis in "xy")
    turned, sheared = (
        round(torch.rad2deg(torch.tensor(drawn[name])).item())
        for name in ("rotation", "shear")
    )
    zooms = [f"{drawn[f'zoom_{axis}']:.2f}" for axis in "xy"]
    zoom = " x ".join(dict.fromkeys(zooms))
    gain, light = f"{drawn['contrast']:.2f}", f"{drawn['brightness']:+.2f}"
    parts = [
        ("flipped", drawn["flip"] < 0),
        (f"rotation {turned} degrees", turned),
        (f"zoom {zoom}", zoom != "1.00"),
        (f"shift {across}% right, {down}% down", across or down),
        (f"shear {sheared} degrees", sheared),
        (f"contrast {gain}", gain != "1.00"),
        (f"brightness {light}", float(light)),
    ]
    return ", ".join(part for part, changes in parts if changes)


def thumbnail_size(images: Tensor) -> tuple[int, int]:
    """Of thumbnails of such images: no side is above `_SIDE`."""
    height, width = images.shape[2:]
    share = min(1.0, _SIDE / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def thumbnails(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Grey levels uint8 `[B, C, h, w]` of images in [0, 1]."""
    pixels = pixels.float()
    if pixels.shape[2:] != size:
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)
