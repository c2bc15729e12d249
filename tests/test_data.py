"""Data sets of the reference script: uint8 images, parts, files, and their order."""

import functools
import re

import pytest
import torch
from conftest import REFERENCE
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

CLASSES = ("n01443537", "n01629819", "n01641577")


@pytest.fixture(autouse=True)
def _reference(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))


@pytest.fixture
def data():
    import data

    return data


def colour(label, shade):
    return (40 + 60 * label, shade, 200)


def square(label, shade=0, size=64):
    return Image.new("RGB", (size, size), colour(label, shade))


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet with three classes, four training and two held-out images each."""
    root = tmp_path / "tiny-imagenet-200"
    lines = []
    (root / "val" / "images").mkdir(parents=True)
    for label, name in enumerate(CLASSES):
        (root / "train" / name / "images").mkdir(parents=True)
        for i in range(4):
            file = root / "train" / name / "images" / f"{name}_{i}.JPEG"
            square(label, 50 * i).save(file, quality=95)
        for i in range(2):
            file = f"val_{2 * label + i}.JPEG"
            square(label).convert("L" if i else "RGB").save(
                root / "val" / "images" / file
            )
            lines.append(f"{file}\t{name}\t0\t0\t62\t62")
    # The original's lines come in no order of the classes.
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]) + "\n")
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    """An image folder with two classes of different sizes."""
    for part, counts in (("train", (9, 3)), ("val", (2, 2))):
        for label, (name, count) in enumerate(zip(("cat", "dog"), counts, strict=True)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                square(label, 20 * i, size=12).save(folder / f"{i}.jpg", quality=95)
    return tmp_path


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_images_are_uint8_at_the_size_of_the_preset(data, name):
    """What the loader delivers, in memory and image by image."""
    images = data.load(name, "")
    side = images.preset.crop
    for part in (images.train, images.test):
        loader = DataLoader(part, 8)
        batch, targets = next(iter(loader))
        assert batch.dtype == torch.uint8
        assert batch.shape == (8, 3, side, side)
        assert batch.float().std() > 10
        assert targets.dtype == torch.int64
        assert set(targets.tolist()) <= set(range(10))


def test_cifar_is_held_in_two_tensors(data, monkeypatch):
    """Its channels come first; nothing is decoded again."""
    pixels = torch.randint(256, (20, 32, 32, 3), dtype=torch.uint8)

    class Stored:
        def __init__(self, path, train, download):
            self.data = pixels.numpy() if train else pixels[:5].numpy()
            self.targets = list(range(10)) * 2 if train else [3] * 5
            self.classes = list("abcdefghij")

    monkeypatch.setattr(data, "CIFAR10", Stored)
    images = data.load("cifar10", "nowhere")
    assert (len(images.train), len(images.test), images.num_classes) == (20, 5, 10)
    image, target = images.train[13]
    assert torch.equal(image, pixels[13].permute(2, 0, 1))
    assert target == 3


@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet", "digits"])
def test_normalize_is_that_of_torchvision(name):
    """uint8 images and the same in [0, 1] give what a worker's transforms gave."""
    from presets import PRESETS

    preset = PRESETS[name]
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    kept = images.clone()
    pixels = v2.functional.to_dtype(images, torch.float32, scale=True)
    expected = v2.functional.normalize(pixels, preset.mean, preset.std)
    for given in (images, pixels, pixels.double()):
        got = preset.normalize(given)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)
    assert torch.equal(images, kept)
    last = images.contiguous(memory_format=torch.channels_last)
    assert preset.normalize(last).is_contiguous(memory_format=torch.channels_last)


def test_normalize_copies_its_constants_once(monkeypatch):
    """A copy from the host at each step would wait for the device."""
    from presets import PRESETS

    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    PRESETS["cifar10"].normalize(images)

    def refused(*args, **kwargs):
        raise AssertionError("a tensor is made of numbers again")

    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refused)
    PRESETS["cifar10"].normalize(images)


