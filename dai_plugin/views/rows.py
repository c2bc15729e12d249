"""Which rows of a batch are which views.

Row order, everywhere in this package: view-major. The first view of all B images comes
first, then every further view of the first n of them: row `B + (v - 1) * n + i` is view
v > 0 of image i. With n = B that is row `v * B + i`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

PerImage = TypeVar("PerImage", Tensor, list[Any])


@dataclass(frozen=True)
class Layout:
    """The rows of one step.

    Attributes:
        num_views: M.
        images: B.
        viewed: n, how many images, from the first on, have further views.
    """

    num_views: int
    images: int
    viewed: int

    @classmethod
    def of(cls, images: int, num_views: int, share: float) -> Self:
        """Of a batch, a share of which gets further views: one image at least."""
        viewed = max(1, round(share * images)) if num_views > 1 else images
        return cls(num_views, images, viewed)

    @property
    def rows(self) -> int:
        """N = B + (M - 1) n."""
        return self.images + (self.num_views - 1) * self.viewed

    def __str__(self) -> str:
        if not self.alone:
            return f"{self.images} images x {self.num_views} views"
        return f"{self.images} images, {self.viewed} of them x {self.num_views} views"

    @property
    def alone(self) -> int:
        """Images with one view, B - n."""
        return self.images - self.viewed

    def view(self, v: int) -> slice:
        """Where the rows of view v lie."""
        if v == 0:
            return slice(0, self.images)
        start = self.images + (v - 1) * self.viewed
        return slice(start, start + self.viewed)

    def repeat(self, values: PerImage) -> PerImage:
        """What belongs to an image, `[B, ...]` or a list, for every row of it.

        Raises:
            ValueError: there are not B of them.
        """
        count = len(values) if isinstance(values, list) or values.dim() else None
        if count != self.images:
            raise ValueError(
                f"got {count} targets for {self.images} images; give one an image, "
                f"[{self.images}, ...]"
            )
        if isinstance(values, list):
            return values + values[: self.viewed] * (self.num_views - 1)
        further: list[Any] = [values[: self.viewed]] * (self.num_views - 1)
        return torch.cat([values, *further])

    def times(self, count: Any) -> Any:
        """A number of images, or a tensor of it, as that of their rows: times N / B."""
        if self.rows % self.images == 0:
            return count * (self.rows // self.images)
        return count * self.rows / self.images

    def mean(self, losses: Sequence[Tensor], sums: bool = False) -> Tensor:
        """The loss of all rows from those of the views, in the form of the first.

        Means over the rows of a view become the mean over all rows, sums B times that
        mean, and losses of single rows the `[B]` whose mean it is.

        Args:
            losses: of each view.
            sums: whether they are sums over rows.

        Raises:
            RuntimeError: what they are cannot be told.
        """
        total, *others = losses
        for loss in others:
            if loss.shape == total.shape:
                weight = 1.0 if sums else self.viewed / self.images
                total = torch.add(total, loss, alpha=weight)
            else:
                self._check_a_row_each(total, loss)
                count = len(loss)
                total = torch.cat([total[:count] + loss, total[count:]])
        return total / (self.rows / self.images) if others else total

    def _check_a_row_each(self, first: Tensor, further: Tensor) -> None:
        rows = [len(loss) if loss.dim() else 0 for loss in (first, further)]
        in_proportion = rows[0] * self.viewed == rows[1] * self.images
        if not (in_proportion and first.shape[1:] == further.shape[1:]):
            raise RuntimeError(
                f"the loss of {self.images} images has the shape {list(first.shape)}, "
                f"that of {self.viewed} the shape {list(further.shape)}; with share < "
                "1 it must be a number, or have an element or more an image"
            )
