"""The layers that "auto" takes: what the paper takes, wherever a network has it.

The outputs of the repeated blocks (residual, dense, inception, transformer), else the
activation after each convolution. Parametrised, adapted, wrapped and compiled modules
count as the modules that they were before.
"""

from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize

from dai_plugin.wrappers import (
    INPUT,
    OUTPUT,
    children,
    core,
    is_layer,
    kind,
    named,
)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_Modules = dict[str, nn.Module]


def automatic(base: nn.Module, modules: _Modules) -> list[str]:
    """Names of the layers that "auto" takes.

    Args:
        base: the network.
        modules: of the network, by name, in order of registration.
    """
    blocks = repeated_blocks(base, modules)
    if len(blocks) < 2:
        return _in_turn(base, modules, _after_weights(modules))
    if all(isinstance(core(modules[name]), _CONTAINERS) for name in blocks):
        # Dense blocks are few and long: the paper adds the first convolution.
        stem = next((n for n, m in modules.items() if is_layer(m, "conv")), None)
        blocks = [*([] if stem is None else [stem]), *blocks]
    return _in_turn(base, modules, blocks)


def last(base: nn.Module, modules: _Modules) -> list[str]:
    """The last of the layers that "auto" takes."""
    return automatic(base, modules)[-1:]


def penultimate(base: nn.Module, modules: _Modules) -> list[str]:
    """What enters the last linear layer; the last convolution, if none is linear."""
    for kinds in ("linear", "conv"):
        found = [name for name, module in modules.items() if is_layer(module, kinds)]
        if found:
            return [INPUT + found[-1]]
    return []


def output(base: nn.Module, modules: _Modules) -> list[str]:
    """What the network returns."""
    return [OUTPUT]


WORDS = {
    "auto": automatic,
    "last": last,
    "penultimate": penultimate,
    "output": output,
}


def repeated_blocks(base: nn.Module, modules: _Modules) -> list[str]:
    """Blocks that the network repeats, in order of registration.

    Where candidates are nested, a stage (several of one class) gives way to its blocks,
    while a block made of different candidates stays whole. Rare side branches
    (auxiliary heads) are left out.
    """
    candidates = block_candidates(base, modules)
    chosen = _outermost_blocks("", candidates)
    kinds = Counter(kind(candidates[name]) for name in chosen)
    most = max(kinds.values(), default=0)
    return [n for n in chosen if 4 * kinds[kind(candidates[n])] >= most]


def block_candidates(base: nn.Module, modules: _Modules) -> _Modules:
    """Modules that may be blocks which the network repeats.

    A candidate is a module of a class of its own that sits in a plain container, or
    directly in the network; the class occurs at least twice and holds two or more
    weights (a convolution with its normalisation holds one, and is no block). Without
    any, a module around a lone container (x + f(x)) may hold one.
    """
    members = {n: m for n, m in _members(base, modules) if _may_be_block(m)}
    counts = Counter(kind(m) for m in members.values())
    repeated = {n: m for n, m in members.items() if counts[kind(m)] > 1}
    large = {kind(m) for m in repeated.values() if _weights(m) > 1}
    large = large or {kind(m) for m in repeated.values() if _surrounds(m)}
    return {n: m for n, m in repeated.items() if kind(m) in large}


def _surrounds(module: nn.Module) -> bool:
    inside = list(children(module).values())
    return len(inside) == 1 and bool(children(inside[0])) and _weights(module) > 0


def _outermost_blocks(prefix: str, candidates: _Modules) -> list[str]:
    inside = [name for name in candidates if name.startswith(prefix) and name != prefix]
    nearest = [n for n in inside if not any(n.startswith(f"{o}.") for o in inside)]
    chosen: list[str] = []
    for name in nearest:
        nested = _outermost_blocks(f"{name}.", candidates)
        stage = len(nested) > 1 and len({kind(candidates[n]) for n in nested}) == 1
        chosen += nested if stage else [name]
    return chosen


