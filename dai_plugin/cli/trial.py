"""The network is tried on a few images before hours of work rely on it."""

from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.measures.taps import Taps
from dai_plugin.views.normalization import Normalization


def try_out(model: nn.Module, images: Tensor, known: Normalization) -> int | None:
    """Runs the network once.

    Args:
        model: on the device of the images.
        images: `[B, C, H, W]`, uint8.
        known: the normalisation that the network takes.

    Returns:
        How many classes the network tells apart, None if its output is no logits.

    Raises:
        ValueError: its output is NaN; the first module that gave NaN is named.
    """
    spoilt: list[str] = []

    def watched(name: str) -> Any:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if not spoilt and _nan(output):
                spoilt.append(f"{name or 'itself'} ({type(module).__name__})")

        return look

    modules = model.named_modules()
    hooks = [each.register_forward_hook(watched(name)) for name, each in modules]
    try:
        with Taps(model, []).looking():
            output = model(known.prepare(images))
    except Exception as error:
        error.add_note(
            f"tried on images {list(images.shape)}; --resize and --crop set their size"
        )
        raise
    finally:
        for hook in hooks:
            hook.remove()
    if _nan(output):
        raise ValueError(
            f"the output of {type(model).__name__} is NaN for the first images of the "
            f"data ({known}); the first of its modules that gives NaN is {spoilt[0]}"
        )
    rows = [leaf for leaf in _floats(output) if leaf.dim() and len(leaf) == len(images)]
    logits = bool(rows) and rows[0].dim() == 2 and rows[0].shape[1] > 1
    return rows[0].shape[1] if logits else None


def _nan(output: Any) -> bool:
    return any(bool(leaf.isnan().any()) for leaf in _floats(output))


def _floats(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
