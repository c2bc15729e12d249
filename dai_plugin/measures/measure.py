"""`measure`: all that was asked for, from one look at the images and their versions."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.measures.data import Batches
from dai_plugin.measures.layer_measures import LayerMeasures
from dai_plugin.measures.output_measures import OutputMeasures
from dai_plugin.measures.passes import (
    PIXELS,
    Observer,
    first_pass,
    observed,
    second_pass,
)
from dai_plugin.measures.results import Measures, hash_of_weights
from dai_plugin.measures.scores import device_of, scheme_of_versions
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.versions import Transformations
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import AnyScheme

GROUPS = ("layers", "output")


def measure(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    measures: str | Sequence[str] = GROUPS,
    layers: Layers = "auto",
    scheme: str | AnyScheme = "halved",
    num_transforms: int = 5,
    units: int = 256,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str | None = None,
) -> Measures:
    """What a network does when its images are transformed: layers and output.

    Each image runs twice and each of its versions once, whatever is asked for. Numbers
    depend neither on the size of the batches nor on the device; for the layers, memory
    does not grow with the images, but for the numbers that come out. docs/measures.md
    says what each measure means.

    Args:
        model: any network; it is run in evaluation mode, then put back as it was.
        data: images `[N, C, H, W]`, or an iterable of batches that gives the same
            images each time. Of a batch, the first 4-D tensor is the images, the first
            tensor of integers `[B]` their labels, and B strings are their names; labels
            and names may be missing.
        measures: "layers", "output", or both.
        layers: as in `attach`.
        scheme: as in `attach`; "halved" is the paper's protocol.
        num_transforms: versions of each image.
        units: features of a layer, drawn with the seed, of which variances, firing,
            the spectrum and the scores of classes are taken.
        mean: of the normalisation that the images carry; left out, as in `attach`.
        std: of the normalisation.
        seed: of the versions.
        device: where the images go; None is the model's.
        name: of the model; None is its class.

    Raises:
        TypeError: `data` can be gone through only once.
        ValueError: there are fewer than two images, other images in the second pass,
            labels that do not fit the output, an output that is no logits, an unknown
            group, no versions or units, or the scheme is "given".
        KeyError: a layer does not exist.
    """
    base, groups = unwrap(model), _groups(measures)
    known = scheme_of_versions(scheme, num_transforms)
    if units < 1:
        raise ValueError(f"units must be at least 1, got {units}")
    observers: dict[str, Observer] = {}
    if "layers" in groups:
        names = [PIXELS, *select_layers(base, layers)]
        observers["layers"] = LayerMeasures(names, units, seed)
    if "output" in groups:
        observers["output"] = OutputMeasures(_penultimate(base))
    looking = list(observers.values())
    batches = Batches(base, data, mean, std, device or device_of(base), same=True)
    taps = Taps(model, observed(looking))
    first_pass(taps, batches, looking)
    if batches.count < 2:
        raise ValueError("data holds one image: measures compare images, give more")
    transformations = Transformations(known, num_transforms, seed)
    second_pass(taps, batches, transformations, looking)
    about = {
        "model": name or type(base).__name__,
        "weights": hash_of_weights(base),
        "images": batches.count,
        "size": batches.size,
        "normalization": str(batches.normalization),
        "scheme": str(known),
        "num_transforms": num_transforms,
        "units": units,
        "seed": seed,
        "versions": _versions(),
    }
    tables = {group: each.tables() for group, each in observers.items()}
    return Measures(tables, about, batches.labels, batches.names)


def _groups(measures: str | Sequence[str]) -> list[str]:
    asked = [measures] if isinstance(measures, str) else list(measures)
    unknown = [group for group in asked if group not in GROUPS]
    if unknown or not asked:
        raise ValueError(
            f"measures must be some of {', '.join(GROUPS)}, got {unknown or asked}"
        )
    return asked


def _penultimate(base: nn.Module) -> list[str]:
    """What enters the last linear layer; nothing where there is no such layer."""
    try:
        return select_layers(base, "penultimate")
    except ValueError:
        return []


def _versions() -> dict[str, str]:
    from dai_plugin import __version__  # which imports this file first

    return {"dai_plugin": __version__, "torch": str(torch.__version__)}