def _members(base: nn.Module, modules: _Modules) -> Iterator[tuple[str, nn.Module]]:
    """Children of the network itself and of its plain containers, at any depth."""
    trunk = _trunk(base, modules)
    for name, module in modules.items():
        parent = name.rpartition(".")[0]
        inside = parent in trunk or _is_plain_container(modules[parent])
        if inside and name not in trunk:
            yield name, module


def _trunk(base: nn.Module, modules: _Modules) -> list[str]:
    """The network's own name "", and its child's if that holds all the weights.

    A network stays the same inside a module that scales, normalises or adapts it.
    """
    trunk, module = [""], base
    while not _holds_weight(module):
        below = {n: m for n, m in modules.items() if n.rpartition(".")[0] == trunk[-1]}
        held = [(name, child) for name, child in below.items() if _weights(child)]
        if len(held) != 1:
            break
        trunk.append(held[0][0])
        module = held[0][1]
    return trunk


def _is_plain_container(module: nn.Module) -> bool:
    plain = (nn.Sequential.forward, nn.Module.forward)
    inside = core(module)
    return isinstance(inside, _CONTAINERS) and type(inside).forward in plain


def _may_be_block(module: nn.Module) -> bool:
    inside = core(module)
    if isinstance(inside, nn.TransformerEncoderLayer):
        return bool(inside.self_attn.batch_first)
    own_class = not kind(module).__module__.startswith("torch.nn.")
    return own_class and not _is_plain_container(module)


def _weights(module: nn.Module) -> int:
    """Number of modules in it that hold a weight matrix or kernel of their own."""
    return sum(_holds_weight(part) for part in (module, *named(module).values()))


def _holds_weight(module: nn.Module) -> bool:
    if is_layer(module, "conv", "linear"):
        return True
    inside = core(module)
    own = list(inside.parameters(recurse=False))
    if parametrize.is_parametrized(inside):
        for originals in inside.get_submodule("parametrizations").children():
            own += originals.parameters(recurse=False)
    return any(p.dim() > 1 for p in own)


def _after_weights(modules: _Modules) -> list[str]:
    """The activation after each convolution (of each linear layer, without any).

    Where activations are functions and no modules, the convolution's own output, before
    the next module can overwrite it.
    """
    # A layer keeps being one with helpers inside, as those that observe it for
    # quantization.
    kinds = ("conv", "linear", "activation")
    leaves = [
        (n, m) for n, m in modules.items() if not children(m) or is_layer(m, *kinds)
    ]
    convolutions = [i for i, (_, m) in enumerate(leaves) if is_layer(m, "conv")]
    weights = [i for i, (_, m) in enumerate(leaves) if is_layer(m, "conv", "linear")]
    sources = convolutions or weights[:-1]
    activations = [_next_activation(leaves, i) for i in sources]
    found = [name for name in activations if name is not None]
    return list(dict.fromkeys(found)) or [leaves[i][0] for i in sources]


def _next_activation(leaves: list[tuple[str, nn.Module]], start: int) -> str | None:
    for name, module in leaves[start + 1 :]:
        if is_layer(module, "activation"):
            return name
        if is_layer(module, "conv", "linear"):
            return None
    return None


def _in_turn(base: nn.Module, modules: _Modules, names: list[str]) -> list[str]:
    """The names, each exchanged for the module after it that overwrites its output.

    What the modules tell needs no forward, and is the same for compiled networks.
    """
    turned = []
    for name in names:
        while (after := _next_in_place(base, modules, name)) is not None:
            name = after
        turned.append(name)
    return list(dict.fromkeys(turned))


def _next_in_place(base: nn.Module, modules: _Modules, name: str) -> str | None:
    parent, _, part = name.rpartition(".")
    holder = modules[parent] if parent else base
    if type(core(holder)).forward is not nn.Sequential.forward:
        return None
    parts = list(children(holder))
    following = parts[parts.index(part) + 1 :]
    if not following:
        return _next_in_place(base, modules, parent) if parent else None
    after = f"{parent}.{following[0]}" if parent else following[0]
    module = core(modules.get(after, base))
    in_place = getattr(module, "inplace", False) is True
    return after if in_place and is_layer(module, "activation", "dropout") else None
