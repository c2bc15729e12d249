"""What stands around the modules of a network: wrappers, parametrisations, adapters.

All are known by their types, never by a child's name: a block of the user's whose only
child is called `module` is a block. Transparent wrappers (DistributedDataParallel,
`torch.compile`) hand on what the network inside returns and are looked through. Shells
(checkpoint wrappers, LoRA layers) stand for the module inside, under its name.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

# Classes and the child inside, looked up among what is loaded and never imported.
_TRANSPARENT = {
    "torch.nn.parallel.DistributedDataParallel": "module",
    "torch.nn.parallel.DataParallel": "module",
    "torch.distributed.fsdp.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "deepspeed.DeepSpeedEngine": "module",
    "apex.parallel.DistributedDataParallel": "module",
}
_CHECKPOINT = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper"
_SHELLS = {
    f"{_CHECKPOINT}.ActivationWrapper": "_checkpoint_wrapped_module",
    "peft.tuners.tuners_utils.BaseTunerLayer": "base_layer",
    "peft.utils.other.ModulesToSaveWrapper": "original_module",
}
SEGMENTS = frozenset((*_TRANSPARENT.values(), "_checkpoint_wrapped_module"))
# Places that are no module's output: what enters one, and what the network returns.
INPUT, OUTPUT = "input of ", "output of the network"
# Where the classes live that torch derives from a module's own class at run time.
_MIXED_IN = (
    "torch.nn.utils.parametrize",
    "torch.distributed.fsdp",
    "torch.distributed._composable",
)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, `torch.compile` and their like.

    DataParallel over several devices is returned as it is: it runs replicas.
    """
    while True:
        child = _child_inside(model, _TRANSPARENT)
        if child is None or _replicates(model):
            return model
        model = model._modules[child]  # type: ignore[assignment]


def core(module: nn.Module) -> nn.Module:
    """The module that its author wrote, inside wrappers and shells."""
    for child in _path(module):
        module = module._modules[child]  # type: ignore[assignment]
    return module


def kind(module: nn.Module) -> type[nn.Module]:
    """Its class as its author wrote it, without what torch mixes in at run time."""
    classes = type(core(module)).__mro__
    return next(c for c in classes if not c.__module__.startswith(_MIXED_IN))


def is_layer(module: nn.Module, *files: str) -> bool:
    """Whether torch.nn files it under one of those names ("conv", "activation")."""
    return any(
        c.__module__ == f"torch.nn.modules.{file}"
        and c.__name__ not in ("MultiheadAttention", "Identity")
        for c in type(core(module)).__mro__
        for file in files
    )


def children(module: nn.Module) -> dict[str, nn.Module]:
    """Child modules by name, wrappers looked through, parametrisations left out."""
    if _child_inside(module, _SHELLS) == "original_module":
        return {}  # its copies run, the original does not
    return {
        part: unwrap(child)
        for part, child in core(module)._modules.items()
        if child is not None and not _parametrizes(child)
    }


def named(base: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, in order of registration, wrappers inside looked through."""
    return {name: module for name, _, module in _walk(base, "", "", {unwrap(base)})}


def spellings(base: nn.Module) -> dict[str, str]:
    """Names of the modules, and the names that `base.named_modules()` has for them."""
    return {name: full for name, full, _ in _walk(base, "", "", {unwrap(base)})}


def resolve(base: nn.Module, name: str) -> nn.Module:
    """The module of that name, looking through wrappers on the way.

    "input of NAME" is found at the module NAME, the network's output at the network.

    Raises:
        KeyError: there is none; the nearest names are listed.
    """
    module = base
    if name == OUTPUT:
        return module
    for part in name.removeprefix(INPUT).split("."):
        inside = children(module)
        if part not in inside:
            raise KeyError(unknown(name, named(base)))
        module = inside[part]
    return module


def unknown(pattern: str, names: Iterable[str]) -> str:
    """The message about a pattern that matches none of the names."""
    nearest = difflib.get_close_matches(pattern, list(names), n=5, cutoff=0.0)
    told = f"nearest: {', '.join(nearest)}" if nearest else "the network has no modules"
    return f"no layer matches {pattern!r}; {told}"


def check_hookable(model: nn.Module) -> None:
    """Checks that hooks on the modules of the network would run.

    Raises:
        TypeError: a module is scripted or traced by `torch.jit`, or is a DataParallel
            over several devices.
        ValueError: a module is lazy and has no weights yet.
    """
    for name, module in model.named_modules():
        where = f"its module {name!r}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{where} is a {type(module).__name__} of torch.jit, where no hook of "
                "the plugin runs: attach to the eager module that it was made from, "
                "before scripting, and script that one after training"
            )
        if any(is_lazy(p) for p in module.parameters(recurse=False)):
            raise ValueError(
                f"{where} is lazy and has no weights yet: run the network once on a "
                "batch, without gradients, before attach"
            )
        if _replicates(module):
            raise TypeError(
                f"{where} is a DataParallel over devices {module.device_ids}, which "
                "runs copies: use attach(model.module, criterion) inside "
                "DistributedDataParallel (`accelerate launch`) or on one device"
            )


def _walk(
    outer: nn.Module, name: str, full: str, seen: set[nn.Module]
) -> Iterator[tuple[str, str, nn.Module]]:
    """Names, full names and modules inside the one that has the first two itself."""
    inside = "".join(f"{child}." for child in _path(outer))
    for part, child in children(outer).items():
        if child not in seen:
            seen.add(child)
            below = f"{name}{part}", f"{full}{inside}{part}"
            yield *below, child
            wrapped = core(outer).get_submodule(part)
            yield from _walk(wrapped, f"{below[0]}.", f"{below[1]}.", seen)


def _path(module: nn.Module) -> list[str]:
    """Names of the children that lead from a wrapper or shell to what is inside."""
    path: list[str] = []
    while not _replicates(module):
        child = _child_inside(module, _TRANSPARENT | _SHELLS)
        child = child or ("base_layer" if _adapts(module) else None)
        if child is None:
            break
        path.append(child)
        module = module._modules[child]  # type: ignore[assignment]
    return path


def _child_inside(module: nn.Module, table: dict[str, str]) -> str | None:
    for path, child in table.items():
        place, _, name = path.rpartition(".")
        known: Any = getattr(sys.modules.get(place), name, None)
        if (
            isinstance(known, type)
            and isinstance(module, known)
            and isinstance(module._modules.get(child), nn.Module)
        ):
            return child
    return None


def _replicates(module: nn.Module) -> bool:
    return isinstance(module, nn.DataParallel) and len(module.device_ids) > 1


def _parametrizes(module: nn.Module) -> bool:
    kinds = {type(held) for held in module._modules.values()}
    return isinstance(module, nn.ModuleDict) and kinds == {ParametrizationList}


def _adapts(module: nn.Module) -> bool:
    """Whether it is a low-rank adapter of a layer, built as those of peft are."""
    base = module._modules.get("base_layer")
    pair = (module._modules.get("lora_A"), module._modules.get("lora_B"))
    return (
        base is not None
        and all(isinstance(part, nn.ModuleDict) for part in pair)
        and is_layer(base, "conv", "linear")
    )
