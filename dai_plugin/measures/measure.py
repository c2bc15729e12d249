"""`measure`: all that was asked for, of a network and images."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.measures.attacked import Attacks
from dai_plugin.measures.compared import Similarity
from dai_plugin.measures.corrupted import Corruptions
from dai_plugin.measures.data import Batches
from dai_plugin.measures.layer_measures import LayerMeasures
from dai_plugin.measures.looking import Look
from dai_plugin.measures.output_measures import OutputMeasures
from dai_plugin.measures.passes import PIXELS, Observer, Tables
from dai_plugin.measures.progress import Progress
from dai_plugin.measures.results import Measures, hash_of_weights
from dai_plugin.measures.scores import device_of, scheme_of_versions
from dai_plugin.measures.series import Family, Series
from dai_plugin.measures.strengths import Strength
from dai_plugin.measures.taps import Taps
from dai_plugin.measures.versions import Transformations
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import AnyScheme

logger = logging.getLogger("dai_plugin")

GROUPS = ("layers", "output")
MORE: Mapping[str, Callable[[], Family | Similarity]] = {
    "strength": Strength,
    "corruptions": Corruptions,
    "attacks": Attacks,
    "similarity": Similarity,
}
NAMES = (*GROUPS, *MORE)

Asked = str | Family | Similarity
_OBJECTS = (Family, Similarity)
Part = Callable[[], dict[str, Tables]]


def measure(
    model: nn.Module,
    data: Tensor | Iterable[Any],
    *,
    measures: Asked | Sequence[Asked] = GROUPS,
    layers: Layers = "auto",
    scheme: str | AnyScheme = "halved",
    num_transforms: int = 5,
    units: int = 256,
    mean: Statistics | None = None,
    std: Statistics | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str | None = None,
    progress: bool = False,
) -> Measures:
    """What a network does when its images are transformed.

    For the groups "layers" and "output", each image runs twice and each of its versions
    once. Each further series (of strengths, corruptions, attacks) runs each image once
    and its versions once, and takes the measures of the groups that are asked for
    beside it, of both if none is. Numbers depend neither on the size of the batches nor
    on the device; for the layers, memory does not grow with the images, but for the
    numbers that come out. docs/measures.md says what each measure means.

    Interrupted (Ctrl-C), it returns what is whole, says what is missing, and lists it
    in `about["missing"]`; if nothing is whole, the interrupt goes on.

    Args:
        model: any network; it is run in evaluation mode. Modes, hooks and buffers are
            put back as they were.
        data: images `[N, C, H, W]`, or an iterable of batches that gives the same
            images each time. Of a batch, the first 4-D tensor is the images, the first
            tensor of integers `[B]` their labels, and B strings are their names; labels
            and names may be missing. Labels that the output has no class for are left
            out with a warning.
        measures: "layers", "output", "strength", "corruptions", "attacks",
            "similarity", several of these, or objects with settings of their own:
            `Strength`, `Corruptions`, `Attacks`, `Similarity`.
        layers: as in `attach`.
        scheme: as in `attach`; "halved" is the paper's protocol.
        num_transforms: versions of each image.
        units: features of a layer, drawn with the seed, of which variances, firing,
            the spectrum and the scores of classes are taken.
        mean: of the normalisation that the images carry; left out, as in `attach`.
        std: of the normalisation.
        seed: of the versions.
        device: where the images go; None is the model's.
        name: what reports call the network; None is its class.
        progress: shows bars on stderr, and how long the parts may take.

    Raises:
        TypeError: `data` can be gone through only once.
        ValueError: there are fewer than two images, other images in a later pass, an
            output that is no logits, an unknown group, no versions or units, or the
            scheme is "given".
        KeyError: a layer does not exist.
    """
    base, asked = unwrap(model), _asked(measures)
    known = scheme_of_versions(scheme, num_transforms)
    if units < 1:
        raise ValueError(f"units must be at least 1, got {units}")
    names = select_layers(base, layers)
    batches = Batches(base, data, mean, std, device or device_of(base))
    look = _look(model, asked, batches, names, units, seed, progress)
    wanted = _series(asked, base, seed)
    series = look.first(wanted)

    def versions() -> dict[str, Tables]:
        source = Transformations(known, num_transforms, seed)
        return look.versions(source, num_transforms)

    def along(one: Series) -> dict[str, Tables]:
        return {one.name: look.along(one)}

    def similarity(one: Similarity) -> dict[str, Tables]:
        return {"similarity": one.tables(batches, Taps(model, names))}

    groups = ", ".join(group for group in GROUPS if group in asked)
    parts: dict[str, Part] = {groups: versions} if groups else {}
    parts |= {one.name: partial(along, one) for one in series}
    settings = {one.name: one.settings for one in series}
    for each in asked:
        if isinstance(each, Similarity):
            each.check(batches.count, len(names) + 1)
            parts["similarity"] = partial(similarity, each)
            settings["similarity"] = each.metric
    tables, missing = _run(parts)
    about = {
        "name": name or type(base).__name__,
        **_described(base, batches),
        "layers": names,
        "scheme": str(known),
        "num_transforms": num_transforms,
        "units": units,
        "seed": seed,
        "settings": {group: told for group, told in settings.items() if told},
        "missing": [one.name for one in wanted if one not in series] + missing,
        "interrupted": bool(missing),
    }
    axes = {one.name: one.axis for one in series if one.name in tables}
    seen = batches.labels, batches.names
    return Measures(tables, about, *seen, axes, look.pictures())


def _look(
    model: nn.Module,
    asked: Sequence[Asked],
    batches: Batches,
    names: Sequence[str],
    units: int,
    seed: int,
    progress: bool,
) -> Look:
    """With the observers of the groups asked for; of both for series alone."""
    groups = [group for group in GROUPS if group in asked]
    taken = groups or (GROUPS if any(isinstance(e, Family) for e in asked) else ())
    output = OutputMeasures(_penultimate(unwrap(model)))
    observers: dict[str, Observer] = {}
    if "layers" in taken:
        observers["layers"] = LayerMeasures([PIXELS, *names], units, seed)
    if "output" in taken:
        observers["output"] = output
    # Attacks go by the labels, too.
    classed = "output" in taken or any(isinstance(each, Attacks) for each in asked)
    classes = output if classed else None
    return Look(model, batches, observers, classes, Progress(progress))


def _asked(measures: Asked | Sequence[Asked]) -> list[Asked]:
    """What was asked for; the name of a family stands for one with its defaults."""
    several = isinstance(measures, Sequence) and not isinstance(measures, str)
    given: list[Any] = list(measures) if several else [measures]  # type: ignore[arg-type]
    unknown = [
        each
        for each in given
        if not (each in NAMES if isinstance(each, str) else isinstance(each, _OBJECTS))
    ]
    if unknown or not given:
        raise ValueError(
            f"measures must be some of {', '.join(NAMES)}, or Strength, Corruptions, "
            f"Attacks, Similarity with settings; got {unknown or given}"
        )
    found = [MORE[e]() if isinstance(e, str) and e in MORE else e for e in given]
    if sum(isinstance(each, Similarity) for each in found) > 1:
        raise ValueError("similarity is asked for twice; give measures one of each")
    return found


def _series(asked: Sequence[Asked], base: nn.Module, seed: int) -> list[Series]:
    families = [each for each in asked if isinstance(each, Family)]
    found = [one for family in families for one in family.series(base, seed)]
    names = Counter(one.name for one in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"{twice[0]} is asked for twice; give measures one of each")
    return found


def _run(parts: Mapping[str, Part]) -> tuple[dict[str, Tables], list[str]]:
    """Tables by group, and the parts that an interrupt has left out."""
    tables: dict[str, Tables] = {}
    for done, part in enumerate(parts.values()):
        try:
            tables |= part()
        except KeyboardInterrupt:
            if not tables:
                raise
            missing = list(parts)[done:]
            logger.warning("interrupted; missing: %s", "; ".join(missing))
            return tables, missing
    return tables, []


def _penultimate(base: nn.Module) -> list[str]:
    """What enters the last linear layer; nothing where there is no such layer."""
    try:
        return select_layers(base, "penultimate")
    except ValueError:
        return []


def _described(base: nn.Module, batches: Batches) -> dict[str, Any]:
    return {
        "model": type(base).__name__,
        "weights": hash_of_weights(base),
        "images": batches.count,
        "data": batches.digest,
        "size": batches.size,
        "normalization": str(batches.normalization),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from dai_plugin import __version__  # which imports this file first

    return {"dai_plugin": __version__, "torch": str(torch.__version__)}
