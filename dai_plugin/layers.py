"""Which modules of any network the invariance is computed at.

Names are those of `named_modules()`; wrappers (`module.` of DistributedDataParallel,
`_orig_mod.` of `torch.compile`) are looked through.
"""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.automatic import WORDS, block_candidates, repeated_blocks
from dai_plugin.wrappers import (
    INPUT,
    OUTPUT,
    SEGMENTS,
    core,
    is_layer,
    named,
    resolve,
    spellings,
    unknown,
    unwrap,
)

__all__ = ["Layers", "resolve", "select_layers", "unwrap", "why_not"]

Layers = (
    str
    | Sequence[str]
    | type[nn.Module]
    | tuple[type[nn.Module], ...]
    | Callable[[str, nn.Module], bool]
)


def select_layers(
    model: nn.Module, layers: Layers = "auto", example: Tensor | None = None
) -> list[str]:
    """Names of the chosen modules, first to last.

    Args:
        model: any network, wrapped or not.
        layers: "auto"; "last" of these; "penultimate", what enters the last linear
            layer (pooled features); "output", what the network returns; names; glob
            patterns ("layer?.*"); a module class or a tuple of classes; or a callable
            `(name, module) -> bool`. A module that bears one of these words goes
            before the word.
        example: a batch of images: the network is run on it once (evaluation mode, no
            gradients, on the model's device), the layers come in the order in which
            they fire, and layers that do not fire are left out.

    Raises:
        KeyError: a name or pattern matches no module; the nearest names are listed.
        ValueError: nothing is chosen.
        TypeError: `layers` is none of the above.
    """
    base = unwrap(model)
    names = _choose(base, layers)
    if example is not None:
        names = _firing_order(base, names, example)
    if not names:
        raise ValueError(
            f"layers={layers!r} chooses no layer of {type(base).__name__}; "
            "`dai-plugin layers` and model.named_modules() list what there is"
        )
    return names


def why_not(model: nn.Module, layers: Layers = "auto") -> dict[str, str]:
    """Why modules that look like layers to measure are not among the chosen ones.

    Args:
        model: any network, wrapped or not.
        layers: as `select_layers` takes it, or the names that it returned.

    Returns:
        A reason by name for each convolution, linear layer, activation and repeated
        block that is not chosen.
    """
    base = unwrap(model)
    modules, chosen = named(base), select_layers(base, layers)
    candidates, blocks = block_candidates(base, modules), repeated_blocks(base, modules)
    by_rule = layers == "auto" or chosen == select_layers(base)
    heads = [n for n, m in modules.items() if is_layer(m, "linear")][-1:]

    def reason(name: str) -> str:
        around = next((c for c in chosen if name.startswith(f"{c}.")), None)
        if around is not None:
            return f"inside the chosen layer {around!r}"
        if any(c.startswith(f"{name}.") for c in chosen):
            return "holds chosen layers"
        if not by_rule:
            return "not among the layers asked for"
        if name in heads:
            return "the last linear layer, whose output is the network's"
        if name in candidates:
            return "a block of a kind that is rare beside the chosen ones"
        if len(blocks) > 1:
            return "not a block of the repeated kind"
        return "not the activation after a convolution (a linear layer, without any)"

    return {
        name: reason(name)
        for name, module in modules.items()
        if name not in chosen
        and (name in candidates or is_layer(module, "conv", "linear", "activation"))
    }


def _choose(base: nn.Module, layers: Layers) -> list[str]:
    modules = named(base)
    if isinstance(layers, str) and layers in WORDS and layers not in modules:
        return WORDS[layers](base, modules)
    if isinstance(layers, type) or (
        isinstance(layers, tuple)
        and layers
        and all(isinstance(c, type) for c in layers)
    ):
        classes: Any = layers
        return [
            name
            for name, module in modules.items()
            if isinstance(module, classes) or isinstance(core(module), classes)
        ]
    if isinstance(layers, str):
        return _matching(spellings(base), [layers])
    if isinstance(layers, Sequence):
        return _matching(spellings(base), list(layers))
    if callable(layers):
        return [name for name, m in modules.items() if layers(name, m)]
    raise TypeError(
        f"layers must be one of {', '.join(WORDS)}, names or patterns, module classes, "
        f"or a callable (name, module) -> bool; got {type(layers).__name__}"
    )


def _matching(full_names: dict[str, str], patterns: list[Any]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"a layer is named by a str, got {pattern!r}")
        if pattern == OUTPUT:
            chosen.add(pattern)
            continue
        place = INPUT if pattern.startswith(INPUT) else ""
        inside = pattern.removeprefix(INPUT)
        tries = (_matches(full_names, each) for each in _less_wrapped(inside))
        found = next((names for names in tries if names), None)
        if found is None:
            words = f"; or one of the words {', '.join(WORDS)}"
            raise KeyError(unknown(inside, full_names) + words)
        chosen.update(place + name for name in found)
    places = [place for name in full_names for place in (INPUT + name, name)]
    return [place for place in (*places, OUTPUT) if place in chosen]


def _matches(full_names: dict[str, str], pattern: str) -> list[str]:
    """Names that are the pattern or, if none is, match it; else full names that do."""
    if pattern in full_names:
        return [pattern]
    short = fnmatch.filter(full_names, pattern)
    return short or [
        name
        for name, full in full_names.items()
        if full == pattern or fnmatch.fnmatchcase(full, pattern)
    ]


def _less_wrapped(pattern: str) -> Iterator[str]:
    """The pattern, then without the wrappers at its start, then without any."""
    yield pattern
    parts = pattern.split(".")
    while parts[0] in SEGMENTS and len(parts) > 1:
        parts = parts[1:]
        yield ".".join(parts)
    yield ".".join(part for part in parts if part not in SEGMENTS)


def _firing_order(base: nn.Module, names: list[str], example: Tensor) -> list[str]:
    order: list[str] = []
    handles = [
        resolve(base, name).register_forward_hook(
            lambda *_, name=name: order.append(name)
        )
        for name in names
    ]
    training = {module: module.training for module in base.modules()}
    try:
        with torch.no_grad():
            parameter = next(base.parameters(), example)
            base.eval()(example.to(parameter.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return list(dict.fromkeys(order))
