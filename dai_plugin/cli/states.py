"""The weights of a network among all that a checkpoint holds.

One rule: every tensor of a file has a path (keys and names, joined by dots), and the
weights are what lies below a start at which exactly the tensors of the network lie, of
the same shapes. Wrappers, trainers and averages differ in that start alone.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.cli.checkpoints import class_of, networks_in
from dai_plugin.cli.networks import is_quantised
from dai_plugin.layers import unwrap

logger = logging.getLogger("dai_plugin")

# Where trainers keep the weights themselves, beside averages and teachers.
DOCUMENTED = ("model", "state_dict", "model_state_dict")
# What torch puts into the names of the modules that it wraps, at any depth.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Of batch norm; used by no forward, and absent from files before torch 0.4.1.
_UNUSED = "num_batches_tracked"


def load_state(
    model: nn.Module,
    content: Any,
    source: str,
    key: str | None = None,
    prefix: str | None = None,
) -> None:
    """Gives a network its weights from what a file holds.

    Where others that fit lie beside those that are taken, a warning says so.

    Args:
        model: the network, wrapped or not.
        content: of the file.
        source: its name, for messages.
        key: of the entry that is meant, "a.b" for one inside another.
        prefix: that the names in the entry have before those of the network.

    Raises:
        ValueError: no entry fits, or several do that differ; lists what is there.
    """
    base = unwrap(model)
    state = base.state_dict()
    own = {bare(k): v for k, v in state.items() if isinstance(v, Tensor)}
    tensors = _by_path(content, source)
    fitting = [s for s in fits(own, tensors) if _asked(s, key, prefix)]
    different = _different(fitting, tensors)
    chosen = different if len(different) == 1 else _documented(different, key)
    if len(chosen) != 1:
        raise ValueError(
            _refusal(own, tensors, different, base, source) + _whole(content)
        )
    taken, others = _below(tensors, chosen[0]), [s for s in different if s != chosen[0]]
    for name, value in taken.items():
        _expect_floats(name, value, own[name], source)
    base.load_state_dict({k: taken.get(bare(k), v) for k, v in state.items()})
    if others:
        logger.warning(
            "%s: took %s; %s beside it would fit, too (--key)",
            source,
            _word(chosen[0]),
            ", ".join(map(_word, others)),
        )


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
            inside = [(_join(path, str(k)), v, within) for k, v in pairs]
            stack += reversed(inside)


def fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Starts below which exactly the tensors of a network lie.

    Batch norm's counter of batches may be missing, and of tensors that share their
    memory all but one.
    """
    matches, sizes = _matches(own, tensors)
    return [
        start
        for start, names in matches.items()
        if len(names) == sizes[start]
        and not _missing(own, names)
        and all(tensors[_join(start, n)].shape == own[n].shape for n in names)
    ]


def bare(name: str) -> str:
    """A name without what torch's wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _by_path(content: Any, source: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, value in tensors_in(content):
        name = bare(path)
        if not _same(found.setdefault(name, value), value):
            raise ValueError(f"{source} holds two different tensors at {name!r}")
    if not found:
        whole = _whole(content)
        held = whole or f"; it is a {type(content).__name__}{_listed(content)}"
        raise ValueError(f"{source} holds no weights{held}")
    return found


def _matches(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, set[str]], Counter[str]]:
    """The network's names below each start, and how many tensors lie there."""
    matches, sizes = defaultdict(set), Counter[str]()
    for path in tensors:
        parts = path.split(".")
        for i in range(len(parts)):
            start, name = ".".join(parts[:i]), ".".join(parts[i:])
            sizes[start] += 1
            if name in own:
                matches[start].add(name)
    return matches, sizes


def _missing(own: Mapping[str, Tensor], given: set[str]) -> list[str]:
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


def _asked(start: str, key: str | None, prefix: str | None) -> bool:
    key, prefix = (each.strip(".") if each else "" for each in (key, prefix))
    if key and prefix:
        return start == _join(key, prefix)
    if key:
        return f"{start}.".startswith(f"{key}.")
    return not prefix or f".{start}".endswith(f".{prefix}")


def _different(starts: Sequence[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """Of starts with the same weights, the first."""
    kept: list[str] = []
    for start in starts:
        values = _below(tensors, start)
        if not any(_equal(values, _below(tensors, other)) for other in kept):
            kept.append(start)
    return kept


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        _same(value, other[name]) for name, value in one.items()
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _documented(starts: Sequence[str], key: str | None) -> list[str]:
    """Of starts with different weights, those that are meant without further words."""
    if key:
        return [start for start in starts if start == key.strip(".")]
    return [start for start in starts if start.split(".")[0] in DOCUMENTED]


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    inside = f"{start}." if start else ""
    return {k[len(inside) :]: v for k, v in tensors.items() if k.startswith(inside)}


def _expect_floats(name: str, value: Tensor, own: Tensor, source: str) -> None:
    if own.is_floating_point() and not value.is_floating_point():
        raise ValueError(
            f"{source} holds quantised weights ({name} is {value.dtype}): give those "
            "from before quantisation"
        )


def _refusal(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    different: Sequence[str],
    base: nn.Module,
    source: str,
) -> str:
    network = f"this {type(base).__name__}"
    if different:
        return (
            f"{source} holds {len(different)} different weights of {network}: "
            f"{', '.join(map(_word, different))}; say which with --key or --prefix"
        )
    quantised = [n for n, v in tensors.items() if is_quantised(v)]
    if quantised:
        return (
            f"{source} holds quantised weights ({quantised[0]}): give those from "
            "before quantisation"
        )
    return (
        f"{source} holds the weights of another network than {network}, or not where "
        f"--key and --prefix say: {_nearest(own, tensors)}; in the file lie "
        f"{_outline(tensors)}; give the arguments that the network was built with "
        "(--model-args, as num_classes=10), or --key and --prefix"
    )


def _nearest(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    matches, _ = _matches(own, tensors)
    if not matches:
        return (
            f"none of its {len(own)} names ({', '.join(list(own)[:3])}, ...) is there"
        )
    start = max(matches, key=lambda s: len(matches[s]))
    given = _below(tensors, start)
    wrong = [
        f"{n} {list(given[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    missing = _missing(own, set(given))
    unexpected = [n for n in given if n not in own]
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    said = [f"{len(v)} {k} ({_few(v)})" for k, v in parts.items() if v]
    return (
        f"{_word(start)} comes nearest, with {', '.join(said) or 'all that it needs'}"
    )


def _outline(tensors: Mapping[str, Tensor], most: int = 6) -> str:
    """Entries of a file: their paths, numbers of tensors and first names."""
    entries = defaultdict(list)
    for path in tensors:
        first, _, rest = path.partition(".")
        entries[first if rest else ""].append(rest or first or "a tensor")
    said = [
        f"{_word(start)} ({len(names)}: {_few(names)})"
        for start, names in sorted(entries.items(), key=lambda e: -len(e[1]))
    ]
    more = f", {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more


def _whole(content: Any) -> str:
    """Advice where there are whole networks."""
    found = [class_of(value) for value in networks_in(content).values()]
    advice = "give the file to --model, with --trust if you know who made it"
    return f"; it holds whole networks ({_few(found)}): {advice}" if found else ""


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _listed(content: Any) -> str:
    if not isinstance(content, Mapping) or not content:
        return ""
    return f" with {_few([str(k) for k in content], 8)}"


def _word(start: str) -> str:
    return repr(start) if start else "the top of the file"


def _join(start: str, name: str) -> str:
    return f"{start}.{name}" if start and name else start or name
