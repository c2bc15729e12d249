"""A look at every image before a network runs: what cannot be read, and what to say."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image
from tqdm import tqdm

from dai_plugin.cli.datasets import Collection
from dai_plugin.cli.decoding import DARK, convert, most_pixels, read_image

logger = logging.getLogger("dai_plugin")

_BLOCK = 64  # images that a thread checks at once
_LISTED = 10


@dataclass(frozen=True)
class Check:
    """What a look at an image found out.

    Attributes:
        problem: why it cannot be taken, empty if it can.
        animated: it has more frames than one.
        brightest: highest value of a 16-bit image.
    """

    problem: str = ""
    animated: bool = False
    brightest: int | None = None


def picture(
    images: Collection, index: int, channels: int, small: bool = False
) -> Image.Image:
    """The image of that number, as `read_image` returns it.

    Raises:
        ValueError: it cannot be read.
    """
    item = images.items[index]
    if isinstance(item, str):
        return read_image(item, channels, small=small)
    return convert(Image.fromarray(item), channels)


def checked(images: Collection, resize: int, channels: int) -> Iterator[Check]:
    """Looks at every image, in threads: Pillow decodes without Python's lock."""

    def look(start: int) -> list[Check]:
        block = range(start, min(start + _BLOCK, len(images.items)))
        return [_check(images, index, resize, channels) for index in block]

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    bar = tqdm(
        total=len(images.items), desc="checking images", unit="image", disable=None
    )
    try:
        with warnings.catch_warnings(), bar:
            # Said by name, or of no consequence for the pixels.
            warnings.simplefilter("ignore")
            for found in pool.map(look, range(0, len(images.items), _BLOCK)):
                bar.update(len(found))
                yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _check(images: Collection, index: int, resize: int, channels: int) -> Check:
    try:
        image = picture(images, index, channels, small=True)
    except ValueError as error:
        lines = str(error.__cause__ or error).splitlines()
        return Check(lines[0] if lines else type(error.__cause__).__name__)
    pixels = resize * resize * max(image.size) / min(image.size)
    if pixels > most_pixels():
        return Check(
            f"resized to a shorter side of {resize} it would have {pixels / 1e6:.0f} "
            "million pixels"
        )
    return Check("", image.info.get("animated", False), image.info.get("brightest"))


def unreadable(images: Collection, checks: Sequence[Check]) -> list[str]:
    """Names of the images that cannot be read, and why."""
    return [
        f"{_printable(name)} ({check.problem})"
        for name, check in zip(images.names, checks, strict=True)
        if check.problem
    ]


def explain(bad: Sequence[str], count: int) -> str:
    """The message that so many images cannot be read."""
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    return (
        f"{len(bad)} of {count} images cannot be read: {'; '.join(bad[:_LISTED])}"
        f"{more}; repair them, take them away, or leave them out (--skip-unreadable)"
    )


def tell_of_frames(images: Collection, checks: Sequence[Check]) -> None:
    """Warns of animations."""
    found = [i for i, check in enumerate(checks) if check.animated]
    if found:
        logger.warning(
            "%d images have several frames (%s ...); the first one is taken",
            len(found),
            _printable(images.names[found[0]]),
        )


def refuse_dark(checks: Sequence[Check]) -> None:
    """Raises if nothing of the 16-bit images would be seen.

    Raises:
        ValueError: so it is.
    """
    deep = [check.brightest for check in checks if check.brightest is not None]
    if deep and max(deep) < DARK:
        raise ValueError(
            f"none of the {len(deep)} 16-bit images has a value above {max(deep)} of "
            "65535, so that all would be black: if they hold 12 bits, multiply them by "
            "65535 / 4095 (or store TIFF files that say 12 bits)"
        )


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)
