"""What a tensor was computed from, as autograd remembers it."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

MOST = 20_000  # nodes that are walked; networks of the zoo have a few thousand


def nodes_behind(tensors: Iterable[Tensor], most: int = MOST) -> Iterator[Any]:
    """The nodes that the tensors were computed by, each once, the last first."""
    queue: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen: set[Any] = set()
    while queue and len(seen) < most:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        queue += [following for following, _ in node.next_functions]
