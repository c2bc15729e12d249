"""The rows of a step: which views of its images the random stream has in store."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.losses import ranks
from dai_plugin.settings import Settings
from dai_plugin.views.expand import expand, made_together, mix_seed
from dai_plugin.views.motion import Motion, Views, motion_of
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.pixels import Pixels
from dai_plugin.views.schemes import Given, clips, find_scheme

_FIRST = 3  # steps with views in which what a scheme returns is checked


class Draws:
    """Views drawn from (seed, rank, step), and nothing else.

    Args:
        base: the network, whose configuration may tell the normalisation.
        settings: of the run.

    Attributes:
        scheme: of the views.
        pixels: the normalisation that the images carry.
        number: of the next step, unless it repeats the last one.
        rank: of this process, read at the first step.
    """

    def __init__(self, base: nn.Module, settings: Settings) -> None:
        self._settings = settings
        self.scheme = find_scheme(settings.scheme)
        self.pixels = Pixels(
            base, settings.mean, settings.std, clips=clips(self.scheme)
        )
        given = settings.seed
        self._seed = torch.initial_seed() if given is None else int(given)
        self.number = 0
        self.rank: int | None = None
        self._replaying = False

    @property
    def given(self) -> bool:
        """Whether the loader makes the views."""
        return isinstance(self.scheme, Given)

    @property
    def upcoming(self) -> int:
        """The number that the next step will have."""
        return max(self.number - 1, 0) if self._replaying else self.number

    @property
    def due(self) -> bool:
        """Whether the next step is one of those in which views are made."""
        return self._settings.has_views(self.upcoming)

    def skip(self) -> None:
        """Counts a step in which no views are made."""
        self.number = self.upcoming + 1

    def next(
        self, images: Tensor, made: Tensor | None = None
    ) -> tuple[int, Tensor, tuple[Motion, ...]]:
        """The number of this step, and the rows `[N, ...]` of its images.

        How the pixels moved of those views that moved comes with them.

        Args:
            images: `[B, C, H, W]`.
            made: the rows, if the loader made the views.

        Raises:
            ValueError: the images are no batch, hold NaN in the first step, or would
                be scaled in some steps alone.
        """
        check_batch(images)
        _refuse_scaling(images, self._settings.every)
        # All that reaches the network as it came.
        came = images if made is None else made
        if self.rank is None:
            _check_finite(came)
            self.rank = ranks.rank()
        self.pixels.settle(came, ranks.from_first)
        number, settings = self.upcoming, self._settings
        layout = settings.layout(images.shape[0])
        seed = mix_seed(self._seed, self.rank, number)
        if isinstance(self.scheme, Given):
            assert made is not None
            rows = self.pixels.prepare(made)
            blocks = [Views(layout.num_views, images.shape, seed, images.device)]
        else:
            rows = expand(
                self.pixels.prepare(images),
                settings.num_views,
                self.scheme,
                first_view=settings.first_view,
                normalization=self.pixels.known or Normalization(),
                seed=seed,
                check=number < _FIRST * settings.every,
                viewed=layout.viewed,
            )
            blocks = made_together(images, layout, settings.first_view, seed)
        self.number = number + 1
        motions = [motion_of(self.scheme, each) for each in blocks]
        return number, rows, tuple(each for each in motions if each is not None)

    @contextmanager
    def replay(self, enabled: bool = True) -> Iterator[None]:
        """Steps inside repeat the views of the last one."""
        before, self._replaying = self._replaying, enabled
        try:
            yield
        finally:
            self._replaying = before

    def state_dict(self) -> dict[str, Any]:
        """Seed, step and input range: plain numbers."""
        known = self.pixels.known
        return {
            "seed": self._seed,
            "step": self.number,
            "mean": list(known.mean) if known else None,
            "std": list(known.std) if known else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the random stream where `state_dict` was taken."""
        self._seed, self.number = int(state["seed"]), int(state["step"])
        if state["mean"] is not None:
            self.pixels.known = Normalization.given(
                state["mean"], state["std"], "restored"
            )


def check_batch(images: Any) -> Tensor:
    """The images, if they are a batch `[B, C, H, W]` with something in it.

    Raises:
        ValueError: they are none.
        TypeError: they are no tensor.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a batch [B, C, H, W], got a {type(images).__name__}; "
            'views that the loader made are taken with scheme="given"'
        )
    if images.dim() != 4:
        raise ValueError(
            f"images must be a batch [B, C, H, W], got {list(images.shape)}; a "
            "single image is images[None]"
        )
    if not len(images):
        raise ValueError(
            f"got an empty batch {list(images.shape)}: there is nothing to train on"
        )
    return images


def _refuse_scaling(images: Tensor, every: int) -> None:
    """All training steps feed the network one range of pixels, in one dtype."""
    if every > 1 and images.dtype == torch.uint8:
        raise ValueError(
            f"uint8 images with every={every}: steps with views would scale them to "
            "[0, 1] and normalise them, while the others, which are left alone, would "
            "feed the network integers; let the loop scale and normalise them "
            "(images / 255, then mean and std), or set every=1"
        )


def _check_finite(images: Tensor) -> None:
    if images.is_floating_point() and not images.isfinite().all():
        raise ValueError(
            "the first batch of images holds NaN or infinite values; check the "
            "data and its normalisation (a standard deviation of 0?)"
        )
