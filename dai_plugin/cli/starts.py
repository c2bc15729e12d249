"""Where in a file the tensors of a network lie: pure functions.

Every tensor of a file has a path: the keys that lead to it and its name, joined by
dots. The weights of a network are what lies below a start at which exactly its tensors
lie, of the same shapes. Wrappers, trainers and averages differ in that start alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# What torch puts into the names of the modules that it wraps, at any depth.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Of batch norm; used by no forward, and absent from files before torch 0.4.1.
_UNUSED = "num_batches_tracked"


def tensors_in(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and lists, with its path."""
    stack = [("", content, frozenset[int]())]
    while stack:
        path, value, around = stack.pop()
        if isinstance(value, Tensor):
            yield path, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in around:
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            within = around | {id(value)}
            inside = [(join(path, str(k)), v, within) for k, v in pairs]
            stack += reversed(inside)


def fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Starts below which exactly the tensors of a network lie.

    Batch norm's counter of batches may be missing, and of tensors that share their
    memory all but one.
    """
    found, sizes = matches(own, tensors)
    return [
        start
        for start, names in found.items()
        if len(names) == sizes[start]
        and not missing(own, names)
        and all(tensors[join(start, n)].shape == own[n].shape for n in names)
    ]


def bare(name: str) -> str:
    """A name without what torch's wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def matches(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, set[str]], Counter[str]]:
    """The network's names below each start, and how many tensors lie there."""
    found, sizes = defaultdict(set), Counter[str]()
    for path in tensors:
        parts = path.split(".")
        for i in range(len(parts)):
            start, name = ".".join(parts[:i]), ".".join(parts[i:])
            sizes[start] += 1
            if name in own:
                found[start].add(name)
    return found, sizes


def missing(own: Mapping[str, Tensor], given: set[str]) -> list[str]:
    """Names of the network that are not given and have to be."""
    shared = defaultdict(set)
    for name, value in own.items():
        memory = value.data_ptr()  # 0 without any
        shared[(memory, value.shape) if memory else name].add(name)
    return [
        name
        for names in shared.values()
        for name in sorted(names)[:1]
        if not names & given and not name.endswith(_UNUSED)
    ]


def different(starts: Sequence[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Of starts with the same weights, the first."""
    kept: list[str] = []
    for start in starts:
        values = below(tensors, start)
        if not any(_equal(values, below(tensors, other)) for other in kept):
            kept.append(start)
    return kept


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        same(value, other[name]) for name, value in one.items()
    )


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of the same values and dtype."""
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors below a start, by the rest of their paths."""
    inside = f"{start}." if start else ""
    return {k[len(inside) :]: v for k, v in tensors.items() if k.startswith(inside)}


def join(start: str, name: str) -> str:
    """A path inside another; either may be empty."""
    return f"{start}.{name}" if start and name else start or name
