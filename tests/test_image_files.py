"""A file's pixels against what was drawn: depths, modes, formats, turns, damage."""

import os
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from PIL import Image

from dai_plugin.cli.decoding import read_image

RANDOM = np.random.default_rng(0)


def drawn(*shape, top=256, dtype=np.uint8):
    return RANDOM.integers(0, top, shape).astype(dtype)


def saved(folder, pixels, name="image.png", **options):
    file = folder / name
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)
    return file


def read(file, channels=3):
    return np.asarray(read_image(file, channels))


def grey(levels):
    """A grey image as RGB."""
    return np.stack([levels] * 3, -1)


def tiff_of_12_bits(file, values):
    """Writes `values` [H, W] as a TIFF file with 12 bits a pixel."""
    height, width = values.shape
    first, second = values.reshape(-1, 2).T.astype(np.uint32)
    packed = np.stack(
        [first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1
    ).astype(np.uint8)
    entries = [
        (256, 3, width), (257, 3, height), (258, 3, 12), (259, 3, 1), (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 3, height),
        (279, 4, packed.size),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries)
    content = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory
    file.write_bytes(content + bytes(4) + packed.tobytes())
    return file


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("seed", range(3))
def test_16_bits_are_scaled_by_their_white(tmp_path, suffix, seed):
    """Rounded to the nearest of 256 levels."""
    values = drawn(9 + seed, 7, top=2**16, dtype=np.uint16)
    file = saved(tmp_path, values, f"image.{suffix}")
    levels = np.rint(values.astype(np.float64) / 65535 * 255).astype(np.uint8)
    assert np.array_equal(read(file), grey(levels))
    assert np.array_equal(read(file, 1), levels)
    assert read_image(file).info["brightest"] == values.max()


def test_12_bits_in_a_file_that_says_so(tmp_path):
    """A TIFF file of 12 bits a pixel is scaled by 4095."""
    values = drawn(6, 8, top=2**12, dtype=np.uint16)
    values[0, :2] = 0, 4095
    file = tiff_of_12_bits(tmp_path / "image.tif", values)
    levels = np.rint(values / 4095 * 255).astype(np.uint8)
    assert np.array_equal(read(file, 1), levels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_floats_from_0_to_1(tmp_path, compression):
    """Scaled to 255; all others have no known white."""
    values = RANDOM.random((8, 5)).astype(np.float32)
    file = saved(tmp_path, values, "image.tiff", compression=compression)
    assert np.array_equal(read(file, 1), np.rint(values * 255).astype(np.uint8))
    for change, message in (
        (values * 255, r"it holds floats from \S+ to \S+, whose white is not known"),
        (values - 0.5, "store floats in"),
        (np.where(values > 0.5, np.nan, values), "floats from nan to nan"),
    ):
        file = saved(tmp_path, change.astype(np.float32), "image.tiff")
        with pytest.raises(ValueError, match=f"image.tiff is refused: .*{message}"):
            read_image(file)


@pytest.mark.parametrize("top", [2, 2**16, 2**31])
def test_32_bit_integers_are_refused(tmp_path, top):
    """Nothing says what white is."""
    file = saved(tmp_path, drawn(4, 4, top=top, dtype=np.int32), "image.tif")
    with pytest.raises(ValueError, match="is refused: it holds 32-bit or signed"):
        read_image(file)


def modes():
    rgb, alpha = drawn(6, 5, 3), drawn(6, 5)
    levels, bits = drawn(6, 5), drawn(6, 5) > 127
    palette = Image.fromarray(levels % 16).convert("P")
    palette.putpalette(drawn(16 * 3).tolist())
    colours = np.array(palette.getpalette()[: 16 * 3]).reshape(16, 3)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    ycbcr = Image.fromarray(rgb).convert("YCbCr")
    return {
        "1": (Image.fromarray(bits), grey(bits * np.uint8(255)), "png"),
        "L": (levels, grey(levels), "png"),
        "LA": (np.dstack([levels, alpha]), grey(levels), "png"),
        "P": (palette, colours[levels % 16], "png"),
        "RGB": (rgb, rgb, "webp"),
        "RGBA": (np.dstack([rgb, alpha]), rgb, "png"),
        "CMYK": (cmyk, np.asarray(cmyk.convert("RGB")), "tif"),
        "YCbCr": (ycbcr, np.asarray(ycbcr.convert("RGB")), "tif"),
    }


@pytest.mark.parametrize("mode", modes())
def test_every_mode_gives_the_colours_that_are_stored(tmp_path, mode):
    """Without transparency; the colour below it stays."""
    pixels, expected, suffix = modes()[mode]
    options = {"lossless": True} if suffix == "webp" else {}
    file = saved(tmp_path, pixels, f"image.{suffix}", **options)
    assert np.array_equal(read(file), expected)
    assert read(file, 1).shape == expected.shape[:2]


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 160, 10))])
def test_a_palette_with_transparency(tmp_path, transparency):
    """One transparent colour, or a degree for each."""
    levels = drawn(6, 5, top=16)
    palette = Image.fromarray(levels).convert("P")
    palette.putpalette(drawn(16 * 3).tolist())
    colours = np.array(palette.getpalette()[: 16 * 3]).reshape(16, 3)
    file = saved(tmp_path, palette, transparency=transparency)
    assert np.array_equal(read(file), colours[levels])
    whole = read(file, 4)
    assert np.array_equal(whole[..., :3], colours[levels])
    one = isinstance(transparency, int)
    expected = np.where(levels == 3, 0, 255) if one else levels * np.uint8(10)
    assert np.array_equal(whole[..., 3], expected)


