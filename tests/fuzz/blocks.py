"""Blocks of random networks: what people stack, in-place operations included."""

import random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def normalisation(draw: random.Random, width: int) -> nn.Module:
    """A layer that keeps the width; not always one that does something."""
    kinds = [nn.BatchNorm2d, lambda w: nn.GroupNorm(2, w), lambda w: nn.Identity()]
    return draw.choices(kinds, [5, 3, 1])[0](width)


def activation(draw: random.Random) -> nn.Module:
    """In place or not; none of them hinders autograd after a convolution or a sum."""
    return draw.choice(
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.ReLU(inplace=True),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ELU(inplace=True),
            nn.GELU(),
            nn.Tanh(),
        ]
    )


class Conv(nn.Module):
    """Convolution, normalisation, and an activation in one of several ways.

    Attributes:
        spare: whether a later operation may overwrite the output in place without
            autograd's objection.
    """

    WAYS: ClassVar = ["module", "function", "relu_", "mul_", "nothing"]

    def __init__(self, draw: random.Random, inside: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, width, 3, padding=1)
        self.norm = normalisation(draw, width)
        self.way = draw.choices(self.WAYS, [4, 1, 2, 1, 1])[0]
        if self.way == "module":
            self.act = activation(draw)
        self.spare = self.way in ("mul_", "nothing")

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.way == "module":
            return self.act(x)
        if self.way == "function":
            return F.relu(x)
        if self.way == "relu_":
            return F.relu_(x)
        return x.mul_(1.3) if self.way == "mul_" else x


class Residual(nn.Module):
    """Two convolutions and a sum; one activation module serves both places.

    Args:
        draw: of the variant.
        width: channels.
        overwrite: whether the input may be overwritten in place (a pre-activation).
    """

    def __init__(self, draw: random.Random, width: int, overwrite: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = normalisation(draw, width)
        self.act = activation(draw)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = normalisation(draw, width)
        self.before = overwrite and draw.random() < 0.5
        self.after = draw.choice(["module", "relu_", "nothing"])
        self.add_in_place = draw.random() < 0.5
        self.spare = self.after == "nothing"

    def forward(self, x):
        if self.before:
            x = F.relu_(x)
        out = self.act(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.add_in_place:
            out += x
        else:
            out = out + x
        if self.after == "module":
            return self.act(out)
        return F.relu_(out) if self.after == "relu_" else out


class Attention(nn.Module):
    """Attention over the pixels as tokens; the output is a view of the tokens."""

    spare = True

    def __init__(self, draw: random.Random, width: int) -> None:
        super().__init__()
        self.kind = draw.choice(["module", "by hand", "encoder"])
        if self.kind == "encoder":
            self.encoder = nn.TransformerEncoderLayer(
                width, 2, 2 * width, dropout=0.0, batch_first=True
            )
            # Its layer norm comes last and would keep what is overwritten.
            self.spare = True
            return
        self.norm = nn.LayerNorm(width)
        if self.kind == "module":
            self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        else:
            self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if self.kind == "encoder":
            out = self.encoder(tokens)
        elif self.kind == "module":
            normed = self.norm(tokens)
            out = tokens + self.attend(normed, normed, normed, need_weights=False)[0]
        else:
            q, k, v = self.qkv(self.norm(tokens)).chunk(3, -1)
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            out = tokens + scores.softmax(-1) @ v
        return out.transpose(1, 2).reshape(x.shape)


class Shared(nn.Module):
    """One block, called several times."""

    def __init__(self, draw: random.Random, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.times = inner, draw.randint(2, 3)
        self.spare = inner.spare

    def forward(self, x):
        for _ in range(self.times):
            x = self.inner(x)
        return x


class Dropout(nn.Module):
    """Dropout whose mask depends on the position alone, or on the number of rows."""

    spare = True

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.seed, self.by_rows = draw.randrange(1000), draw.random() < 0.5

    def forward(self, x):
        if not self.training:
            return x
        shape = x.shape if self.by_rows else x.shape[1:]
        generator = torch.Generator().manual_seed(self.seed + x.shape[0])
        return x * (torch.rand(shape, generator=generator) > 0.3).to(x.dtype)


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again in the backward."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)
        self.spare = inner[-1].spare

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)