def test_normalize_refuses_other_integers():
    """int64 pixels would be taken for something in [0, 1]."""
    from presets import PRESETS

    with pytest.raises(TypeError, match=r"dtype torch\.int64: pass uint8"):
        PRESETS["cifar10"].normalize(torch.zeros(1, 3, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize("below", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(data, tiny, below):
    """Every image comes with its class; grey ones become colour; 64 pixels."""
    images = data.load("tinyimagenet", tiny / below)
    assert (len(images.train), len(images.test), images.num_classes) == (12, 6, 3)
    assert images.preset.mean == (0.4802, 0.4481, 0.3975)
    for label in range(3):
        for i in range(4):
            image, target = images.train[4 * label + i]
            assert target == label
            assert image.dtype == torch.uint8
            assert image.shape == (3, 64, 64)
            expected = torch.tensor(colour(label, 50 * i)).float()
            assert (image.float().mean((1, 2)) - expected).abs().max() < 3
    held_out = [images.test[i] for i in range(6)]
    assert [target for _, target in held_out] == [2, 2, 1, 1, 0, 0]
    reds = [image[0].float().mean().item() for image, _ in held_out[1::2]]
    assert reds == pytest.approx([160, 100, 40], abs=3)
    assert all(image.shape == (3, 64, 64) for image, _ in held_out)


def without_train(root):
    (root / "train").rename(root / "training")


def without_annotations(root):
    (root / "val" / "val_annotations.txt").unlink()


def without_a_classs_images(root):
    (root / "train" / CLASSES[1] / "images").rename(root / "elsewhere")


def without_an_annotated_image(root):
    (root / "val" / "images" / "val_3.JPEG").unlink()


def with_a_strange_class(root):
    file = root / "val" / "val_annotations.txt"
    file.write_text(file.read_text().replace(CLASSES[0], "n99", 1))


def with_spaces_for_tabs(root):
    file = root / "val" / "val_annotations.txt"
    file.write_text(file.read_text().replace("\t", " "))


BROKEN = [
    (without_train, FileNotFoundError, "needs the folder train and the file"),
    (without_annotations, FileNotFoundError, "val/val_annotations.txt"),
    (without_a_classs_images, FileNotFoundError, f"no images in .*{CLASSES[1]}"),
    (without_an_annotated_image, FileNotFoundError, "line 3 of .* names val_3.JPEG"),
    (with_a_strange_class, ValueError, r"line 5 of .* is 'val_1.JPEG\\tn99"),
    (with_spaces_for_tabs, ValueError, "line 1 of .* must be a file, a tab"),
]


@pytest.mark.parametrize(
    ("damage", "error", "message"), BROKEN, ids=[d.__name__ for d, *_ in BROKEN]
)
def test_tiny_imagenet_that_is_not_whole(data, tiny, damage, error, message):
    """The missing file, or the line that does not fit, stands in the message."""
    damage(tiny / "tiny-imagenet-200")
    with pytest.raises(error, match=message):
        data.load("tinyimagenet", tiny)


def test_tiny_imagenet_that_is_not_there(data, tmp_path):
    """The path, as it was given."""
    with pytest.raises(FileNotFoundError, match=r"--data-path .*none does not exist"):
        data.load("tinyimagenet", tmp_path / "none")


def test_image_folders_with_other_classes(data, pictures):
    """The class that one part alone has is named."""
    (pictures / "val" / "dog").rename(pictures / "val" / "fox")
    with pytest.raises(ValueError, match=r"different classes: \['dog', 'fox'\]"):
        data.load("imagefolder", pictures)


def damaged(kind, file):
    content = file.read_bytes()
    cut = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"Hello"}
    file.write_bytes(cut[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_damaged_image_is_named(data, tiny, kind):
    """The images before it are delivered, and the decoder's error is the cause."""
    images = data.load("tinyimagenet", tiny)
    file = images.train.files[2]
    damaged(kind, file)
    delivered = []
    message = f"{re.escape(str(file))} cannot be read: .*; copy it again"
    with pytest.raises(ValueError, match=message) as caught:
        delivered.extend(DataLoader(images.train, 2))
    assert isinstance(caught.value.__cause__, OSError)
    ((before, _),) = delivered
    assert before.shape == (2, 3, 64, 64)


def test_a_damaged_image_of_an_image_folder(data, pictures):
    """The same message: there is one place that reads images."""
    images = data.load("imagefolder", pictures)
    damaged("truncated", pictures / "train" / "cat" / "4.jpg")
    assert images.train[3][0].shape == (3, 12, 12)
    with pytest.raises(ValueError, match=r"train/cat/4\.jpg cannot be read: "):
        images.train[4]


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "CMYK"])
def test_any_kind_of_image_is_read_in_colour(tmp_path, mode):
    """A palette's numbers are no colours, and a fourth channel is none."""
    from folders import read_image
    from presets import for_images

    file = tmp_path / "image.tif"
    square(1, 90, size=16).convert(mode).save(file)
    image = for_images(16).transforms()(read_image(file))
    expected = torch.tensor(colour(1, 90) if mode != "L" else (105,) * 3)
    assert image.shape == (3, 16, 16)
    assert (image.float().mean((1, 2)) - expected).abs().max() < 3


def test_a_part_of_the_images(data, pictures):
    """As many of each class as there are; the rest from the others; the same always."""
    load = functools.partial(data.load, "imagefolder", pictures)
    counts = {2: (1, 1), 6: (3, 3), 8: (5, 3), 12: (9, 3)}
    for count, expected in counts.items():
        train = load(train_images=count).train
        targets = [target for _, target in train]
        assert (targets.count(0), targets.count(1)) == expected
    torch.manual_seed(1)
    first = load(train_images=6, test_images=2)
    torch.manual_seed(2)
    again = load(train_images=6)
    assert first.train.indices == again.train.indices == sorted(first.train.indices)
    assert set(first.train.indices) <= set(load(train_images=8).train.indices)
    assert (len(first.test), len(again.test)) == (2, 4)
    assert first.num_classes == 2


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_a_part_of_any_data_set(data, name):
    """Real images with their own labels, drawn from all over the data set."""
    whole, part = data.load(name, "").train, data.load(name, "", train_images=100).train
    images = {image.numpy().tobytes(): target for image, target in whole}
    got = [(image.numpy().tobytes(), target) for image, target in part]
    assert len({image for image, _ in got}) == 100
    assert all(images[image] == target for image, target in got)
    counts = torch.tensor([target for _, target in got]).bincount(minlength=10)
    assert counts.tolist() == [10] * 10
    first = {image.numpy().tobytes() for image, _ in (whole[i] for i in range(100))}
    assert len(first & {image for image, _ in got}) < 70


@pytest.mark.parametrize("count", [0, -1, 1438])
def test_a_part_larger_than_the_whole(data, count):
    """The number there is stands in the message."""
    message = f"--train-images {count}: the data set has 1437; give a number from 1 to"
    with pytest.raises(ValueError, match=message):
        data.load("digits", "", train_images=count)
    with pytest.raises(ValueError, match="--test-images 361: the data set has 360"):
        data.load("digits", "", test_images=361)


SIZES = [
    ({}, (12, 12), (12, 12)),
    ({"train_crop": 8}, (8, 8), (12, 12)),
    ({"train_crop": 20}, (20, 20), (20, 20)),
    ({"train_crop": 4, "resize": 8}, (4, 4), (8, 8)),
    ({"train_crop": 6, "crop": 8, "resize": 12}, (6, 9), (8, 12)),
    ({"crop": 10}, (10, 10), (10, 10)),
]


@pytest.mark.parametrize(("wanted", "train", "held_out"), SIZES)
def test_sizes_in_training_and_testing(data, pictures, wanted, train, held_out):
    """Of any data set; training shows the same part of a picture, at its own size."""
    from presets import Wanted

    images = data.load("imagefolder", pictures, Wanted(**wanted))
    for part, (crop, resize) in ((images.train, train), (images.test, held_out)):
        assert part[0][0].shape == (3, crop, crop)
        assert part.transform.transforms[2].size == [resize]
    for name, side in (("digits", 20), ("fake", 40)):
        images = data.load(name, "", Wanted(train_crop=side, crop=side + 4))
        assert images.train[0][0].shape == (3, side, side)
        assert images.test[0][0].shape == (3, side + 4, side + 4)


def test_interpolation_is_that_of_torchvision(data, pictures):
    """Resized pixels are those of torchvision's own function."""
    from presets import Wanted

    image = v2.functional.pil_to_tensor(Image.open(pictures / "train/dog/1.jpg"))
    for kind in ("nearest", "bilinear", "bicubic"):
        images = data.load("imagefolder", pictures, Wanted(30, interpolation=kind))
        expected = v2.functional.resize(image, [30], v2.InterpolationMode(kind))
        assert torch.equal(images.train[10][0], expected)


def test_a_crop_larger_than_the_image(data, pictures):
    """The rest would be black; the flags that change it stand in the message."""
    from presets import Wanted

    message = r"crop of 12 x 12 pixels is larger .* --val-resize-size 10, and would be"
    with pytest.raises(ValueError, match=message):
        data.load("imagefolder", pictures, Wanted(crop=12, resize=10))
    with pytest.raises(ValueError, match=r"crop of 20 x 20 .* --val-resize-size 16"):
        data.load("digits", "", Wanted(crop=20, resize=16))


def test_images_held_in_memory_are_the_same(data, pictures):
    """Pixels and classes of the files, which may be gone by then."""
    stock = data.load("imagefolder", pictures)
    expected = [list(part) for part in (stock.train, stock.test)]
    held = data.load("imagefolder", pictures, hold=True)
    for folder in ("train", "val"):
        (pictures / folder).rename(pictures / f"{folder} away")
    for part, images in zip((held.train, held.test), expected, strict=True):
        assert len(part) == len(images)
        for (image, target), (pixels, kind) in zip(part, images, strict=True):
            assert torch.equal(image, pixels)
            assert target == kind


def test_more_images_than_memory(data, monkeypatch):
    """Their size and the machine's stand in the message."""
    sizes = {"SC_PHYS_PAGES": 100, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", sizes.get)
    with pytest.raises(
        ValueError, match=r"--cache-dataset: 256 images need 0\.0 GiB, "
    ):
        data.load("fake", "", hold=True)
