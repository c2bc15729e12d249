"""`--data`: which images are found, with which labels and names, what is refused."""

import itertools
import os
import pickle
import random
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import REFERENCE, SmallNet
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as tv

from dai_plugin import measure
from dai_plugin.cli.images import image_size, load_images

SIDE = 8
RANDOM = np.random.default_rng(0)


def drawn(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def put(file, pixels=None):
    """Writes an image of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = drawn(SIDE, SIDE, 3) if pixels is None else pixels
    Image.fromarray(pixels).save(file)
    return pixels


def load(*sources, **options):
    given = {"resize": SIDE, "crop": SIDE, "channels": 3, **options}
    return load_images([str(source) for source in sources], **given)


def names(images):
    return [item[-1] for item in images]


def labels(images):
    return [item[1] for item in images]


@pytest.mark.parametrize("seed", range(10))
def test_every_image_of_a_random_tree_is_found_once(tmp_path, seed):
    """In the order of the paths, with its pixels; nothing else."""
    draw = random.Random(seed)
    folders = [tmp_path / "data"]
    for number in range(draw.randint(0, 6)):
        folders.append(
            draw.choice(folders) / draw.choice([f"d{number}", f"e{number}.png"])
        )
    expected = {}
    for number in range(draw.randint(2, 15)):
        name = draw.choice(["{}.png", "{}.PNG", "{} a,b.bmp", "{}\n.tif", '"{}.webp'])
        file = draw.choice(folders) / name.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = drawn(SIDE, SIDE, 3)
        options = {"lossless": True} if file.suffix == ".webp" else {}
        Image.fromarray(pixels).save(file, **options)
        expected[file] = pixels
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("notes.txt", "._0.png", ".hidden.png", ".DS_Store"):
            (folder / name).write_text("no image")
        put(folder / ".cache" / "a.png")
        put(folder / "__MACOSX" / "a.png")
    images = load(tmp_path / "data")
    files = sorted(expected)
    assert names(images) == [str(f.relative_to(tmp_path / "data")) for f in files]
    for file, item in zip(files, images, strict=True):
        assert np.array_equal(item[0].permute(1, 2, 0), expected[file])


def test_links_are_followed_and_each_file_is_taken_once(tmp_path, caplog):
    """To files and to folders; not to a folder that the link lies in."""
    for number in range(3):
        put(tmp_path / "data" / "real" / f"{number}.png")
        put(tmp_path / "elsewhere" / f"{number}.png")
        put(tmp_path / f"outside{number}.png")
    data = tmp_path / "data"
    (data / "a.png").symlink_to(tmp_path / "outside0.png")
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (data / "real" / "up").symlink_to("..")
    (data / "real" / "root").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    expected = [
        "a.png", "linked/0.png", "linked/1.png", "linked/2.png",
        "real/0.png", "real/1.png", "real/2.png",
    ]  # fmt: skip
    assert names(load(data)) == expected
    assert not caplog.messages
    (data / "0.png").symlink_to(data / "real" / "0.png")
    (data / "again").symlink_to(data / "real")
    assert names(load(data)) == expected  # a file comes before links to it
    assert "2 files or folders of --data are reached more than once" in caplog.text


def test_overlapping_folders_give_each_image_once(tmp_path, caplog):
    """In whichever order they are named; it is said."""
    for name in ("a/1.png", "a/b/2.png", "c/3.png"):
        put(tmp_path / name)
    for order in itertools.permutations([tmp_path, tmp_path / "a", tmp_path / "a/b"]):
        caplog.clear()
        images = load(*order, tmp_path / "c" / "3.png")
        found = {os.path.realpath(name) for name in names(images)}
        assert len(images) == len(found) == 3
        assert "are reached more than once" in caplog.text
    assert len(load(tmp_path, tmp_path)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_those_of_torchvisions_image_folder(tmp_path, seed):
    """Folders by name, those without images among them."""
    draw = random.Random(seed)
    kinds = draw.sample(["cat", "Dog", "9", "10", "zebra", "ä", "a b"], 4)
    for kind, number in itertools.product(kinds, range(3)):
        put(tmp_path / kind / f"{draw.random()}{number}.png")
    (tmp_path / f"{draw.choice('AMz')}empty").mkdir()
    images = load(tmp_path)
    expected = ImageFolder(tmp_path, allow_empty=True)
    assert images.classes == expected.classes
    assert labels(images) == expected.targets
    assert [str(tmp_path / name) for name in names(images)] == [
        file for file, _ in expected.samples
    ]


TREES = {
    "splits": (["train/cat/1", "train/dog/2", "val/cow/3"], ["cat", "cow", "dog"]),
    "flat": (["1", "2"], None),
    "some flat": (["cat/1", "dog/2", "3"], None),
    "deeper": (["cat/a/1", "dog/b/2"], None),
    "splits alone": (["train/1", "val/2"], None),
    "one class": (["cat/1", "cat/2"], None),
    "one class in two splits": (["train/cat/1", "val/cat/2"], None),
}


@pytest.mark.parametrize("tree", TREES)
def test_where_folders_are_classes(tmp_path, tree):
    """CLASS/image and SPLIT/CLASS/image; nothing is guessed of other trees."""
    files, classes = TREES[tree]
    for file in files:
        put(tmp_path / f"{file}.png")
    images = load(tmp_path)
    assert images.classes == classes
    assert {len(item) for item in images} == ({3} if classes else {2})
    if classes:
        found = [classes[label] for label in labels(images)]
        assert found == [name.split("/")[-2] for name in names(images)]


def test_labels_of_several_folders(tmp_path):
    """Kept where their classes are the same."""
    for part, kind in itertools.product("abc", ("cat", "dog")):
        put(tmp_path / part / (kind if part != "c" else f"wild{kind}") / "1.png")
    both = load(tmp_path / "a", tmp_path / "b")
    assert both.classes == ["cat", "dog"]
    assert labels(both) == [0, 1, 0, 1]
    assert names(both)[2] == str(tmp_path / "b" / "cat" / "1.png")
    assert load(tmp_path / "a", tmp_path / "c").classes is None


def test_files_of_other_kinds_are_said(tmp_path, caplog):
    """How many are left out, by suffix."""
    for name in ("1.png", "2.png"):
        put(tmp_path / name)
    for name in ("a/1.gif", "a/2.gif", "b.txt", ".c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert len(load(tmp_path)) == 2
    assert "3 files of --data are left out, being no images" in caplog.text
    assert "2 of '.gif', 1 of '.txt'" in caplog.text


def test_sizes_are_those_of_torchvision(tmp_path):
    """The shorter side resized with antialiasing, the centre cut out."""
    pixels = [put(tmp_path / f"{i}.png", drawn(20 + i, 33 - i, 3)) for i in range(3)]
    images = load(tmp_path, resize=15, crop=12)
    for item, original in zip(images, pixels, strict=True):
        tensor = torch.from_numpy(original).permute(2, 0, 1)
        expected = tv.center_crop(tv.resize(tensor, [15], antialias=True), [12])
        assert torch.equal(item[0], expected)
        assert item[0].dtype == torch.uint8
    assert load(tmp_path, channels=1)[0][0].shape == (1, SIDE, SIDE)


def test_names_reach_the_measures(tmp_path):
    """Through a loader with processes; bytes that are no text are spelt out."""
    odd = ["new\nline.png", "comma,.png", 'quo"te.png', "ü漢.png", " space.png"]
    for name in odd:
        put(tmp_path / "x" / name)
        put(tmp_path / "y" / name)
    os.rename(tmp_path / "y" / odd[0], os.fsencode(tmp_path) + b"/y/a\xff.png")
    loader = DataLoader(load(tmp_path), 3, num_workers=1)
    found = measure(
        SmallNet(), loader, measures="output", num_transforms=1, mean=0.0, std=1.0
    )
    assert sorted(found.names) == sorted(
        [f"x/{name}" for name in odd]
        + ["y/a\\xff.png"]
        + [f"y/{name}" for name in odd[1:]]
    )
    assert torch.equal(found.labels, torch.tensor([0] * 5 + [1] * 5))


def broken(folder, count):
    for number in range(count):
        file = folder / f"bad{number:02}.png"
        file.write_bytes(b"" if number % 2 else b"no image")


@pytest.mark.parametrize("count", [1, 10, 11, 25])
def test_all_unreadable_files_are_listed(tmp_path, count):
    """The first ten by name, and how many more, before anything runs."""
    for number in range(3):
        put(tmp_path / f"{number}.png")
    broken(tmp_path, count)
    with pytest.raises(ValueError, match=f"{count} of {count + 3} images") as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.count(".png (") == min(count, 10)
    assert (f" and {count - 10} more;" in message) == (count > 10)
    assert "--skip-unreadable" in message
    assert "\n" not in message


def test_unreadable_files_can_be_skipped(tmp_path):
    """They are listed, with the reason; the labels of the others stay."""
    for number, kind in itertools.product(range(4), "ab"):
        put(tmp_path / kind / f"{number}.png")
    broken(tmp_path / "a", 3)
    content = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "b" / "x\ny.png").symlink_to("nowhere")
    images = load(tmp_path, skip_unreadable=True)
    assert labels(images) == [0] * 4 + [1] * 3
    assert [line.split(" (")[0] for line in images.skipped] == [
        "a/bad00.png", "a/bad01.png", "a/bad02.png", "b/1.png", "'b/x\\ny.png'",
    ]  # fmt: skip
    assert "truncated" in images.skipped[3]
    assert load(tmp_path / "a" / "0.png", tmp_path / "a" / "1.png").skipped == []


def test_a_thin_strip_does_not_take_all_memory(tmp_path):
    """What it would be resized to counts."""
    for number in range(2):
        put(tmp_path / f"{number}.png")
    put(tmp_path / "strip.png", drawn(1, 5000, 3))
    assert load(tmp_path)[2][0].shape == (3, SIDE, SIDE)
    with pytest.raises(ValueError, match=r"strip\.png \(resized to a shorter side"):
        load(tmp_path, resize=224, crop=224)


def test_bombs_are_found_without_a_bare_warning(tmp_path):
    """By name, with all others."""
    for number in range(2):
        put(tmp_path / f"{number}.png")
    Image.new("1", (9500, 9500)).save(tmp_path / "bomb.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"bomb\.png \(9500 x 9500 are 90 million"):
            load(tmp_path)
    assert not caught


def test_a_set_of_nearly_black_16_bit_images_is_refused(tmp_path):
    """12 bits may be in it; one dark image among others is a dark image."""
    for number in range(3):
        values = RANDOM.integers(0, 2**12, (SIDE, SIDE)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    put(tmp_path / "8bit.png")
    with pytest.raises(ValueError, match="none of the 3 16-bit images has a value"):
        load(tmp_path)
    values = np.full((SIDE, SIDE), 2**15, np.uint16)
    Image.fromarray(values).save(tmp_path / "bright.png")
    assert len(load(tmp_path)) == 5


def test_animations_are_said(tmp_path, caplog):
    """How many, and one of them."""
    frames = [Image.fromarray(drawn(SIDE, SIDE, 3)) for _ in range(3)]
    put(tmp_path / "still.png")
    for name in ("a.webp", "b.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert len(load(tmp_path)) == 3
    assert "2 images have several frames (a.webp ...); the first one" in caplog.text


@pytest.mark.parametrize("limit", [2, 3, 7, 12, 50])
def test_a_part_is_spread_over_all(tmp_path, limit):
    """The same one each time, from every class."""
    for kind, number in itertools.product("abcd", range(3)):
        put(tmp_path / kind / f"{number}.png")
    images = load(tmp_path, limit=limit)
    assert len(images) == min(limit, 12)
    assert names(images) == names(load(tmp_path, limit=limit))
    assert len(set(labels(images))) == min(limit, 4)
    assert images.classes == list("abcd")


def test_what_holds_no_images(tmp_path, monkeypatch):
    """What was given, what is there, and what to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("a.heic", "b.heic", "c.txt"):
        (tmp_path / "other" / name).write_text("x")
    put(tmp_path / "one" / "1.png")
    (tmp_path / "packed" / "cifar-100-python").mkdir(parents=True)
    missing = {
        "nowhere": "the data folder nowhere does not exist, nor is it a data set: dig",
        "empty": "no images below the data folder empty: it holds no files; images end",
        "other": "it holds 2 of '.heic', 1 of '.txt'; images end in .jpg",
        "packed": "packed holds no image files, but what seems to be cifar100: give "
        "cifar100:packed",
        "cifar10": "the data set cifar10 has to lie somewhere: give cifar10:PATH",
        "tinyimagenet-train": "give tinyimagenet-train:PATH",
        "cifar100:no": "the folder no does not exist",
        "cifar10:empty": "empty/test_batch does not exist",
        "tinyimagenet:empty": "needs the folder train and val/val_annotations.txt",
    }
    for source, message in missing.items():
        with pytest.raises(FileNotFoundError, match=re.escape(message)):
            load(source)
    for source in ("one", "one/1.png"):
        with pytest.raises(ValueError, match=r"data holds one image .*; give more"):
            load(source)
    for options, message in (
        ({"channels": 5}, "the network takes 5 channels; image files have 1"),
        ({"limit": 0}, "must be at least 1, got 0"),
        ({"crop": 0}, "--crop 0: it must be from 1 to"),
    ):
        with pytest.raises(ValueError, match=message):
            load("one", **options)


SIZES = [
    ((None, None), (256, 224)),
    ((None, 64), (64, 64)),
    ((100, None), (100, 100)),
    ((300, None), (300, 224)),
    ((80, 64), (80, 64)),
    ((1, 1), (1, 1)),
]


@pytest.mark.parametrize(("given", "expected"), SIZES)
def test_sizes_are_those_asked_for_or_those_of_the_weights(given, expected):
    """A crop alone is of images of its size."""
    assert image_size(*given, 256, 224) == expected


@pytest.mark.parametrize("size", [0, -1, -224, 10**5])
def test_what_is_no_size_is_refused(size):
    """Zero is not "not given"."""
    for flag, given in (("--resize", (size, None)), ("--crop", (None, size))):
        message = f"{flag} {size}: it must be from 1 to 9459 pixels"
        with pytest.raises(ValueError, match=message):
            image_size(*given, 256, 224)
    with pytest.raises(ValueError, match="--crop 65 is larger than --resize 64"):
        image_size(64, 65, 256, 224)


def test_digits_are_those_of_training(monkeypatch):
    """The script trains on "digits-train" and tests on "digits"."""
    monkeypatch.syspath_prepend(str(REFERENCE))
    import data

    reference = data.load("digits", "")
    for source, part in (("digits", reference.test), ("digits-train", reference.train)):
        images = load(source, resize=16, crop=16)
        assert len(images) == len(part)
        assert images.classes == list("0123456789")
        for item, (expected, label) in zip(images, part, strict=True):
            assert torch.equal(item[0], expected)
            assert item[1] == label
    assert len(set(names(images))) == len(images)


def cifar(folder, kind, count):
    """Writes CIFAR in its files for Python; returns images and labels by part."""
    ten = kind == 10
    folder = folder / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir()
    key = "label" if ten else "fine_label"
    classes = [f"class{i}" for i in range(kind)]
    parts = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    found = {"train": ([], []), "test": ([], [])}
    for part in (*parts, "test_batch" if ten else "test"):
        data, kinds = drawn(count, 3072), RANDOM.integers(0, kind, count).tolist()
        content = {"data": data, f"{key}s": kinds, "batch_label": part}
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
        pixels, own = found["test" if part.startswith("test") else "train"]
        pixels.append(data.reshape(count, 3, 32, 32))
        own += kinds
    meta = folder / ("batches.meta" if ten else "meta")
    meta.write_bytes(pickle.dumps({f"{key}_names": classes}, protocol=2))
    return folder, classes, found


@pytest.mark.parametrize("kind", [10, 100])
@pytest.mark.parametrize("part", ["test", "train"])
def test_cifar_in_its_files_for_python(tmp_path, kind, part):
    """Where torchvision unpacks it, or the folder itself."""
    folder, classes, found = cifar(tmp_path, kind, 4)
    pixels, expected = found[part]
    name = f"cifar{kind}" + ("-train" if part == "train" else "")
    for place in (tmp_path, folder):
        images = load(f"{name}:{place}", resize=32, crop=32)
        assert images.classes == classes
        assert labels(images) == expected
        shown = torch.stack([item[0] for item in images])
        assert np.array_equal(shown, np.concatenate(pixels))
    with pytest.raises(ValueError, match="and no transparency"):
        load(f"{name}:{place}", channels=4)


class Opened:
    """Leaves a trace where its pickle is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_cifars_files_run_no_code(tmp_path):
    """Arrays alone are read from them; damage is named."""
    folder, _, _ = cifar(tmp_path, 10, 2)
    trace = tmp_path / "trace"
    file = folder / "test_batch"
    whole = file.read_bytes()
    rows = drawn(2, 3072)
    for content, message in (
        (
            pickle.dumps({"data": Opened(trace)}),
            "test_batch is no file of CIFAR's .*mk",
        ),
        (whole[: len(whole) // 2], "test_batch is no file of CIFAR's"),
        (b"", "test_batch is no file of CIFAR's"),
        (
            pickle.dumps({"data": rows, "fine_labels": [1, 2]}),
            "are not those of cifar-10",
        ),
        (pickle.dumps({"data": rows, "labels": [1]}), "are not those of cifar-10"),
        (pickle.dumps([1]), "are not those of cifar-10"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(f"cifar10:{tmp_path}")
    assert not trace.exists()


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    lines, kinds = [], ["n03", "n01", "n02"]
    for number, kind in enumerate(kinds):
        for i in range(2):
            put(root / "train" / kind / "images" / f"{kind}_{i}.JPEG")
        put(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{kind}\t0\t0\t62\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tiny_imagenet_as_a_folder_is_said(tiny, caplog):
    """All its images, and no labels."""
    images = load(tiny)
    assert images.classes is None
    assert len(images) == 9
    assert f"tinyimagenet:{tiny} gives its held-out images" in caplog.text


def test_digits_need_scikit_learn(monkeypatch):
    """It is said how to get them."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="the digits come with scikit-learn: pip"):
        load("digits")


def test_tiny_imagenet_in_its_own_layout(tmp_path, tiny):
    """Labels of held-out images come from the annotations."""
    for place in (tmp_path, tiny):
        images = load(f"tinyimagenet:{place}")
        assert images.classes == ["n01", "n02", "n03"]
        assert labels(images) == [2, 0, 1]
        assert names(images) == [f"val/images/val_{i}.JPEG" for i in range(3)]
        train = load(f"tinyimagenet-train:{place}")
        assert labels(train) == [0, 0, 1, 1, 2, 2]
        assert names(train)[0] == "train/n01/images/n01_0.JPEG"
    annotations = tiny / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn01\nval_1.JPEG\tn09\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .* gives 'n09', which is no folder"
    ):
        load(f"tinyimagenet:{tiny}")
    annotations.write_text("val_0.JPEG\tn01\nval_1.JPEG\tn02\nval_7.JPEG\tn02\n")
    with pytest.raises(
        ValueError, match=r"1 of 3 images .*val_7\.JPEG \(it is missing"
    ):
        load(f"tinyimagenet:{tiny}")


def test_what_exists_as_a_path_is_that(tmp_path, monkeypatch):
    """A folder of the name of a data set is the folder."""
    monkeypatch.chdir(tmp_path)
    assert len(load("digits")) == 360
    put(tmp_path / "digits" / "1.png")
    put(tmp_path / "digits" / "2.png")
    assert names(load("digits")) == ["1.png", "2.png"]
    put(tmp_path / "cifar10:x" / "1.png")
    assert len(load("cifar10:x", "digits")) == 3
