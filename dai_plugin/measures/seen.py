"""Whether data that is gone through again gives the same images."""

import hashlib

import torch
from torch import Tensor

# Of the length of an image: sums in another order are off by less, images by more.
_ROUNDING = 1e-4


class Seen:
    """Finds out whether a later pass gives the images of the first.

    Kept is one number an image: its product with fixed random numbers.
    """

    def __init__(self) -> None:
        self._weights: dict[torch.Size, Tensor] = {}
        self._first: list[Tensor] = []
        self._all: Tensor | None = None

    def take(self, images: Tensor, before: int) -> None:
        """Takes the images `[B, C, H, W]` that come after so many others.

        Raises:
            ValueError: they are others than those of the first pass.
        """
        rows = images.flatten(1).float()
        found = (rows @ self._of(images)).cpu()
        if self._all is None:
            self._first.append(found)
            return
        expected = self._all[before : before + len(found)]
        # Numbers that are summed up in another order are off by less.
        margin = _ROUNDING * torch.linalg.vector_norm(rows, dim=1).cpu()
        fits = (found[: len(expected)] - expected).abs() <= margin[: len(expected)]
        if len(expected) == len(found) and fits.all():
            return
        wrong = int(fits.logical_not().nonzero()[0]) if not fits.all() else len(fits)
        known = ((self._all - found[wrong]).abs() <= margin[wrong]).any()
        what = "the images in another order" if known else "other images"
        raise ValueError(
            f"data gave {what} in a later pass (from image {before + wrong} on): "
            "measures compare images of two passes, so that a loader must neither "
            "shuffle, draw nor augment; give shuffle=False and the test images' "
            "transform"
        )

    def finish(self, count: int) -> None:
        """Ends a pass of so many images.

        Raises:
            ValueError: the first pass had more.
        """
        if self._all is None:
            self._all = torch.cat(self._first) if self._first else torch.zeros(0)
        if len(self._all) != count:
            raise ValueError(
                f"data gave {len(self._all)} images in the first pass and {count} in a "
                "later one; give data that lasts"
            )

    def _of(self, images: Tensor) -> Tensor:
        shape = images.shape[1:]
        if shape not in self._weights:
            drawn = torch.randn(
                shape.numel(), generator=torch.Generator().manual_seed(0)
            )
            self._weights[shape] = drawn.to(images.device, torch.float32)
        return self._weights[shape]


class Digest:
    """SHA-256 of images, whatever the batches, the device and the normalisation are.

    Pixels in [0, 1] are rounded to levels of 1/255, so that 8-bit images give the same
    digest as uint8 and as floats that carry a normalisation.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._shape: list[int] = []

    def take(self, pixels: Tensor) -> None:
        """Takes pixels `[B, C, H, W]` in [0, 1]."""
        if list(pixels.shape[1:]) != self._shape:
            self._shape = list(pixels.shape[1:])
            self._hash.update(str(self._shape).encode())
        levels = (pixels.float() * 255).round_().clamp_(-(2**15), 2**15 - 1)
        self._hash.update(levels.to("cpu", torch.int16).contiguous().numpy().data)

    def __str__(self) -> str:
        """The first 16 hexadecimal digits."""
        return self._hash.hexdigest()[:16]