def test_four_channels_are_colour_and_transparency(tmp_path):
    """A file without is refused: there is nothing to make a channel of."""
    rgba = drawn(6, 5, 4)
    assert np.array_equal(read(saved(tmp_path, rgba), 4), rgba)
    for pixels in (rgba[..., :3], rgba[..., 0]):
        with pytest.raises(ValueError, match="and no transparency, and the network"):
            read_image(saved(tmp_path, pixels), 4)


def test_colours_that_cannot_be_converted_are_refused(tmp_path):
    """LAB becomes RGB, and no grey."""
    lab = Image.merge("LAB", [Image.fromarray(drawn(4, 4)) for _ in range(3)])
    file = saved(tmp_path, lab, "image.tif")
    assert np.array_equal(read(file), np.asarray(lab.convert("RGB")))
    with pytest.raises(ValueError, match=r"is refused: .*LAB.*store it as RGB"):
        read_image(file, 1)


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
def test_an_image_is_read_as_it_is_shown(tmp_path, orientation, suffix):
    """EXIF's eight orientations, in each format that has them."""
    pixels = np.kron(drawn(3, 2, 3), np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    file = saved(
        tmp_path, pixels, f"image.{suffix}", exif=exif, **options.get(suffix, {})
    )
    got, expected = read(file), TURNED[orientation](pixels)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= (4 if suffix == "jpg" else 0)


def test_damaged_notes_do_not_spoil_the_image(tmp_path):
    """EXIF that cannot be read turns nothing."""
    pixels = drawn(6, 5, 3)
    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM",
        b"Exif\0\0" + b"x" * 9,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = saved(tmp_path, pixels, exif=exif)
            assert np.array_equal(read(file), pixels)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first(tmp_path, suffix):
    """It is known that there are others."""
    frames = [Image.fromarray(np.full((8, 8, 3), 80 * i, np.uint8)) for i in range(3)]
    more = {"lossless": True} if suffix == "webp" else {}
    file = saved(
        tmp_path,
        frames[1],
        f"image.{suffix}",
        save_all=True,
        append_images=frames,
        **more,
    )
    image = read_image(file)
    assert image.info["animated"]
    assert np.abs(np.asarray(image).astype(int) - 80).max() <= 1
    assert not read_image(saved(tmp_path, frames[1], "one.png")).info["animated"]


def chunk(kind, content):
    checked = kind + content
    return (
        struct.pack(">I", len(content))
        + checked
        + struct.pack(">I", zlib.crc32(checked))
    )


def huge(file, width, height):
    """A small PNG file that says that it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )
    return file


@pytest.mark.parametrize(("colour", "bands"), [(2, 3), (4, 2), (6, 4)])
def test_colour_of_16_bits_is_its_upper_half(tmp_path, colour, bands):
    """RGB, grey with transparency, RGB with transparency, as Pillow reads them."""
    values = drawn(5, 6, bands, top=2**16, dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    file = tmp_path / "image.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 5, 16, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    upper = (values >> 8).astype(np.uint8)
    assert np.array_equal(
        read(file), upper[..., :3] if bands > 2 else grey(upper[..., 0])
    )


@pytest.mark.parametrize("side", [9500, 20000])
def test_decompression_bombs_are_refused_by_name(tmp_path, side):
    """Those that Pillow warns of, and those that it refuses."""
    file = huge(tmp_path / "bomb.png", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"bomb\.png is refused: .*pixels"):
            read_image(file)


def damage(kind, file):
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    elif kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "link":
        file.unlink()
        file.symlink_to("nowhere.jpg")
    elif kind == "loop":
        file.unlink()
        file.symlink_to(file)
    else:
        file.write_bytes(
            {
                "empty": b"",
                "text": b"<!DOCTYPE html><html>404</html>",
                "half": content[: len(content) // 2],
                "header": content[:30],
            }[kind]
        )


DAMAGES = ["missing", "pipe", "link", "loop", "empty", "text", "half", "header"]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp", "ppm"])
@pytest.mark.parametrize("small", [False, True])
def test_damaged_files_are_named(tmp_path, kind, suffix, small):
    """Whatever the format, in a quick look too."""
    file = saved(tmp_path, drawn(64, 48, 3), f"image.{suffix}")
    assert read_image(file, small=small).width <= 48
    damage(kind, file)
    message = re.escape(f"the image file {file} cannot be read: ")
    with pytest.raises(ValueError, match=f"{message}.+; copy it again"):
        read_image(file, small=small)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_quick_look_finds_the_truncated_files_that_a_whole_one_does(
    tmp_path, options, mode
):
    """Cut anywhere, to the last bytes."""
    image = Image.fromarray(drawn(72, 56, 3)).convert(mode)
    file = saved(tmp_path, image, "image.jpg", **options)
    content = file.read_bytes()
    cuts = [*RANDOM.integers(0, len(content), 30), *range(1, 12)]
    for cut in cuts:
        file.write_bytes(content[:-cut])
        found = []
        for small in (False, True):
            try:
                read_image(file, small=small)
                found.append(True)
            except ValueError:
                found.append(False)
        assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_no_error_of_another_kind(tmp_path, seed):
    """Bytes changed at random: an image, or a ValueError that names the file."""
    random = np.random.default_rng(seed)
    suffix = ["jpg", "png", "webp", "tif", "gif"][seed % 5]
    file = saved(tmp_path, drawn(32, 32, 3), f"image.{suffix}")
    content = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(20):
        changed = content.copy()
        places = random.integers(0, len(content), 1 + seed)
        changed[places] = random.integers(0, 256, len(places))
        file.write_bytes(changed.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_image(file).mode == "RGB"
            except ValueError as error:
                assert str(file) in str(error)  # noqa: PT017


def test_training_reads_as_the_commands_do(tmp_path, monkeypatch, caplog):
    """One function; an image that is nearly black at 16 bits is said."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    import folders
    from presets import STOCK

    assert folders.read_image is read_image
    values = {}
    for part in ("train", "val"):
        for kind in ("a", "b"):
            (tmp_path / part / kind).mkdir(parents=True)
            values[part, kind] = drawn(8, 8, top=2**16, dtype=np.uint16)
            saved(tmp_path / part / kind, values[part, kind])
    train, test, count, _ = folders.image_folder(tmp_path, STOCK)
    assert count == 2
    for part, images in (("train", train), ("val", test)):
        for kind, (image, _) in zip("ab", images, strict=True):
            levels = np.rint(values[part, kind] / 65535 * 255)
            assert torch.equal(image[0], torch.from_numpy(levels).byte())
    assert not caplog.messages
    saved(tmp_path / "train" / "a", drawn(8, 8, top=2**12, dtype=np.uint16))
    folders.image_folder(tmp_path, STOCK)
    assert "image.png is nearly black: 16-bit images are scaled by" in caplog.text
