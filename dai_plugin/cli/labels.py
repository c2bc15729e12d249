"""Which of the network's outputs a class of the images is."""

import logging
from collections import Counter
from collections.abc import Sequence

from dai_plugin.cli.images import ImageSet

logger = logging.getLogger("dai_plugin")


def fit_labels(
    images: ImageSet, names: Sequence[str] | None, outputs: int | None
) -> ImageSet:
    """The images with labels that are places in the output, or without labels.

    Classes are found by name if the outputs have names and all classes are among them.
    Else they are in the order of the outputs, if there are as many. Else nothing tells
    which is which, and a warning says so.

    Args:
        images: with labels or without.
        names: of the outputs, None where they are not known.
        outputs: how many there are, None where they are no classes.
    """
    if images.classes is None or outputs is None:
        return images
    known = names if names and len(names) == outputs else ()
    places = _places(images.classes, known)
    if places is not None:
        return images.relabelled(places)
    if len(images.classes) == outputs:
        return images
    logger.warning(
        "the images have %d classes (%s) and the network tells %d apart: what needs "
        "labels is left out; give images of all its classes, a folder for each (empty "
        "ones count), in the order of its outputs",
        len(images.classes),
        _few(images.classes),
        outputs,
    )
    return images.relabelled(None)


def _places(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Of each class among the names; None if one of them has no place of its own."""
    known = [_plain(name) for name in names]
    wanted, counts = [_plain(name) for name in classes], Counter(known)
    if len(set(wanted)) < len(wanted) or any(counts[name] != 1 for name in wanted):
        return None
    return [known.index(name) for name in wanted]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
