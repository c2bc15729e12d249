"""Random networks from a seed: blocks, heads, arguments and outputs of all kinds."""

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.blocks import Attention, Checkpointed, Conv, Dropout, Residual, Shared

PACKINGS = ["tensor", "tuple", "list", "dict", "named"]


class Result(NamedTuple):
    """An output by attributes."""

    logits: Tensor
    aux: Tensor | None = None
    loss: Tensor | None = None


class Network(nn.Module):
    """A classifier of small images.

    Args:
        draw: of every choice.
        channels: of the images.
        classes: number of classes.
        own_loss: whether it takes labels and returns its own loss.

    Attributes:
        takes: the per-image arguments beside the images ("labels", "meta").
        packing: how the outputs come back.
        has_aux: whether there is an auxiliary head.
    """

    def __init__(
        self, draw: random.Random, channels: int, classes: int, own_loss: bool
    ) -> None:
        super().__init__()
        width = draw.choice([4, 6, 8])
        self.own_loss, self.classes = own_loss, classes
        self.takes = draw.choices(
            [[], ["labels"], ["meta"], ["labels", "meta"]], [6, 1, 1, 1]
        )[0]
        self.margin = "labels" in self.takes
        if own_loss and not self.margin:
            self.takes = ["labels", *self.takes]
        self.in_dict = not own_loss and draw.random() < 0.15
        self.stem = Conv(draw, channels, width)
        self.stem_without_gradient = draw.random() < 0.05
        self.blocks = nn.ModuleList(_blocks(draw, width, self.stem.spare))
        if draw.random() < 0.08:
            self.unused = Conv(draw, width, width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        if "meta" in self.takes:
            self.of_meta = nn.Linear(3, width)
        self.head = nn.Linear(width, classes, bias=not self.margin)
        self.has_aux = draw.random() < 0.25
        if self.has_aux:
            self.aux = nn.Linear(width, classes)
        packings = ["dict", "named"] if own_loss else PACKINGS
        packings = packings[1:] if self.has_aux and not own_loss else packings
        self.packing = draw.choice(packings)
        self.with_prototypes = self.packing == "dict" and draw.random() < 0.3
        self.with_similarities = self.packing == "dict" and draw.random() < 0.12

    def forward(self, x, labels=None, meta=None):
        if isinstance(x, dict):
            x, labels, meta = x["images"], x.get("labels"), x.get("meta")
        if self.stem_without_gradient:
            with torch.no_grad():
                x = self.stem(x)
        else:
            x = self.stem(x)
        aux = None
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 0 and self.has_aux:
                aux = self.aux(x.mean((2, 3)))
        features = self.pool(x).flatten(1)
        if meta is not None:
            angles = torch.stack([meta["angle"], meta["size"]], 1)
            scale = meta["unit"].expand(len(angles), 1)
            features = features + self.of_meta(torch.cat([angles, scale], 1))
        logits = self._logits(features, labels)
        loss = None
        if self.own_loss:
            loss = F.cross_entropy(logits, labels)
        return self._pack(logits, aux, loss, features)

    def _logits(self, features, labels):
        if not self.margin:
            return self.head(features)
        cosines = F.linear(F.normalize(features), F.normalize(self.head.weight))
        if labels is not None:
            margin = 0.3 * F.one_hot(labels, self.classes).to(cosines.dtype)
            cosines = cosines - margin
        return 4 * cosines

    def _pack(self, logits, aux, loss, features):
        if self.packing == "tensor":
            return logits
        if self.packing in ("tuple", "list"):
            kind = tuple if self.packing == "tuple" else list
            return kind([logits, aux if self.has_aux else features])
        if self.packing == "named":
            return Result(logits, aux, loss)
        packed = {"logits": logits, "aux": aux, "task": "classification"}
        if loss is not None:
            packed = {"loss": loss, **packed}
        if self.with_prototypes:
            packed["prototypes"] = self.head.weight
        if self.with_similarities:
            packed["similarities"] = features @ features.T
        return packed


def pick(output, name: str):
    """The output of that name, however it was packed."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        return output[name]
    if hasattr(output, "_fields"):
        return getattr(output, name)
    return output[["logits", "aux"].index(name)]


def _blocks(draw: random.Random, width: int, spare: bool) -> list[nn.Module]:
    """One to four blocks, some of them checkpointed alone or in pairs."""
    found: list[nn.Module] = []
    while len(found) < draw.randint(1, 4):
        checkpointed = draw.random() < 0.3
        # A checkpoint keeps its inputs, which nothing may overwrite.
        block = _block(draw, width, spare and not checkpointed)
        if checkpointed:
            inner = [block]
            if draw.random() < 0.4:
                inner.append(_block(draw, width, block.spare))
            block = Checkpointed(*inner)
        found.append(block)
        spare = block.spare
    return found


def _block(draw: random.Random, width: int, spare: bool) -> nn.Module:
    kind = draw.choices(
        ["conv", "residual", "attention", "shared", "dropout"], [4, 5, 2, 3, 1]
    )[0]
    if kind == "attention":
        return Attention(draw, width)
    if kind == "dropout":
        return Dropout(draw)
    if kind == "shared":
        inner = draw.choice([Conv(draw, width, width), Residual(draw, width, False)])
        return Shared(draw, inner)
    if kind == "residual":
        return Residual(draw, width, spare)
    return Conv(draw, width, width)


def draw_network(
    draw: random.Random, channels: int, classes: int, own_loss: bool, dtype: torch.dtype
) -> Network:
    """A network with weights of its own, the same for the same state of `draw`."""
    with torch.random.fork_rng():
        torch.manual_seed(draw.randrange(2**31))
        return Network(draw, channels, classes, own_loss).to(dtype)
