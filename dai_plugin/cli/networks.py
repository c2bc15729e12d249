"""A network that was loaded: what its images have to be, and what it must not be."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dai_plugin.layers import unwrap
from dai_plugin.measures.contents import channels_of
from dai_plugin.views.normalization import Normalization, from_model

logger = logging.getLogger("dai_plugin")

UNKNOWN = Normalization(source="none known: images stay in [0, 1]")


@dataclass(frozen=True)
class Loaded:
    """A network, and how its images are to be prepared.

    Attributes:
        model: in float32, with finite weights.
        normalization: of its images.
        resize: pixels of the shorter side before the crop.
        crop: pixels of the square that is cut from the centre.
        trained: whether it has weights of a training, as far as is known.
        name: short, for tables and pictures.
        classes: names of its outputs, None where they are not known.
    """

    model: nn.Module
    normalization: Normalization = UNKNOWN
    resize: int = 256
    crop: int = 224
    trained: bool = True
    name: str = "network"
    classes: Sequence[str] | None = None

    @property
    def channels(self) -> int:
        """Of its images: of its first convolution, 3 if it has none."""
        return channels_of(unwrap(self.model)) or 3


def configured(model: nn.Module, name: str) -> Loaded:
    """With the normalisation of the network's own configuration, if it has one."""
    return Loaded(model, from_model(model) or UNKNOWN, name=name)


def ready(loaded: Loaded) -> Loaded:
    """The network as it is measured; a warning for whatever had to be changed.

    Weights of other precisions are converted to float32: half ones exactly.

    Raises:
        ValueError: it takes no images, its weights are quantised or not finite.
    """
    base = unwrap(loaded.model)
    kinds = nn.modules.conv._ConvNd
    first = next((m for m in base.modules() if isinstance(m, kinds)), None)
    if isinstance(first, nn.Conv3d):
        raise ValueError(
            f"{loaded.name} takes videos or volumes (its first convolution is a "
            "Conv3d): networks for images [B, C, H, W] are measured"
        )
    check_not_quantised(base, loaded.name)
    other = _other_precisions(base)
    if other:
        loaded.model.float()
        logger.warning(
            "%s is of %s: measured in float32", loaded.name, ", ".join(other)
        )
    check_finite(base, loaded.name)
    channels = loaded.channels
    if loaded.normalization.suits(channels):
        return loaded
    logger.warning(
        "%s takes images of %s channels, which cannot carry %s: they stay in [0, 1] "
        "unless --mean and --std are given",
        loaded.name,
        channels,
        loaded.normalization,
    )
    return replace(loaded, normalization=UNKNOWN)


def check_finite(model: nn.Module, name: str) -> None:
    """Raises where a weight is NaN or infinite.

    A buffer may hold minus infinity: masks of attention do.

    Raises:
        ValueError: so it is; names the first such tensor and counts all.
    """
    broken = [
        key
        for key, value in model.named_parameters()
        if not is_lazy(value) and not (value.abs() < torch.inf).all()
    ]
    broken += [
        key
        for key, value in model.named_buffers()
        if not is_lazy(value)
        and value.is_floating_point()
        and not (value < torch.inf).all()
    ]
    if broken:
        raise ValueError(
            f"{name} has NaN or infinite weights: {broken[0]} is the first of "
            f"{len(broken)} such tensors; take a checkpoint from before its training "
            "diverged"
        )


def check_not_quantised(model: nn.Module, name: str) -> None:
    """Raises where layers are quantised.

    Raises:
        ValueError: so it is; names the first such layer.
    """
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    quantised = [key for key, value in tensors.items() if is_quantised(value)] + [
        key
        for key, module in model.named_modules()
        if ".quantized" in type(module).__module__
    ]
    if quantised:
        raise ValueError(
            f"{name} is quantised (its {quantised[0]}): measures need activations of "
            "floating point; give the network as it was before quantisation"
        )


def is_quantised(value: Tensor) -> bool:
    """Whether a tensor holds quantised numbers: torch's own kind or torchao's."""
    return value.is_quantized or type(value).__module__.startswith("torchao")


def _other_precisions(model: nn.Module) -> list[str]:
    tensors = [*model.parameters(), *model.buffers()]
    kinds = {value.dtype for value in tensors if value.is_floating_point()}
    return sorted(str(d).removeprefix("torch.") for d in kinds - {torch.float32})
