"""The network that the flags ask for, its layers and the size of its images."""

import argparse
from dataclasses import replace

import torch

from dai_plugin.cli.failures import UsageError, refused_as
from dai_plugin.cli.images import image_size
from dai_plugin.cli.models import load_model, parse_options
from dai_plugin.cli.networks import Loaded
from dai_plugin.cli.sources import load_scheme, with_values
from dai_plugin.layers import select_layers
from dai_plugin.views.normalization import known_normalization
from dai_plugin.views.schemes import AnyScheme


def network(options: argparse.Namespace) -> Loaded:
    """The network of `--model`, `--weights` and what goes with them.

    Raises:
        UsageError: a flag asks for what cannot be.
        ValueError: there is no such network, or its weights are another one's.
    """
    with refused_as("--model-args"):
        arguments = parse_options(options.model_args)
    with refused_as("--mean and --std"):
        given = known_normalization(torch.nn.Identity(), options.mean, options.std)
    torch.manual_seed(0)  # an untrained network is the same one each time
    loaded = load_model(
        options.model,
        weights=options.weights,
        options=arguments,
        key=options.key,
        prefix=options.prefix,
        trust=options.trust,
    )
    return loaded if given is None else replace(loaded, normalization=given)


def layers(options: argparse.Namespace, loaded: Loaded) -> list[str]:
    """The layers of `--layers`, first to last.

    Raises:
        UsageError: the network has none of that name.
    """
    asked: list[str] = options.layers
    with refused_as("--layers"):
        return select_layers(loaded.model, asked[0] if len(asked) == 1 else asked)


def size(options: argparse.Namespace, loaded: Loaded) -> tuple[int, int]:
    """Shorter side and crop: what was asked for, else what the weights ask.

    Raises:
        UsageError: the crop is larger than the image.
    """
    try:
        return image_size(options.resize, options.crop, loaded.resize, loaded.crop)
    except ValueError as error:
        raise UsageError(str(error)) from error


def scheme(options: argparse.Namespace) -> AnyScheme:
    """The scheme of `--scheme`, with `--flip`.

    Raises:
        UsageError: there is no such scheme, or it has no flips.
    """
    with refused_as("--scheme"):
        found = load_scheme(options.scheme)
    with refused_as("--flip"):
        return with_values(found, flip=options.flip)
