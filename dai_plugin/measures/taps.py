"""The network runs, and its layers are seen as they fire."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.losses.tap import Version
from dai_plugin.losses.weights import Key, key_name
from dai_plugin.training.hooks import LayerHooks, find_rows

Visit = Callable[[Key, Tensor], None]


class Taps:
    """Shows the activations of the layers to a visitor while the network runs.

    Args:
        model: the network, wrapped or not.
        names: of the layers.

    Attributes:
        overwritten: calls whose activation a later operation writes to, known after the
            first run.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.base, self.names = model, unwrap(model), list(names)
        self.overwritten: set[Key] = set()
        self._watch = True
        self._hooks: LayerHooks | None = None

    @contextmanager
    def looking(self) -> Iterator[None]:
        """The network can be run, in evaluation mode and without gradients.

        Afterwards modes and buffers are as they were, and nothing is hooked.
        """
        modes = {module: module.training for module in self.base.modules()}
        buffers = [_Buffers(module) for module in modes if module._buffers]
        self.base.eval()
        self._hooks = LayerHooks(self.base, self.names)
        try:
            # Eagerly: hooks of a look are no reason to compile anew.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self._hooks.remove()
            self._hooks = None
            for module, training in modes.items():
                module.training = training
            for each in buffers:
                each.put_back()

    def run(self, images: Tensor, visit: Visit) -> None:
        """Runs the network; `visit(key, activation)` sees each layer as it fires.

        The key is the layer's name and the number of its call. Float images are given
        to the network in the dtype of its weights.
        """
        assert self._hooks is not None
        seen: dict[Key, Version] = {}
        dtype = _dtype(self.base, images)

        def note(name: str, output: Any) -> None:
            key = name, sum(layer == name for layer, _ in seen)
            activation = find_rows(name, output, images.shape[0])
            seen[key] = Version(activation)
            visit(key, activation)

        self._hooks.visit = note
        try:
            self.model(images.to(dtype))
        finally:
            self._hooks.visit = None
        if self._watch:  # the first run tells which activations do not last
            self.overwritten = {key for key, v in seen.items() if v.changed()}
            self._watch = False


class _Buffers:
    """The buffers of a module as they are now, whatever a forward does to them."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._held = module, dict(module._buffers)
        self._copies = [
            (held, held.clone()) for held in self._held.values() if held is not None
        ]

    def put_back(self) -> None:
        """Puts them back; those that nobody has written to are left alone."""
        self._module._buffers.update(self._held)
        for held, copy in self._copies:
            if not torch.equal(held, copy):  # batch norm tells no versions
                with torch.no_grad():
                    held.copy_(copy)


def _dtype(base: nn.Module, images: Tensor) -> torch.dtype:
    """Dtype of the first of the network's weights that is one of images."""
    usual = torch.float32, torch.float16, torch.bfloat16, torch.float64
    dtypes = (p.dtype for p in base.parameters() if p.dtype in usual)
    return next(dtypes, images.dtype) if images.dtype in usual else images.dtype


def activation_shapes(
    model: nn.Module, layers: Layers, example: Tensor
) -> dict[str, list[int]]:
    """Shapes of the chosen activations for an example batch, as the layers fire."""
    shapes: dict[str, list[int]] = {}
    taps = Taps(model, select_layers(unwrap(model), layers))
    with taps.looking():
        taps.run(example, lambda key, a: shapes.update({key_name(key): list(a.shape)}))
    return shapes
