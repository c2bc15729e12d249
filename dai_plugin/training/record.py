"""What a run is asked about itself: the last values of its losses."""

from collections.abc import Sequence

from torch import Tensor

from dai_plugin.losses.weights import Key, key_name


class Record:
    """The last losses of a run; they are read from the device when asked for.

    Args:
        names: of the terms.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = _told_apart(names)
        self._keys: list[list[Key]] = [[] for _ in names]
        self._losses: dict[int, Tensor] = {}
        self._task: Tensor | None = None
        self._total: Tensor | None = None

    def note(
        self,
        keys: list[list[Key]],
        losses: dict[int, Tensor],
        task: Tensor,
        total: Tensor,
    ) -> None:
        """Keeps the values of a step.

        Args:
            keys: calls of the layers of each term.
            losses: `[calls]` of each term that was computed, by its number.
            task: the task loss.
            total: the objective.
        """
        self._keys = keys
        self._losses = {number: each.detach() for number, each in losses.items()}
        self._task, self._total = task.detach().clone(), total.detach().clone()

    def values(self) -> dict[str, object]:
        """The values by name, as `Attachment.stats` has them."""
        terms = {name: self._of_term(number) for number, name in enumerate(self._names)}
        return {
            "layers": next(iter(terms.values())),
            "terms": terms,
            "task_loss": _mean(self._task),
            "total_loss": _mean(self._total),
        }

    def _of_term(self, number: int) -> dict[str, float]:
        if number not in self._losses:
            return {}
        names = [key_name(key) for key in self._keys[number]]
        return dict(zip(names, self._losses[number].tolist(), strict=True))


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that occur again."""
    return [
        f"{name} {before + 1}" if (before := names[:i].count(name)) else name
        for i, name in enumerate(names)
    ]


def _mean(value: Tensor | None) -> float | None:
    return None if value is None else value.float().mean().item()
