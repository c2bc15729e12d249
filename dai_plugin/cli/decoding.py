"""An image file as 8-bit pixels, turned as it is shown: one rule for all commands."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name of 8-bit pixels, by the number of channels."""

DARK = 2**12
"""16-bit images that stay below are nearly black, or hold 12 bits."""

_FULL = 2**16 - 1  # the white of 16 bits
_BITS_PER_SAMPLE, _ORIENTATION = 258, 274  # numbers of tags, in TIFF and EXIF
# By EXIF's orientation, what shows the image upright. Pillow turns TIFF files itself.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Refused(ValueError):
    """A whole image of a kind that cannot be brought to 8 bits without a guess."""


def read_image(
    path: str | Path, channels: int = 3, *, small: bool = False
) -> Image.Image:
    """The image of a file, decoded to the last row, with 8 bits a channel.

    16-bit images are scaled by 65535, TIFF files of fewer bits by what these can hold,
    floats by 1; of an animation the first frame is taken; transparency is dropped, and
    the colour below it stays; EXIF's orientation is applied.

    Args:
        path: of the file.
        channels: 1 for grey, 3 for RGB, 4 for RGB and transparency.
        small: a JPEG is decoded at an eighth of its size, to find out whether it can
            be read at a lower cost.

    Returns:
        The image; `info` holds "animated", whether there are more frames, and
        "brightest", the highest value of a 16-bit image before it was scaled.

    Raises:
        ValueError: the file is damaged, missing, no image, or of another kind.
    """
    try:
        if not os.path.isfile(path):
            raise FileNotFoundError("it is missing, or no regular file")
        with Image.open(path) as file:
            _refuse_bombs(file)
            # What phones write (MPO) has a preview as its second frame.
            animated = getattr(file, "is_animated", False) and file.format != "MPO"
            if small:
                file.draft(None, (max(1, file.width // 8), max(1, file.height // 8)))
            file.load()
            image = convert(_eight_bits(file), channels)
            turn = _TURNS.get(_orientation(file))
        image = image if turn is None else image.transpose(turn)
        image.info["animated"] = animated
        return image
    except (_Refused, Image.DecompressionBombError) as error:
        raise ValueError(f"the image file {path} is refused: {error}") from error
    # What damaged bytes lead to is not for Pillow to foresee: errors of any kind.
    except Exception as error:
        raise ValueError(
            f"the image file {path} cannot be read: {error or type(error).__name__}; "
            "copy it again from its source, or delete it"
        ) from error


def convert(image: Image.Image, channels: int) -> Image.Image:
    """The image in grey (1 channel), RGB (3), or RGB and transparency (4).

    Raises:
        ValueError: it has no transparency, or colours that Pillow does not convert.
    """
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if channels != 4:
        # Else Pillow looks for a colour that could stand for "transparent".
        image.info.pop("transparency", None)
    elif not (transparent or "transparency" in image.info):
        raise _Refused(
            f"it has {len(image.getbands())} channels (mode {image.mode}) and no "
            "transparency, and the network takes 4"
        )
    if image.mode in ("La", "RGBa"):  # colours are multiplied by the transparency
        image = image.convert(image.mode.upper())
    try:
        return image.convert(MODES[channels])
    except ValueError as error:
        raise _Refused(f"{error}; store it as RGB") from error


def most_pixels() -> int:
    """Pixels of the largest image that is taken: Pillow's own limit."""
    return Image.MAX_IMAGE_PIXELS or 2**31


def _refuse_bombs(file: Image.Image) -> None:
    pixels = file.width * file.height
    if pixels > most_pixels():
        raise _Refused(
            f"{file.width} x {file.height} are {pixels / 1e6:.0f} million pixels, more "
            f"than {most_pixels() / 1e6:.0f}; make the image smaller"
        )


def _eight_bits(file: Image.Image) -> Image.Image:
    """The image in a mode of 8 bits a channel (or 1), whatever that is."""
    sixteen = file.mode.startswith("I;16")
    # 16-bit files of these formats may come in 32 bits, by Pillow's version.
    if sixteen or (file.mode == "I" and file.format in ("PNG", "PPM")):
        values = np.asarray(file).astype(np.uint32)
        tags = getattr(file, "tag_v2", {})
        white = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
        image = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
        if white == _FULL:
            image.info["brightest"] = int(values.max())
        return image
    if file.mode == "I":
        raise _Refused(
            "it holds 32-bit or signed integers, whose white is not known; store 8 or "
            "16 bits, or floats in [0, 1]"
        )
    if file.mode == "F":
        floats = np.asarray(file)
        low, high = floats.min(), floats.max()
        if not (low >= 0 and high <= 1):  # NaN neither
            raise _Refused(
                f"it holds floats from {low:.4g} to {high:.4g}, whose white is not "
                "known; store floats in [0, 1]"
            )
        return Image.fromarray((floats * 255).round().astype(np.uint8))
    return file


def _orientation(file: Image.Image) -> int:
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged notes beside an image that can be read
        return 1
