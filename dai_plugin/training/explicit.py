"""The explicit form, for loops of one's own."""

from typing import Any

from torch import Tensor, nn

from dai_plugin.training.hooks import Hook
from dai_plugin.training.objective import Objective
from dai_plugin.views.expand import repeat_targets


class DataAugmentationInvariance(Objective):
    """The explicit form, for loops of one's own; takes the keywords of `attach`.

    One default is another: `first_view` is "augmented", as in the paper.
    Nothing is returned short: metrics count all `num_views * B` rows. Evaluation is
    untouched.

        dai = DataAugmentationInvariance(model, num_views=8)
        images, targets = dai.views(images, targets)
        loss = dai.loss(criterion(model(images), targets))
    """

    def __init__(self, model: nn.Module, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._targets: Tensor | None = None
        self._handle = self.base.register_forward_pre_hook(Hook(self._before))

    def _before(self, *_: Any) -> None:
        if not self.active:  # a step that was given up before its loss
            self._open = False
            self.release()

    def remove(self) -> None:
        """Takes away every hook that was set here, and nothing else's."""
        super().remove()
        self._handle.remove()

    def views(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """Rows `[num_views * B, C, H, W]`, view-major, and targets to match.

        Args:
            images: `[B, C, H, W]`.
            targets: `[B, ...]`; left out, the rows are returned alone.

        Raises:
            ValueError: the images are no batch, hold NaN in the first step, or dense
                targets meet a scheme that moves pixels.
        """
        if self.active:
            if targets is not None:
                self.refuse_dense(targets, images.shape[0])
                targets = repeat_targets(targets, self.num_views)
            images, self._targets = self.begin(images), targets
        return images if targets is None else (images, targets)

    def loss(self, task: Tensor) -> Tensor:
        """The objective from the task loss on all rows.

        Raises:
            RuntimeError: `views` was not called for this step, or a chosen layer did
                not fire since.
        """
        if not self.active:
            return task
        if not self._open:
            raise RuntimeError("loss() needs the rows of this step: call views() first")
        self.measured()
        return self.total(task, self._targets if self.beta else None)
