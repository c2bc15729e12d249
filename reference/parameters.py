"""Which parameters are trained, and which weight decay each of them has."""

import argparse
import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

NORMALIZATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)
EMBEDDINGS = ("class_token", "position_embedding", "relative_position_bias_table")


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Takes parameters out of the training.

    Running statistics of batch norm are none: they go on with the images.

    Args:
        model: whose parameters they are.
        patterns: names, or patterns as in a shell ("features.*").

    Returns:
        How many tensors are frozen.

    Raises:
        ValueError: a pattern matches no name, or nothing is left to train.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        found = [name for name in named if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            nearest = difflib.get_close_matches(pattern, named, n=5, cutoff=0.0)
            raise ValueError(
                f"--freeze {pattern!r} matches no parameter; nearest: "
                f"{', '.join(nearest)}"
            )
        for name in found:
            named[name].requires_grad_(False)
    frozen = sum(not parameter.requires_grad for parameter in named.values())
    if frozen == len(named):
        raise ValueError(
            f"--freeze {' '.join(patterns)} leaves none of {frozen} parameters to train"
        )
    return frozen


def decay_groups(model: nn.Module, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Parameter groups with their weight decay, by torchvision's rules.

    A parameter called "bias" has that of biases, wherever it is; else one of the
    embeddings theirs; else one of a normalisation layer that of normalisations; else,
    and where the flag is not given, `--weight-decay`.

    Args:
        model: whose parameters are trained.
        args: `--weight-decay`, `--norm-weight-decay`, `--bias-weight-decay`,
            `--transformer-embedding-decay`.
    """
    own = {"bias": args.bias_weight_decay}
    own |= dict.fromkeys(EMBEDDINGS, args.transformer_embedding_decay)
    groups: dict[str, dict[str, Any]] = {}
    seen = set()
    for module in model.modules():
        normalizes = isinstance(module, NORMALIZATIONS)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            kind, decay = "other", args.weight_decay
            if own.get(name) is not None:
                kind, decay = name, own[name]
            elif normalizes and args.norm_weight_decay is not None:
                kind, decay = "normalization", args.norm_weight_decay
            group = groups.setdefault(kind, {"params": [], "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())
