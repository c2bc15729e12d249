"""Schemes in turn: `Scheme.heavier() + kornia.augmentation.RandomErasing()`."""

from dataclasses import dataclass
from typing import Any

from dai_plugin.views import pipelines


class Summand:
    """What can be added to another scheme, or to a callable, on either side."""

    def __add__(self, after: Any) -> "Composed":
        return Composed((self, after))

    def __radd__(self, before: Any) -> "Composed":
        return Composed((before, self))


@dataclass(frozen=True)
class Composed(Summand):
    """Schemes that are applied in turn, each to what the one before it returned.

    Attributes:
        parts: schemes of this package and callables on batches; sums are taken apart.

    Raises:
        TypeError: a part is neither.
        ValueError: a part is a pipeline that no scheme may be.
    """

    parts: tuple[Any, ...]

    def __post_init__(self) -> None:
        flat = [
            inner
            for part in self.parts
            for inner in (part.parts if isinstance(part, Composed) else (part,))
        ]
        object.__setattr__(self, "parts", tuple(_checked(part) for part in flat))

    def __str__(self) -> str:
        return ", then ".join(str(part) for part in self.parts)


def _checked(part: Any) -> Any:
    if isinstance(part, Summand):
        return part
    if not callable(part):
        raise TypeError(
            f"a scheme plus {part!r}: what is added must be a scheme (a name stands "
            "for one only where it is alone) or a callable on batches [N, C, H, W]"
        )
    return pipelines.usable(part)
