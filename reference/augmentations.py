"""torchvision's augmentations beside the views: of one image, and of a batch.

One image: automatic policies and random erasing, by the loader's workers, on uint8. A
batch: mixup and cutmix, on its device, just before the views are made of it.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

POLICIES = ("ra", "ta_wide", "augmix", "imagenet", "cifar10", "svhn")


def of_image(
    args: argparse.Namespace, mean: Sequence[float]
) -> Callable[[Tensor], Tensor] | None:
    """What `--auto-augment` and `--random-erase` ask for; None: nothing.

    Args:
        args: these flags, `--ra-magnitude`, `--augmix-severity`, `--interpolation`.
        mean: of the channels, in [0, 1]: the colour of what is erased, which is 0 once
            it is normalised, as in torchvision.

    Returns:
        From a uint8 image `[3, H, W]` to another.
    """
    steps: list[Any] = []
    if args.auto_augment:
        # Of a PIL image: tensors are warped with fewer kinds of interpolation.
        steps += [v2.ToPILImage(), _policy(args), v2.PILToTensor()]
    if args.random_erase:
        colour = [round(255 * value) for value in mean]
        steps.append(v2.RandomErasing(args.random_erase, value=colour))
    return v2.Compose(steps) if steps else None


def _policy(args: argparse.Namespace) -> v2.Transform:
    kind, how = args.auto_augment, v2.InterpolationMode(args.interpolation)
    if kind == "ra":
        return v2.RandAugment(magnitude=args.ra_magnitude, interpolation=how)
    if kind == "ta_wide":
        return v2.TrivialAugmentWide(interpolation=how)
    if kind == "augmix":
        return v2.AugMix(severity=args.augmix_severity, interpolation=how)
    return v2.AutoAugment(v2.AutoAugmentPolicy(kind), interpolation=how)


def of_batch(
    args: argparse.Namespace, num_classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mixup or cutmix, one of them at random where both are asked for.

    Args:
        args: `--mixup-alpha`, `--cutmix-alpha`.
        num_classes: of the targets.

    Returns:
        From images `[B, C, H, W]` and classes `[B]` to images and shares of the
        classes `[B, num_classes]`; without the flags, the same as they were.
    """
    kinds = ((v2.MixUp, args.mixup_alpha), (v2.CutMix, args.cutmix_alpha))
    mixes = [kind(alpha=a, num_classes=num_classes) for kind, a in kinds if a]
    if not mixes:
        return lambda images, targets: (images, targets)
    return v2.RandomChoice(mixes) if len(mixes) > 1 else mixes[0]
