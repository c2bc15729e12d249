"""The explicit form, for loops of one's own."""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from dai_plugin.settings import Keywords, Settings, shows_settings
from dai_plugin.training import given
from dai_plugin.training.draws import check_batch
from dai_plugin.training.follow import Follow
from dai_plugin.training.inert import Hook
from dai_plugin.training.step import Step
from dai_plugin.training.steps import Steps
from dai_plugin.training.usage import say_if_unused
from dai_plugin.training.watch import raising


@shows_settings(first_view="augmented")
class DataAugmentationInvariance:
    """The explicit form, for loops of one's own; takes the keywords of `attach`.

    One default is another: `first_view` is "augmented", as in the paper.
    Nothing is returned short: metrics count all rows, view-major: the B images (their
    first views), then each further view of the `share` of them that has one. Evaluation
    is untouched, and so are the steps without views (`every`), in which `views` and
    `loss` return what they got.

        dai = DataAugmentationInvariance(model, num_views=8)
        images, targets = dai.views(images, targets)
        loss = dai.loss(criterion(model(images), targets))

    Args:
        model: any network, wrapped or not.
        **settings: the fields of `dai_plugin.Settings`, which says what each means.

    Attributes:
        settings: of the run.
    """

    def __init__(self, model: nn.Module, **settings: Unpack[Keywords]) -> None:
        given: Keywords = {"first_view": "augmented", **settings}
        self.settings = Settings(**given)
        self._steps = Steps(model, self.settings)
        self._targets: Tensor | None = None
        self._output: Any = None
        self._call: tuple[Any, Any] = (), {}
        opaque: Any = torch.compiler.disable
        base = self._steps.base
        before, after = Hook(opaque(self._before), self), Hook(opaque(self._after))
        name = type(base).__name__
        self._unused = weakref.finalize(self, say_if_unused, self._steps.usage, name)
        self._handles = [
            base.register_forward_pre_hook(before, with_kwargs=True),
            base.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    @property
    def layers(self) -> list[str]:
        """Names of the chosen layers."""
        return self._steps.layers

    def views(
        self, images: Tensor | Sequence[Tensor], targets: Tensor | None = None
    ) -> Any:
        """Rows `[N, C, H, W]`, view-major, and targets to match.

        Args:
            images: `[B, C, H, W]`; with `scheme="given"` the views of the loader, a
                list of batches or one `[B, num_views, C, H, W]`.
            targets: `[B, ...]`; left out, the rows are returned alone. Those that
                belong to pixels move with their views (`Settings.targets`), outside
                the image masks get `Settings.ignore_index`, which must be named.

        Raises:
            ValueError: the images are no batch, hold NaN in the first step, are moved
                in a way that the targets cannot follow, or are uint8 while `every` is
                above 1; or the targets are not one an image.
            RuntimeError: the second step in a row whose loss was not trained.
        """
        steps, made = self._steps, None
        if steps.active and not steps.draws.due:
            steps.skip()
        elif steps.active:
            if steps.draws.given:
                views = self.settings.num_views
                made = given.rows_of(images, views)
                images = made[: made.shape[0] // views]
            step, images = steps.open(check_batch(images), made)
            step.ran = False
            self._targets = targets
            if targets is not None:
                targets = self._follow(step, targets)
        return images if targets is None else (images, targets)

    def _follow(self, step: Step, targets: Tensor) -> Tensor:
        following = Follow(step, self.settings)
        try:
            return following.named_rows(targets, following.kind(targets))
        except BaseException:
            self._steps.discard()
            raise

    def loss(self, task: Tensor) -> Tensor:
        """The objective from the task loss on all rows.

        Raises:
            RuntimeError: `views` was not called for this step, or a chosen layer did
                not fire since.
        """
        if not self._steps.active:
            return task
        if self._steps.stock:
            self._steps.stock = False  # one loss a step, as in those with views
            return task
        step = self._steps.current
        if step is None or step.called:
            raise RuntimeError("loss() needs the rows of this step: call views() first")
        self._close(step)
        total = self._steps.total(step, task, self._targets)
        step.watch_output(task)
        return total

    def stats(self) -> dict[str, Any]:
        """Counters and the last values, as `Attachment.stats` has them."""
        return self._steps.stats()

    @property
    def watched(self) -> Any:
        """The `Measures` of the last look of `watch`; None before the first."""
        return self._steps.observer.found

    def replay(self, enabled: bool = True) -> AbstractContextManager[None]:
        """Calls of `views` inside repeat the views of the last step.

        For optimizers that look at one batch several times (SAM, L-BFGS).

        Args:
            enabled: False draws new views, so that a closure can decide.
        """
        return self._steps.draws.replay(enabled)

    def state_dict(self) -> dict[str, Any]:
        """Seed, step and input range: plain numbers."""
        return self._steps.draws.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the random stream where `state_dict` was taken."""
        self._steps.load_state_dict(state)

    def remove(self) -> None:
        """Takes away every hook that was set here, and nothing else's."""
        self._unused()
        self._steps.remove()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _before(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        steps = self._steps
        if steps.hooks.visit is not None:  # a look, which is no forward
            return
        steps.usage.calls += 1
        step = steps.current
        steps.hooks.stock = steps.stock and steps.active
        if steps.active and step and not step.called:
            steps.hooks.current, self._call = step, (args, kwargs)
            step.ran = True

    def _after(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._steps.hooks.visit is None:
            self._steps.hooks.current, self._steps.hooks.stock = None, False
            self._output = output
            if output is None and raising():
                self._steps.discard()

    def _close(self, step: Step) -> None:
        try:
            self._steps.close(step, *self._call)
            self._steps.measure(step, self._output)
        except BaseException:
            self._steps.discard()
            raise
        finally:
            self._call, self._output = ((), {}), None
            self._steps.growth.end()
