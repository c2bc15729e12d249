"""Whether data that is gone through again gives the same images."""

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
        rows = images.flatten(1).float().nan_to_num(0.0, 0.0, 0.0)
        found = (rows @ self._of(images)).cpu()
        if self._all is None:
            self._first.append(found)
            return
        expected = self._all[before : before + len(found)]
        # Numbers that are summed up in another order are off by less.
        margin = _ROUNDING * torch.linalg.vector_norm(rows, dim=1).cpu()
        fits = len(expected) == len(found) and (found - expected).abs() <= margin
        if not torch.as_tensor(fits).all():
            raise ValueError(
                f"data gave other images in a later pass (from image {before} on): "
                "measures compare images of two passes, so that a DataLoader must "
                "neither shuffle nor augment; give shuffle=False and the test images' "
                "transform"
            )

    def finish(self, count: int) -> None:
        """Ends a pass of so many images.

        Raises:
            ValueError: the first pass had more.
        """
        if self._all is None:
            self._all = torch.cat(self._first)
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
