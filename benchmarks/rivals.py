"""The alternatives that the package is measured against.

The pairwise form follows the paper's formula literally, with the usual Gram matrix of
squared distances; kornia's pipeline is what one would write with its public classes.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import dai_plugin


def pairwise_loss(activations: Tensor, num_views: int) -> Tensor:
    """The invariance loss from all N x N distances between the rows."""
    rows = activations.flatten(1).float()
    gram = rows @ rows.T
    squares = gram.diagonal()
    distances = (squares[:, None] + squares - 2 * gram).clamp(min=0)
    images = rows.shape[0] // num_views
    image = torch.arange(rows.shape[0], device=rows.device) % images
    together = (image[:, None] == image).to(distances.dtype)
    within = (distances * together).sum() / together.sum()
    return within / distances.mean()


def closed_form_loss(activations: Tensor, num_views: int) -> Tensor:
    """The ratio of variances, left to autograd."""
    rows = activations.flatten(1).float()
    groups = rows.view(num_views, -1, rows.shape[1])
    means = groups.mean(0)
    within = (groups - means).square().mean()
    return within / (rows - means.mean(0)).square().mean()


class LeastTraffic(torch.autograd.Function):
    """What any exact loss must do to an activation, and no more: the floor.

    One read on the way forward; on the way back one addition to the gradient, which
    reads the activation and the gradient and writes the sum.
    """

    @staticmethod
    def forward(ctx: Any, activations: Tensor) -> Tensor:
        """An alias of the activations."""
        ctx.save_for_backward(activations)
        torch.linalg.vector_norm(activations)
        return activations.detach()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> Tensor:
        """The gradient and next to nothing of the activations."""
        (activations,) = ctx.saved_tensors
        return torch.add(incoming, activations, alpha=1e-12)


class HookedLoss:
    """Any loss of activations, taken by plain forward hooks at the same layers."""

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        num_views: int,
        loss: Callable[[Tensor, int], Tensor],
    ) -> None:
        self.losses: list[Tensor] = []
        names = list(names)
        self.weights = dai_plugin.layer_weights(len(names), 0.1)
        for name in names:
            model.get_submodule(name).register_forward_hook(
                lambda _, __, output: self.losses.append(loss(output, num_views))
            )

    def total(self, task: Tensor) -> Tensor:
        """The objective of the step that ran, with the package's weights."""
        terms = zip(self.weights, self.losses, strict=True)
        total = 0.9 * task + sum(weight * loss for weight, loss in terms)
        self.losses.clear()
        return total


def kornia_pipeline() -> nn.Module:
    """The heavier scheme's ranges as a kornia pipeline."""
    import kornia.augmentation as K

    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(
            22.5,
            translate=(0.1, 0.1),
            scale=(0.85, 1.15, 0.85, 1.15),
            shear=(-8.6, 8.6),
            padding_mode="border",
            p=1.0,
        ),
        K.RandomContrast((0.5, 1.5), p=1.0),
        K.RandomBrightness((0.75, 1.25), p=1.0),
        data_keys=["input"],
    )


def torchvision_pipeline() -> Callable[[Tensor], Tensor]:
    """The same ranges with torchvision's v2 transforms, image by image."""
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(
                22.5,
                translate=(0.1, 0.1),
                scale=(0.85, 1.15),
                shear=8.6,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=0.25, contrast=0.5),
        ]
    )
    return lambda rows: torch.stack([pipeline(row) for row in rows])


def kornia_named(name: str, side: int) -> nn.Module | None:
    """Kornia's container of that name, one policy a batch; None where it has none."""
    import kornia.augmentation as K
    from kornia.augmentation import auto

    if name == "simclr":
        blur = max(3, side // 10 // 2 * 2 + 1)
        parts = [
            K.RandomResizedCrop((side, side), scale=(0.08, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((blur, blur), (0.1, 2.0), p=0.5),
        ]
    elif name == "augmix":
        return None
    else:
        made = {
            "randaugment": lambda: auto.RandAugment(2, 9),
            "trivialaugment": auto.TrivialAugment,
            "autoaugment": lambda: auto.AutoAugment("imagenet"),
        }
        parts = [made[name]()]
    return K.AugmentationSequential(*parts, data_keys=["input"])


def torchvision_named(name: str, side: int) -> Callable[[Tensor], Tensor]:
    """The v2 transform of torchvision of that name, image by image."""
    from torchvision.transforms import v2

    blur = max(3, side // 10 // 2 * 2 + 1)
    bilinear = v2.InterpolationMode.BILINEAR
    made = {
        "randaugment": lambda: v2.RandAugment(interpolation=bilinear),
        "trivialaugment": lambda: v2.TrivialAugmentWide(interpolation=bilinear),
        "autoaugment": lambda: v2.AutoAugment(interpolation=bilinear),
        "augmix": lambda: v2.AugMix(all_ops=False),
        "simclr": lambda: v2.Compose(
            [
                v2.RandomResizedCrop(side, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(blur, (0.1, 2.0))], 0.5),
            ]
        ),
    }
    pipeline = made[name]()
    return lambda rows: torch.stack([pipeline(row) for row in rows])
