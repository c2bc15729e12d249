"""An attack is run: the network on pixels, undisturbed, and a check of the result.

An attack is any callable `(model, images, labels) -> images` on [0, 1] pixels. The
model that it gets normalises them itself; `adversarial` makes that model, runs the
attack and looks at what it returns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import unwrap
from dai_plugin.measures.balls import Ball
from dai_plugin.training.inert import Hook
from dai_plugin.views.statistics import Normalization, check_images

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

# Normalising in half precision rounds pixels this far out of [0, 1].
_ROUNDING = 0.01


class OnPixels(nn.Module):
    """A network that takes [0, 1] pixels: it normalises them for the one inside.

    Args:
        network: any network, wrapped or not; nothing of it changes.
        normalization: what its images carry.
    """

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        # Without DistributedDataParallel, whose forwards wait for the other processes,
        # which are through after other numbers of them.
        self.network, self.normalization = unwrap(network), normalization
        self.training = network.training

    def forward(self, pixels: Tensor) -> Any:
        """What the network returns for `[B, C, H, W]` pixels, in its own dtype."""
        # Clones, because what was made in inference mode can be no part of a graph.
        mean, std = (each.clone() for each in self.normalization.tensors(pixels))
        images = (pixels - mean) / std
        floats = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        return self.network(images.to(next(floats, images.dtype)))


def adversarial(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    normalization: Normalization,
    ball: Ball | None = None,
) -> Tensor:
    """What an attack makes of images, as [0, 1] pixels `[B, C, H, W]`, looked at.

    The model is in evaluation mode meanwhile, with gradients enabled; modes and
    gradients of its parameters are as they were afterwards. `OnPixels(model,
    normalization)` takes the result.

    Args:
        attack: one of `measures.attacks`, or any `(model, images, labels) -> images`
            on [0, 1] pixels.
        model: the network, wrapped or not.
        images: `[B, C, H, W]` as they reach the model: floats that carry the
            normalisation, or uint8.
        labels: integer classes `[B]`.
        normalization: what the images carry.
        ball: in which the result must lie about the images; None is the attack's own
            `ball`, if it has one.

    Raises:
        ValueError: images, labels, or what the attack returned, do not fit.
    """
    prepared = normalization.prepare(images)
    mean, std = normalization.tensors(prepared)
    pixels = usable_pixels(prepared * std + mean)
    check_labels(labels, len(pixels))
    target = OnPixels(model, normalization)
    with undisturbed(target):
        made = attack(target, pixels.clone(), labels.clone())
    return _checked(attack, made, pixels, ball or getattr(attack, "ball", None))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, gradients enabled; afterwards the model is as it was.

    Gradients that an attack leaves at parameters are dropped, and an attached network
    runs as if it were not attached: an attack is no training.
    """
    modules, parameters = list(model.modules()), list(model.parameters())
    modes, grads = [m.training for m in modules], [p.grad for p in parameters]
    hooks = [(m._forward_pre_hooks, m._forward_hooks) for m in modules]
    try:
        model.eval()
        for parameter in parameters:
            parameter.grad = None
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks = _others(before)
            module._forward_hooks = _others(after)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, mode, (before, after) in zip(modules, modes, hooks, strict=True):
            module.training = mode
            module._forward_pre_hooks, module._forward_hooks = before, after
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad


def _others(hooks: Any) -> Any:
    """All hooks but those of this package."""
    return type(hooks)((k, h) for k, h in hooks.items() if not isinstance(h, Hook))


def usable_pixels(images: Tensor) -> Tensor:
    """`[B, C, H, W]` images as pixels in [0, 1], in float32 at least.

    Raises:
        ValueError: they lie outside, or are no images.
    """
    check_images(images)
    if not images.is_floating_point():
        raise ValueError(
            f"pixels of dtype {images.dtype}: attacks take floats in [0, 1]"
        )
    pixels = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    low, high = (end.item() for end in pixels.aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise ValueError(
            f"pixels from {low:.4g} to {high:.4g}: attacks and corruptions work in "
            "[0, 1]; give the mean= and std= that the images carry"
        )
    return pixels.clamp(0, 1)


def check_labels(labels: Tensor, images: int) -> None:
    """Raises unless the labels are one integer class an image.

    Raises:
        ValueError: so it is.
    """
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.shape != (images,) or not whole or labels.dtype == torch.bool:
        raise ValueError(
            f"labels of shape {list(labels.shape)} and dtype {labels.dtype} for "
            f"{images} images: attacks take one integer class an image, [{images}]; "
            "of soft labels take labels.argmax(1)"
        )


def _checked(attack: Attack, made: Any, pixels: Tensor, ball: Ball | None) -> Tensor:
    """What the attack returned, if it is pixels of that shape inside the ball."""
    if not isinstance(made, Tensor) or made.shape != pixels.shape:
        got = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(
            f"the attack {attack!r} returned {got} for images {list(pixels.shape)}; it "
            "must keep the shape"
        )
    if not made.is_floating_point():
        raise ValueError(
            f"the attack {attack!r} returned {made.dtype}; it must return floating "
            "point pixels in [0, 1]"
        )
    found: Tensor = made.detach().to(pixels)
    low, high = (end.item() for end in found.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"the attack {attack!r} returned values from {low:.4g} to {high:.4g}; it "
            "must return pixels in [0, 1], without the model's normalisation"
        )
    if ball is not None and not (inside := ball.holds(found, pixels)).all():
        away = ball.distances(found, pixels).amax().item()
        raise ValueError(
            f"the attack {attack!r} moved {int((~inside).sum())} of {len(pixels)} "
            f"images out of {ball}, the furthest by {away:.4g}; it must stay inside"
        )
    return found
