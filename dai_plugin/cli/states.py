"""A network gets the weights that are its own among all that a checkpoint holds."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dai_plugin.cli.checkpoints import class_of, networks_in
from dai_plugin.cli.networks import is_quantised
from dai_plugin.cli.starts import (
    bare,
    below,
    different,
    fits,
    join,
    matches,
    missing,
    same,
    tensors_in,
)
from dai_plugin.layers import unwrap

logger = logging.getLogger("dai_plugin")

# Where trainers keep the weights themselves, beside averages and teachers.
DOCUMENTED = ("model", "state_dict", "model_state_dict")


def load_state(
    model: nn.Module,
    content: Any,
    source: str,
    key: str | None = None,
    prefix: str | None = None,
) -> str:
    """Gives a network its weights from what a file holds.

    Where others that fit lie beside those that are taken, a warning says so.

    Args:
        model: the network, wrapped or not.
        content: of the file.
        source: its name, for messages.
        key: of the entry that is meant, "a.b" for one inside another.
        prefix: that the names in the entry have before those of the network.

    Returns:
        Where they lay: "model" or the like, "" for those that were all of the file.

    Raises:
        ValueError: no entry fits, or several do that differ; lists what is there.
    """
    base = unwrap(model)
    state = base.state_dict()
    own = {bare(k): v for k, v in state.items() if isinstance(v, Tensor)}
    tensors = _by_path(content, source)
    asked = [s for s in fits(own, tensors) if _asked(s, key, prefix)]
    fitting = different(asked, tensors)
    chosen = fitting if len(fitting) == 1 else _documented(fitting, key)
    if len(chosen) != 1:
        raise ValueError(
            _refusal(own, tensors, fitting, base, source) + _whole(content)
        )
    start = chosen[0]
    taken, others = below(tensors, start), [s for s in fitting if s != start]
    for name, value in taken.items():
        _expect_floats(name, value, own[name], source)
    base.load_state_dict({k: taken.get(bare(k), v) for k, v in state.items()})
    if others:
        logger.warning(
            "%s: took %s; %s beside it would fit, too (--key)",
            source,
            _word(start),
            ", ".join(map(_word, others)),
        )
    return start


def _by_path(content: Any, source: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path, value in tensors_in(content):
        name = bare(path)
        if not same(found.setdefault(name, value), value):
            raise ValueError(f"{source} holds two different tensors at {name!r}")
    if not found:
        whole = _whole(content)
        held = whole or f"; it is a {type(content).__name__}{_listed(content)}"
        raise ValueError(f"{source} holds no weights{held}")
    return found


def _asked(start: str, key: str | None, prefix: str | None) -> bool:
    key, prefix = (each.strip(".") if each else "" for each in (key, prefix))
    if key and prefix:
        return start == join(key, prefix)
    if key:
        return f"{start}.".startswith(f"{key}.")
    return not prefix or f".{start}".endswith(f".{prefix}")


def _documented(starts: Sequence[str], key: str | None) -> list[str]:
    """Of starts with different weights, those that are meant without further words."""
    if key:
        return []
    return [start for start in starts if start.split(".")[0] in DOCUMENTED]


def _expect_floats(name: str, value: Tensor, own: Tensor, source: str) -> None:
    if own.is_floating_point() and not value.is_floating_point():
        raise ValueError(
            f"{source} holds quantised weights ({name} is {value.dtype}): give those "
            "from before quantisation"
        )


def _refusal(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    fitting: Sequence[str],
    base: nn.Module,
    source: str,
) -> str:
    network = f"this {type(base).__name__}"
    if fitting:
        return (
            f"{source} holds {len(fitting)} different weights of {network}: "
            f"{', '.join(map(_word, fitting))}; say which with --key or --prefix"
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
    found, _ = matches(own, tensors)
    if not found:
        return (
            f"none of its {len(own)} names ({', '.join(list(own)[:3])}, ...) is there"
        )
    start = max(found, key=lambda s: len(found[s]))
    given = below(tensors, start)
    wrong = [
        f"{n} {list(given[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    parts = {
        "missing": missing(own, set(given)),
        "unexpected": [n for n in given if n not in own],
        "of another shape": wrong,
    }
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
