"""Training that goes on past the hooks: the second such criterion call raises.

A criterion call whose arguments come from the parameters of the attached network, but
not from a forward of it, was made with `model.forward(images)` or a network inside it;
one whose arguments come from other parameters of the same shapes, with a copy or a
network that a framework built anew. What a stock forward returned, and what was made of
it, is the loop's own, and excuses no other call.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from dai_plugin.training.graph import nodes_behind
from dai_plugin.training.outputs import StockOutputs
from dai_plugin.training.step import Step
from dai_plugin.training.steps import Steps

logger = logging.getLogger("dai_plugin")


class Past:
    """Watches criterion calls that are about no output of the current step.

    Args:
        steps: of the network.
        stock: what its stock forwards returned.
    """

    def __init__(self, steps: Steps, stock: StockOutputs) -> None:
        self._steps, self._stock = steps, stock
        self._count = 0
        self._ended = 0

    def reset(self) -> None:
        """A call reached the attached network: nothing goes past it."""
        self._count = 0

    def saw(self, tensors: Sequence[Tensor], step: Step | None, ended: bool) -> None:
        """Judges a call that was not matched.

        Args:
            tensors: its arguments.
            step: the current one.
            ended: whether outputs of an earlier step are among them.

        Raises:
            RuntimeError: it is the second call in a row past the hooks, if strict.
        """
        if ended:
            self._say_ended(step)
            return
        given = [] if step is None or step.outputs is None else step.outputs.returned()
        if step is not None and any(t is each for t in tensors for each in given):
            step.complaint = "the network's output after the loop changed it in place"
            return
        moving = [t for t in tensors if t.requires_grad]
        if not moving or not self._steps.active or self._stock.behind(moving):
            return
        for tensor in moving:
            outputs = None if step is None else step.outputs
            origin = outputs.origin(tensor) if outputs else None
            if origin is not None and step is not None:
                step.complaint = origin
                return
        if self._past(moving):
            self._complain()

    def _say_ended(self, step: Step | None) -> None:
        if step is not None:
            step.complaint = (
                "the output of an earlier training forward: two forwards were run "
                "before one loss"
            )
        message = (
            "the criterion was called on outputs whose step had ended (with another "
            "forward, or with an evaluation): that call returned the stock loss. Take "
            "the loss of a forward before the next one, or run the network once on "
            "both batches, torch.cat([a, b]), and part its output in the criterion"
        )
        self._ended += 1
        if self._ended > 1 and self._steps.settings.strict:
            self._ended = 0
            raise RuntimeError(f"{message}. This happened twice")
        if self._ended == 1:
            logger.warning("%s. The next time is an error unless strict=False", message)

    def _past(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors come from the network's parameters, or from its like."""
        found = _parameters(tensors)
        own = [p for p in self._steps.base.parameters() if p.requires_grad]
        mine = {id(p) for p in own}
        if any(id(p) in mine for p in found):
            return True
        if self._steps.ledger.forwards or not found:
            return False
        shapes = Counter(p.shape for p in own)
        return not Counter(p.shape for p in found) - shapes

    def _complain(self) -> None:
        self._count += 1
        message = (
            "the criterion was called in training on what no forward of the attached "
            "network returned: that call gave the stock loss, without views and "
            "invariance. Call the network that was given to attach, model(images): "
            "neither model.forward(images), nor a copy of it, nor a network inside it, "
            "nor one that a framework has built anew"
        )
        if self._count > 1 and self._steps.settings.strict:
            self._count = 0
            raise RuntimeError(f"{message}. This happened twice in a row")
        if self._count == 1:
            logger.warning("%s. The next time is an error unless strict=False", message)


def _parameters(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The leaves that the tensors were computed from."""
    leaves = [getattr(node, "variable", None) for node in nodes_behind(tensors)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
