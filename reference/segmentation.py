"""Segmentation as torchvision's reference trains it, with views whose masks follow.

    python reference/segmentation.py

Coloured discs and squares are drawn here; DeepLabV3 starts from nothing. After each
epoch come the loss, and the intersection over union on held-out pictures.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import dai_plugin

CLASSES = 3  # ground, disc, square
UNLABELLED = 255  # torchvision's label of pixels that do not count


def criterion(inputs: dict[str, Tensor], target: Tensor) -> Tensor:
    """Cross entropy of the output, and half of that of the auxiliary one."""
    losses = {
        name: F.cross_entropy(logits, target, ignore_index=UNLABELLED)
        for name, logits in inputs.items()
    }
    return losses["out"] + 0.5 * losses["aux"] if "aux" in losses else losses["out"]


def network() -> nn.Module:
    """DeepLabV3 on MobileNetV3, with its auxiliary classifier."""
    built: nn.Module = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # its own remembers more steps than are taken here
    return built


def pictures(
    count: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`[count, 3, size, size]` images in [0, 1] and their masks `[count, size, size]`.

    On each a reddish disc and a bluish square, somewhere; the square lies above.
    """
    lines = torch.arange(size).view(1, size, 1)
    columns = torch.arange(size).view(1, 1, size)
    masks = torch.zeros(count, size, size, dtype=torch.long)
    for label in (1, 2):
        x, y, reach = torch.rand(3, count, 1, 1, generator=generator)
        right, down = (columns - x * size).abs(), (lines - y * size).abs()
        radius = size * (0.15 + 0.15 * reach)
        inside = right.hypot(down) < radius if label == 1 else right.max(down) < radius
        masks[inside] = label
    colours = torch.rand(count, CLASSES, 3, generator=generator) / 2
    colours[:, 1, 0] += 0.5
    colours[:, 2, 2] += 0.5
    images = colours[torch.arange(count).view(-1, 1, 1), masks].permute(0, 3, 1, 2)
    noise = torch.randn(images.shape, generator=generator)
    return (images + 0.05 * noise).clamp(0, 1), masks


def batches(
    images: Tensor, masks: Tensor, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pictures in a new order, so many at a time."""
    for chosen in torch.randperm(len(images)).split(size):
        yield images[chosen], masks[chosen]


@torch.no_grad()
def overlap(net: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Intersection over union in evaluation mode, averaged over the classes."""
    net.eval()
    found = net(images)["out"].argmax(1)
    pairs = torch.bincount((masks * CLASSES + found).flatten(), minlength=CLASSES**2)
    table = pairs.view(CLASSES, CLASSES).double()
    hits = table.diag()
    return (hits / (table.sum(0) + table.sum(1) - hits).clamp(min=1)).mean().item()


def main() -> None:
    """Trains on 128 pictures, and says how it goes."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images, masks = pictures(160, 48, generator)
    held_out, images, masks = (images[128:], masks[128:]), images[:128], masks[:128]
    net = network()
    # The two lines; outside the image a view's mask holds the label that is ignored.
    dai = dai_plugin.attach(
        net, criterion, ignore_index=UNLABELLED, mean=0.0, std=1.0, seed=0
    )
    loss_of = dai.criterion
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for epoch in range(8):
        net.train()
        total = 0.0
        for batch, target in batches(images, masks, 8):
            loss = loss_of(net(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / 16
        iou = overlap(net, *held_out)
        print(f"epoch {epoch}: loss {total:.3f}, intersection over union {iou:.3f}")


if __name__ == "__main__":
    main()
