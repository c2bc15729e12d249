"""Which training forwards were trained on, and which were missed.

The rule: a forward is reached if the backward of the loss that was handed out for it
runs. A loss that may still be back-propagated (accumulation, several losses and one
backward) is waited for; one that was dropped, or whose network was trained by another
loss, is a miss. Two misses in a row raise, unless strict=False.
"""

import logging

from dai_plugin.training.step import Step

logger = logging.getLogger("dai_plugin")

_NEVER = (
    "a training forward did not reach the criterion: its invariance loss was not "
    "trained. The criterion must get what the network returned, not the result of an "
    "operation on it (put log_softmax into the network or the criterion), and it must "
    "be the attached one (use what attach returned)"
)
_DROPPED = (
    "the loss of a training forward was computed and then not back-propagated{}: its "
    "invariance loss was not trained. Train the very value that the criterion returned "
    "(select or weight with reduction='none' inside the criterion, or attach the "
    "criterion whose result is trained)"
)


class Ledger:
    """Counts the training forwards of one attachment.

    Args:
        strict: raise at the second miss in a row.

    Attributes:
        forwards: training forwards.
        calls: those that reached the criterion.
        missed: those whose loss was not trained.
        stock: those that made no views, and are neither.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.forwards = self.calls = self.missed = self.stock = 0
        self._in_a_row = 0
        self._open: list[Step] = []

    def begin(self, step: Step) -> None:
        """Counts a forward."""
        self.forwards += 1
        self._open.append(step)

    def skip(self) -> None:
        """Counts a forward in which there is nothing to miss."""
        self.forwards += 1
        self.stock += 1

    def call(self, step: Step) -> None:
        """Counts its loss, once."""
        if not step.called:
            self.calls += 1

    def drop(self, step: Step) -> None:
        """A forward or a criterion call that raised is neither reached nor missed."""
        self._open = [each for each in self._open if each is not step]

    def settle(self) -> None:
        """Decides on the forwards before a new one, or before an evaluation.

        Raises:
            RuntimeError: the second miss in a row, if strict.
        """
        undecided, self._open = self._open, []
        for step in undecided:
            if step.trained:
                self._in_a_row = 0
            elif step.pending:
                self._open.append(step)
            elif step.ran:
                self.miss(step)

    def miss(self, step: Step) -> None:
        """Counts a miss.

        Raises:
            RuntimeError: the second in a row, if strict.
        """
        message = _NEVER
        if step.called:
            self.calls -= 1
            message = _DROPPED.format(
                ", while another loss of the same outputs was" if step.passed else ""
            )
        if step.complaint:
            message = f"{message}. What came was {step.complaint}"
        self.missed += 1
        self._in_a_row += 1
        if self._in_a_row > 1 and self._strict:
            self._in_a_row = 0
            raise RuntimeError(f"{message}. This happened {self.missed} times")
        if str(self.missed).strip("0") == "1":  # 1, 10, 100, ...
            logger.warning(
                "%s. Twice in a row is an error unless strict=False (%d so far)",
                message,
                self.missed,
            )
