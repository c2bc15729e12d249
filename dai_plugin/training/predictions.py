"""Which of the tensors that a network returned are its predictions.

The rule: a floating point tensor with a row for each of the rows, the loss aside. Of
several, the one under the name that Hugging Face ("logits") and torchvision ("out",
"logits") give it; of several without names, the one that the criterion gets.
"""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_NAMES = ("logits", "out")


def predictions(
    output: Any, rows: int, loss: str | int | None, reached: Tensor | None
) -> Tensor:
    """The predictions `[N, ...]` in what a network returned.

    Args:
        output: of the network.
        rows: N.
        loss: name or place of the loss in it, if the network returns one.
        reached: the output that goes to the criterion, if there is one.

    Raises:
        RuntimeError: there are none, or several and nothing tells which.
    """
    entries, named = _entries(output)
    found: dict[Any, Tensor] = {
        name: entry
        for name, entry in entries.items()
        if name != loss and _has_rows(entry, rows)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    for name in _NAMES:
        if name in found:
            return found[name]
    if reached is not None and not named and _has_rows(reached, rows):
        return reached
    shapes = {name: list(entry.shape) for name, entry in found.items()}
    raise RuntimeError(
        f"a term at the output needs the predictions of the network, which returned "
        f"{shapes or _shapes(output)} for {rows} rows: "
        + (
            'several may be; return them under the name "logits", '
            if found
            else "none of floating point has as many; "
        )
        + "or give the term the layer whose output they are: layers=..."
    )


def _entries(output: Any) -> tuple[dict[Any, Any], bool]:
    """What the network returned by name or place, and whether these are names."""
    if isinstance(output, Tensor):
        return {0: output}, False
    if isinstance(output, dict):
        return dict(output), True
    if hasattr(output, "_asdict"):
        return output._asdict(), True
    if isinstance(output, list | tuple):
        return dict(enumerate(output)), False
    if hasattr(output, "__dict__"):
        return dict(vars(output)), True
    return {}, False


def _has_rows(entry: Any, rows: int) -> bool:
    return (
        isinstance(entry, Tensor)
        and entry.is_floating_point()
        and entry.dim() > 0
        and entry.shape[0] == rows
    )


def _shapes(output: Any) -> Any:
    tensors = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    return [f"{list(t.shape)} of {t.dtype}" for t in tensors] or type(output).__name__
