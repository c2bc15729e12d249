"""What a run is told at its first step: rows and cost, layers and weights, cautions."""

import logging
from collections.abc import Sequence

from dai_plugin.losses import ranks
from dai_plugin.losses.weights import key_name
from dai_plugin.settings import Settings
from dai_plugin.training.placed import Placed
from dai_plugin.training.step import Step
from dai_plugin.views.motion import follows
from dai_plugin.views.rows import Layout
from dai_plugin.views.schemes import AnyScheme, Given, flips
from dai_plugin.views.targets import Kind
from dai_plugin.wrappers import OUTPUT

logger = logging.getLogger("dai_plugin")
logger.setLevel(logging.INFO)


def tell(
    step: Step,
    settings: Settings,
    terms: Sequence[Placed],
    scheme: AnyScheme,
    normalization: object,
) -> None:
    """The notice of the first step, on rank 0.

    Args:
        step: whose forward has ended.
        settings: of the run.
        terms: of the objective, at their layers.
        scheme: of the views.
        normalization: that the images carry.
    """
    if not logger.hasHandlers():
        # Nobody set up logging: what a run costs is to be seen all the same.
        logger.addHandler(logging.StreamHandler())
    told = [
        *_costs(step.layout, settings),
        *(_layers(each, step) for each in terms),
        f"scheme: {scheme}"
        + ("" if isinstance(scheme, Given) else f" ({settings.first_view} first view)"),
        f"normalisation: {normalization}",
        *_cautions(scheme, settings, step),
    ]
    logger.info("%s", "\n  ".join(["data augmentation invariance", *told]))


def _layers(placed: Placed, step: Step) -> str:
    """The layers of a term, and what each weighs."""
    term, keys, shares = placed.term, placed.keys(step), placed.shares(step)
    at_output = step.shapes.get((OUTPUT, 0))
    of_output = f" {list(at_output)}" if at_output else ""
    shown = ", ".join(
        f"{key_name(key)}{of_output if key[0] == OUTPUT else ''} "
        f"{term.weight * share:.3g}"
        for key, share in zip(keys, shares, strict=True)
    )
    return f"{term.name}: {len(keys)} layers and weights: {shown}"


def warn(step: Step, settings: Settings, terms: Sequence[Placed]) -> None:
    """Warnings of the first step, on every rank: terms that train nothing."""
    frozen = [key_name(key) for key, at_rest in step.frozen.items() if at_rest]
    if frozen and any(each.term.weight > 0 for each in terms):
        logger.warning(
            "%d layers are frozen (their activations need no gradient): their "
            "invariance losses are reported but train nothing: %s",
            len(frozen),
            ", ".join(frozen),
        )
    if settings.num_views == 1:
        return
    if step.groups.images == 1:
        logger.warning(
            "one image with views a step: these are all that there is to compare, so "
            "that the invariance losses are 1 and train nothing; give batches of more "
            "images, or a larger share"
        )
        return
    assert step.losses is not None
    ratios = [n for n, each in enumerate(terms) if each.term.tapped]
    found = [each for n in ratios for each in step.losses[n].tolist()]
    for value, why in ((0.0, "their views are equal"), (1.0, "all images are equal")):
        if found and all(each == value for each in found):
            logger.warning(
                "all layers have an invariance loss of exactly %g: %s; look at the "
                "scheme and at the images",
                value,
                why,
            )


def _costs(layout: Layout, settings: Settings) -> list[str]:
    """What a step computes, and how its loss is mixed."""
    every = settings.every
    seldom = f" in one of {every} steps, on average" if every > 1 else " a step,"
    times = f", the terms x {every} in those" if every > 1 else ""
    terms = "".join(f" + {term.weight:g} {term.name}" for term in settings.terms)
    return [
        f"{layout} = {layout.rows} rows{seldom} {settings.cost(layout.images):.4g} "
        "times the network's compute for this batch size",
        f"loss = {1 - settings.weight:g} task{terms}{times}",
    ]


def _cautions(scheme: AnyScheme, settings: Settings, step: Step) -> list[str]:
    """What a user of these settings has to know."""
    found = []
    if flips(scheme):
        found.append("images are flipped: wrong for digits, text, left and right")
    if step.motions:
        found.append(_moving(step, settings.targets))
    if (world_size := ranks.world_size()) > 1:
        found.append(
            f"statistics are those of all {world_size} ranks together"
            if settings.sync
            else f"statistics are local to each of {world_size} ranks (sync=False)"
        )
    if settings.num_views == 1:
        found.append("one view has nothing to compare: the invariance loss is 0")
    return found


def _moving(step: Step, told: Kind | None) -> str:
    """Which targets follow the views of a step whose pixels moved."""
    masks, places = (
        all(follows(kind, motion) for motion in step.motions)
        for kind in ("mask", "boxes")
    )
    others = "boxes, points, heat maps"
    if not masks:
        return (
            "pixels move, and the scheme does not tell where to: masks and other "
            f"positions in the targets ({others}) are refused"
        )
    if not places:
        return (
            f"pixels move, and masks with them; other positions ({others}) are refused"
        )
    if told:
        return f"pixels move, and masks and {told} with them"
    return (
        "pixels move, and masks with them; other positions in the targets "
        f'({others}) only with targets="boxes" and the like'
    )
