"""What a run is told at its first step: rows and cost, layers and weights, cautions."""

import logging
from collections.abc import Sequence

from torch import Tensor

from dai_plugin.losses import ranks
from dai_plugin.losses.weights import key_name
from dai_plugin.settings import Settings
from dai_plugin.training.step import Step
from dai_plugin.views.schemes import AnyScheme, Given, flips, moves_pixels

logger = logging.getLogger("dai_plugin")
logger.setLevel(logging.INFO)


def tell(
    step: Step,
    settings: Settings,
    shares: Sequence[float],
    scheme: AnyScheme,
    normalization: object,
) -> None:
    """The notice of the first step, on rank 0.

    Args:
        step: whose forward has ended.
        settings: of the run.
        shares: of alpha, by call of a layer.
        scheme: of the views.
        normalization: that the images carry.
    """
    if not logger.hasHandlers():
        # Nobody set up logging: what a run costs is to be seen all the same.
        logger.addHandler(logging.StreamHandler())
    shown = ", ".join(
        f"{key_name(key)} {settings.alpha * share:.3g}"
        for key, share in zip(step.fired, shares, strict=True)
    )
    told = [
        *_costs(step.groups.rows, settings),
        f"{len(shares)} layers and weights: {shown}",
        f"scheme: {scheme}"
        + ("" if isinstance(scheme, Given) else f" ({settings.first_view} first view)"),
        f"normalisation: {normalization}",
        *_cautions(scheme, settings),
    ]
    logger.info("%s", "\n  ".join(["data augmentation invariance", *told]))


def warn(step: Step, settings: Settings, losses: Tensor) -> None:
    """Warnings of the first step, on every rank: terms that train nothing."""
    frozen = [key_name(key) for key, at_rest in step.frozen.items() if at_rest]
    if frozen and settings.alpha > 0:
        logger.warning(
            "%d layers are frozen (their activations need no gradient): their "
            "invariance losses are reported but train nothing: %s",
            len(frozen),
            ", ".join(frozen),
        )
    if settings.num_views == 1:
        return
    if step.images == 1:
        logger.warning(
            "one image a step: its views are all that there is to compare, so that the "
            "invariance losses are 1 and train nothing; give batches of more images"
        )
        return
    found = losses.tolist()
    for value, why in ((0.0, "their views are equal"), (1.0, "all images are equal")):
        if found and all(each == value for each in found):
            logger.warning(
                "all layers have an invariance loss of exactly %g: %s; look at the "
                "scheme and at the images",
                value,
                why,
            )


def _costs(rows: int, settings: Settings) -> list[str]:
    """What a step computes, and how its loss is mixed."""
    views, alpha, beta = settings.num_views, settings.alpha, settings.beta
    return [
        f"{rows // views} images x {views} views = {rows} rows a step, "
        f"{views} times the network's compute for this batch size",
        f"loss = {1 - alpha - beta:g} task + {alpha:g} invariance"
        + (f" + {beta:g} class invariance" if beta else ""),
    ]


def _cautions(scheme: AnyScheme, settings: Settings) -> list[str]:
    """What a user of these settings has to know."""
    found = []
    if flips(scheme):
        found.append("images are flipped: wrong for digits, text, left and right")
    if moves_pixels(scheme) and settings.num_views > 1:
        found.append(
            "pixels move, positions in the targets (boxes, points, angles) do not"
        )
    if (world_size := ranks.world_size()) > 1:
        found.append(
            f"statistics are those of all {world_size} ranks together"
            if settings.sync
            else f"statistics are local to each of {world_size} ranks (sync=False)"
        )
    if settings.num_views == 1:
        found.append("one view has nothing to compare: the invariance loss is 0")
    return found
