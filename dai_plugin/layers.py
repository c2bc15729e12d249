"""Which modules of any network the invariance is computed at.

"auto" takes what the paper takes, wherever it finds it: the outputs of the repeated
blocks (residual, dense, inception, transformer), else the activation after each
convolution. Names are those of `named_modules()`; wrappers (`module.` of
DistributedDataParallel, `_orig_mod.` of `torch.compile`) are looked through.
"""

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Layers = (
    str
    | Sequence[str]
    | type[nn.Module]
    | tuple[type[nn.Module], ...]
    | Callable[[str, nn.Module], bool]
)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WRAPPERS = ("module", "_orig_mod")


def select_layers(
    model: nn.Module, layers: Layers = "auto", example: Tensor | None = None
) -> list[str]:
    """Names of the chosen modules, first to last.

    Args:
        model: any network, wrapped or not.
        layers: "auto"; names; glob patterns ("layer?.*"); a module class or a tuple of
            classes; or a callable `(name, module) -> bool`.
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


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, `torch.compile` and their like."""
    while True:
        inner = next(
            (model._modules[w] for w in _WRAPPERS if list(model._modules) == [w]), None
        )
        if inner is None:
            return model
        model = inner


def resolve(base: nn.Module, name: str) -> nn.Module:
    """The module of that name, looking through wrappers on the way.

    Raises:
        KeyError: there is none; the nearest names are listed.
    """
    module = base
    for part in name.split("."):
        child = module._modules.get(part)
        if child is None:
            raise KeyError(_unknown(name, list(_named(base))))
        module = unwrap(child)
    return module


