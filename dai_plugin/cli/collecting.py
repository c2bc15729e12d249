"""Where images come from: files, folders, data sets by name. Nothing is fetched."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dai_plugin.cli.datasets import (
    Collection,
    cifar10,
    cifar100,
    digits,
    text,
    tiny_imagenet,
)
from dai_plugin.cli.folders import Finder, labels_of

logger = logging.getLogger("dai_plugin")

_SETS: dict[str, Callable[[Path, bool], Collection]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "tinyimagenet": tiny_imagenet,
}


def collect(sources: Sequence[str]) -> Collection:
    """All images of some sources, one source after another, each file once.

    Args:
        sources: each a file, a folder, or a data set: "digits", "cifar10:PATH",
            "cifar100:PATH", "tinyimagenet:PATH" are held-out images, with "-train"
            after the name those of training. What exists as a path is that.

    Raises:
        FileNotFoundError: there is no such source, or nothing in it.
        ValueError: a data set's own files are damaged.
    """
    finder, alone = Finder(), len(sources) == 1
    found = [_collect(source, finder, alone) for source in sources]
    _tell(finder)
    kinds = {tuple(each.classes or ()) for each in found}
    labelled = len(kinds) == 1 and kinds != {()}
    return Collection(
        [item for each in found for item in each.items],
        [name for each in found for name in each.names],
        [x for each in found for x in each.labels or ()] if labelled else None,
        found[0].classes if labelled else None,
    )


def _tell(finder: Finder) -> None:
    """Says what of the folders is left out."""
    if finder.again:
        logger.warning(
            "%d files or folders of --data are reached more than once (by links, or "
            "below each other); each image is taken once",
            finder.again,
        )
    if finder.others:
        logger.warning(
            "%d files of --data are left out, being no images by their suffix: %s",
            finder.others.total(),
            finder.others_by_kind(),
        )


def _collect(source: str, finder: Finder, alone: bool) -> Collection:
    if os.path.isdir(source):
        return _folder(Path(source), finder, alone)
    if os.path.exists(source):
        paths = [source] if finder.take(source) else []
        return Collection(paths, [text(path) for path in paths])
    name, _, path = source.partition(":")
    name, train = name.removesuffix("-train"), name.endswith("-train")
    if name == "digits" and not path:
        return digits(train)
    if name in _SETS and os.path.isdir(path):
        return _SETS[name](Path(path), train)
    if name in _SETS:
        wanted = f"the folder {path} does not exist" if path else f"give {source}:PATH"
        raise FileNotFoundError(f"the data set {name} has to lie somewhere: {wanted}")
    raise FileNotFoundError(
        f"the data folder {source} does not exist, nor is it a data set: digits, "
        f"{', '.join(f'{known}:PATH' for known in _SETS)}"
    )


def _folder(folder: Path, finder: Finder, alone: bool) -> Collection:
    try:
        files = finder.below(folder)
    except FileNotFoundError as error:
        for known, kind in (("cifar-10", "cifar10"), ("cifar-100", "cifar100")):
            if any(folder.glob(f"{known}-*")) or folder.name.startswith(f"{known}-"):
                raise FileNotFoundError(
                    f"{folder} holds no image files, but what seems to be {kind}: give "
                    f"{kind}:{folder}"
                ) from error
        raise
    names = [text(str(file if alone else folder / file)) for file in files]
    if (folder / "val" / "val_annotations.txt").is_file():
        logger.warning(
            "%s seems to be Tiny ImageNet: tinyimagenet:%s gives its held-out images "
            "with their labels",
            folder,
            folder,
        )
    labels, classes = labels_of(folder, files) or (None, None)
    return Collection([str(folder / file) for file in files], names, labels, classes)