def _named(base: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, in order of registration, wrappers inside looked through."""
    found: dict[str, nn.Module] = {}

    def visit(prefix: str, module: nn.Module) -> None:
        for part, child in module._modules.items():
            if child is not None and unwrap(child) not in seen:
                inner = unwrap(child)
                seen.add(inner)
                found[prefix + part] = inner
                visit(f"{prefix}{part}.", inner)

    seen: set[nn.Module] = {base}
    visit("", base)
    return found


def _choose(base: nn.Module, layers: Layers) -> list[str]:
    modules = _named(base)
    if isinstance(layers, str) and layers == "auto":
        return _automatic(base, modules)
    if isinstance(layers, type) or (
        isinstance(layers, tuple)
        and layers
        and all(isinstance(c, type) for c in layers)
    ):
        classes: Any = layers
        return [name for name, m in modules.items() if isinstance(m, classes)]
    if isinstance(layers, str):
        return _matching(list(modules), [layers])
    if isinstance(layers, Sequence):
        return _matching(list(modules), list(layers))
    if callable(layers):
        return [name for name, m in modules.items() if layers(name, m)]
    raise TypeError(
        "layers must be 'auto', names or patterns, module classes, or a callable "
        f"(name, module) -> bool; got {type(layers).__name__}"
    )


def _matching(names: list[str], patterns: list[Any]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"a layer is named by a str, got {pattern!r}")
        # Names as a wrapped network has them are understood, too.
        parts = [part for part in pattern.split(".") if part not in _WRAPPERS]
        candidates = [pattern, ".".join(parts)]
        exact = [name for name in candidates if name in names][:1]
        found = exact or [n for c in candidates for n in fnmatch.filter(names, c)]
        if not found:
            raise KeyError(_unknown(pattern, names))
        chosen.update(found)
    return [name for name in names if name in chosen]


def _unknown(pattern: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(pattern, names, n=5, cutoff=0.0)
    return f"no layer matches {pattern!r}; nearest: {', '.join(nearest)}"


def _automatic(base: nn.Module, modules: dict[str, nn.Module]) -> list[str]:
    blocks = _blocks(base, modules)
    if len(blocks) < 2:
        return _after_weights(modules)
    if all(isinstance(modules[name], _CONTAINERS) for name in blocks):
        # Dense blocks are few and long: the paper adds the first convolution.
        stem = next(n for n, m in modules.items() if _is(m, "conv"))
        return [stem, *blocks]
    return blocks


def _blocks(base: nn.Module, modules: dict[str, nn.Module]) -> list[str]:
    """Blocks that the network repeats, in order of registration.

    A candidate is a module of a class of its own that sits in a plain container, or
    directly in the network; the class occurs at least twice and holds two or more
    weights (a convolution with its normalisation holds one, and is no block). Where
    candidates are nested, a stage (several of one class) gives way to its blocks, while
    a block made of different candidates stays whole. Rare side branches (auxiliary
    heads) are left out.
    """
    members = {n: m for n, m in _members(base, modules) if _may_be_block(m)}
    counts = Counter(type(m) for m in members.values())
    large = {type(m) for m in members.values() if _weights(m) > 1}
    repeated = {kind for kind in large if counts[kind] > 1}
    candidates = {n: m for n, m in members.items() if type(m) in repeated}
    chosen = _outermost_blocks("", candidates)
    kinds = Counter(type(candidates[name]) for name in chosen)
    most = max(kinds.values(), default=0)
    return [n for n in chosen if 4 * kinds[type(candidates[n])] >= most]


def _outermost_blocks(prefix: str, candidates: dict[str, nn.Module]) -> list[str]:
    inside = [name for name in candidates if name.startswith(prefix) and name != prefix]
    nearest = [n for n in inside if not any(n.startswith(f"{o}.") for o in inside)]
    chosen: list[str] = []
    for name in nearest:
        nested = _outermost_blocks(f"{name}.", candidates)
        stage = len(nested) > 1 and len({type(candidates[n]) for n in nested}) == 1
        chosen += nested if stage else [name]
    return chosen


def _members(
    base: nn.Module, modules: dict[str, nn.Module]
) -> Iterator[tuple[str, nn.Module]]:
    """Children of the network itself and of its plain containers, at any depth."""
    for name, module in modules.items():
        parent = modules.get(name.rpartition(".")[0], base)
        if parent is base or _is_plain_container(parent):
            yield name, module


def _is_plain_container(module: nn.Module) -> bool:
    plain = (nn.Sequential.forward, nn.Module.forward)
    return isinstance(module, _CONTAINERS) and type(module).forward in plain


def _may_be_block(module: nn.Module) -> bool:
    if isinstance(module, nn.TransformerEncoderLayer):
        return bool(module.self_attn.batch_first)
    own_class = not type(module).__module__.startswith("torch.nn.")
    return own_class and not _is_plain_container(module)


def _weights(module: nn.Module) -> int:
    """Number of submodules that hold a weight matrix or kernel of their own."""
    return sum(
        any(p.dim() > 1 for p in part.parameters(recurse=False))
        for part in module.modules()
    )


def _after_weights(modules: dict[str, nn.Module]) -> list[str]:
    """The activation after each convolution (of each linear layer, without any).

    Where activations are functions and no modules, the convolution's own output, before
    the next module can overwrite it.
    """
    leaves = [(n, m) for n, m in modules.items() if not m._modules]
    convolutions = [i for i, (_, m) in enumerate(leaves) if _is(m, "conv")]
    weights = [i for i, (_, m) in enumerate(leaves) if _is(m, "conv", "linear")]
    sources = convolutions or weights[:-1]
    activations = [_next_activation(leaves, i) for i in sources]
    found = [name for name in activations if name is not None]
    return list(dict.fromkeys(found)) or [leaves[i][0] for i in sources]


def _next_activation(leaves: list[tuple[str, nn.Module]], start: int) -> str | None:
    for name, module in leaves[start + 1 :]:
        if _is(module, "activation"):
            return name
        if _is(module, "conv", "linear"):
            return None
    return None


def _is(module: nn.Module, *kinds: str) -> bool:
    """Whether the module is of a kind that torch.nn files under that name."""
    return any(
        c.__module__ == f"torch.nn.modules.{kind}"
        and c.__name__ != "MultiheadAttention"
        for c in type(module).__mro__
        for kind in kinds
    )


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
