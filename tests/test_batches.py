"""Whatever a loader gives: the same images in each pass, or an error that says so."""

import logging
import random

import numpy as np
import pytest
import torch
from conftest import SmallNet
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from dai_plugin import invariance_scores, measure
from dai_plugin.measures.data import Batches

PIXELS = {"mean": 0.0, "std": 1.0}
COUNT = 12


def drawn(seed=0, count=COUNT, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, 10, 10, generator=generator)


class Augmented(Dataset):
    """Other pixels each time."""

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return drawn()[index] * (torch.rand(()) + 0.2), index


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(drawn())


class Stirred(IterableDataset):
    """The images in another order each time."""

    def __iter__(self):
        order = list(range(COUNT))
        random.shuffle(order)
        return iter(drawn()[order])


class Once:
    """Iterable, but for one pass."""

    def __init__(self):
        self.batches = iter(drawn().split(5))

    def __iter__(self):
        yield from self.batches


class Other:
    """Batches of its own in each pass."""

    def __init__(self, *passes):
        self.passes = iter(passes)

    def __iter__(self):
        yield from next(self.passes)


IMAGES = drawn()
LABELLED = TensorDataset(IMAGES, torch.arange(COUNT) % 5)
WEIGHTS = torch.linspace(0, 1, COUNT) ** 3
LAST = drawn().clone()
LAST[-1] = LAST[-1].flip(2)
DRAWING = {
    "shuffle": lambda: DataLoader(LABELLED, 5, shuffle=True),
    "shuffle, last dropped": lambda: DataLoader(
        LABELLED, 5, shuffle=True, drop_last=True
    ),
    "weights": lambda: DataLoader(
        LABELLED, 5, sampler=WeightedRandomSampler(WEIGHTS, COUNT)
    ),
    "subset": lambda: DataLoader(
        LABELLED, 5, sampler=SubsetRandomSampler(range(COUNT))
    ),
    "batches drawn": lambda: DataLoader(
        LABELLED, batch_sampler=BatchSampler(RandomSampler(LABELLED), 5, False)
    ),
}
RESTLESS = {
    "augmented": (lambda: DataLoader(Augmented(), 5), "gave other images"),
    "stirred stream": (lambda: DataLoader(Stirred(), 5), "in another order"),
    "wrapped": (lambda: Hidden(DRAWING["shuffle"]()), "in another order"),
    "once": (Once, "12 images in the first pass and 0 in a later one"),
    "fewer": (lambda: Other(IMAGES.split(5), [IMAGES[:5]]), "and 5 in a later one"),
    "more": (lambda: Other([IMAGES[:5]], IMAGES.split(5)), "from image 5 on"),
    "last": (lambda: Other(IMAGES.split(5), LAST.split(5)), "from image 11 on"),
    "mirrored": (lambda: Other([IMAGES], [IMAGES.flip(3)]), "gave other images"),
    "turned round": (lambda: Other([IMAGES], [IMAGES.flip(0)]), "in another order"),
}
STEADY = {
    "loader": lambda: DataLoader(LABELLED, 5),
    "stream": lambda: DataLoader(Streamed(), 5),
    "list": lambda: list(IMAGES.split(4)),
    "dicts": lambda: [{"image": images} for images in IMAGES.split(7)],
    "one by one": lambda: list(IMAGES.split(1)),
}


class Hidden:
    """Hides the loader's type."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(list(self.loader))


def scores(net, data):
    return invariance_scores(net, data, num_transforms=1, **PIXELS)


def measured(net, data):
    return measure(net, data, num_transforms=1, **PIXELS).scores


def passes(net, data, **options):
    """All that one pass tells."""
    batches = Batches(net, data, **{**PIXELS, "device": "cpu", **options})
    found = list(batches.batches())
    return batches, found


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("run", [scores, measured])
def test_a_loader_that_draws_is_refused_before_anything_runs(net, run, name):
    """Its second pass would give other images."""
    net.forward = None
    with pytest.raises(ValueError, match=r"draws its images by a \w*RandomSampler"):
        run(net, DRAWING[name]())


@pytest.mark.parametrize("name", RESTLESS)
@pytest.mark.parametrize("run", [scores, measured])
def test_data_that_changes_is_found_out(net, run, name):
    """Whatever the loader is."""
    random.seed(0)
    torch.manual_seed(0)
    make, message = RESTLESS[name]
    with pytest.raises(ValueError, match=message):
        run(net, make())


@pytest.mark.parametrize("name", STEADY)
def test_data_that_stays_the_same_is_measured(net, name):
    """The same numbers, however the images come."""
    expected = scores(net, IMAGES)
    for found in (scores(net, STEADY[name]()), measured(net, STEADY[name]())):
        for layer, values in expected.items():
            torch.testing.assert_close(found[layer], values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", ["dict", "tuple", "nested"])
def test_the_images_are_the_tensor_that_the_network_takes(channels, form):
    """Masks, depth and integer maps beside them are not, whichever comes first."""
    images = drawn(channels=channels)
    mask = torch.zeros(COUNT, 2, 10, 10)
    classes = torch.zeros(COUNT, channels, 10, 10, dtype=torch.int64)
    batch = {
        "dict": {"mask": mask, "classes": classes, "image": images},
        "tuple": (classes, mask, images),
        "nested": [{"a": (mask, torch.arange(3))}, (classes, {"z": images})],
    }[form]
    _, (found,) = passes(SmallNet(channels=channels), [batch])
    assert torch.equal(found.images, images)


def test_several_tensors_that_could_be_the_images(net, caplog):
    """The first is taken, and it is said once."""
    other = drawn(1)
    data = [(a, b) for a, b in zip(IMAGES.split(5), other.split(5), strict=True)]
    batches, found = passes(net, data)
    list(batches.batches())
    assert torch.equal(torch.cat([batch.images for batch in found]), IMAGES)
    said = [m for m in caplog.messages if "could be the images" in m]
    assert said == [
        "a batch holds several tensors that could be the images, of shapes "
        "[5, 3, 10, 10], [5, 3, 10, 10]; the first is taken"
    ]
    # Where none has the network's channels, the first is taken as well.
    _, (found,) = passes(nn.Flatten(), [(drawn(channels=2), drawn(channels=5))])
    assert found.images.shape[1] == 2


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16],
)
def test_labels_of_any_integer_dtype(net, dtype):
    """They are classes, whatever their width."""
    labels = torch.arange(COUNT) % 5
    data = [(torch.rand(COUNT), IMAGES, labels.to(dtype))]
    batches, (found,) = passes(net, data)
    assert torch.equal(batches.labels, labels)
    assert torch.equal(found.labels, labels)
    assert found.labels.dtype == torch.int64


@pytest.mark.parametrize(
    "labels",
    [
        nn.functional.one_hot(torch.arange(COUNT) % 5),
        torch.rand(COUNT, 5),
        torch.rand(COUNT),
        torch.ones(COUNT, dtype=torch.bool),
        torch.arange(COUNT - 1),
        torch.arange(COUNT)[:, None],
    ],
    ids=["one-hot", "soft", "numbers", "bool", "fewer", "column"],
)
def test_what_is_no_label(net, labels):
    """Nothing is guessed from it."""
    batches, _ = passes(net, [(IMAGES, labels)])
    assert batches.labels is None


def test_labels_can_be_dropped(net):
    """From then on there are none."""
    batches, _ = passes(net, DataLoader(LABELLED, 5))
    assert len(batches.labels) == COUNT
    batches.labelled = False
    assert all(batch.labels is None for batch in batches.batches())
    assert batches.labels is None


def test_names_are_kept_as_they_are(net):
    """Whatever is in them; as many as images, or none."""
    names = ["a,b", "new\nline", 'quo"te', "", "日本", *map(str, range(5, COUNT))]
    data = [(IMAGES[i : i + 5], names[i : i + 5]) for i in (0, 5, 10)]
    assert passes(net, data)[0].names == names
    assert passes(net, [(IMAGES, names[:-1])])[0].names is None
    assert passes(net, [*data[:2], IMAGES[10:]])[0].names is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("run", [scores, measured])
def test_pixels_that_are_not_finite_are_refused(net, run, value):
    """With the number of the image, and its name."""
    images = drawn()
    images[7, 1, 2, 3] = value
    with pytest.raises(ValueError, match="image 7 holds NaN or infinite pixels"):
        run(net, images)
    data = [(images[:5], list("abcde")), (images[5:], list("fghijkl"))]
    with pytest.raises(ValueError, match=r"image 7 \(h\) holds NaN or infinite"):
        run(net, data)
    with pytest.raises(ValueError, match="image 7 holds NaN or infinite pixels"):
        invariance_scores(net, images.half())


def test_images_of_several_sizes_are_refused(net):
    """Activations of all images are compared."""
    data = [IMAGES[:3], drawn()[:2, :, :8]]
    with pytest.raises(ValueError, match=r"image 3 is of size \[3, 8, 10\], those"):
        scores(net, data)


@pytest.mark.parametrize("scale", [255, 65535])
def test_floats_that_are_no_such_images_are_refused(net, scale):
    """With advice; a normalisation of none suits all values."""
    images = drawn() * scale
    with pytest.raises(ValueError, match="look like 0 to 255: divide"):
        invariance_scores(net, images)
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    with pytest.raises(ValueError, match="if they are 0 to 255, divide them by 255"):
        invariance_scores(net, images, **imagenet)
    invariance_scores(net, images, **PIXELS)
    invariance_scores(net, images, mean=0.0, std=1 / scale)
    standardised = 4 * torch.randn(COUNT, 3, 10, 10)
    invariance_scores(net, standardised, **imagenet)


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("images", [torch.float16, torch.float32, torch.uint8])
def test_network_and_images_of_two_dtypes(net, weights, images):
    """The network gets its own dtype; numbers agree with those of float32."""
    levels = (drawn() * 255).round()
    given = levels.byte() if images == torch.uint8 else (levels / 255).to(images)
    expected = scores(net, levels / 255)
    found = scores(net.to(weights), given)
    _, (batch,) = passes(net, given)
    assert batch.images.dtype == batch.pixels.dtype == torch.float32
    assert net.classifier.weight.dtype == weights
    for layer, values in expected.items():
        torch.testing.assert_close(found[layer], values, atol=0.06, rtol=0.06)
    predicted = measure(net, given, num_transforms=1, **PIXELS)
    assert predicted.tables["output"]["consistency"]["output"].shape == (COUNT, 1)


def test_the_digest_is_that_of_the_pixels(net, caplog):
    """Batches, dtypes and normalisations aside; order, pixels and sizes count."""
    levels = torch.randint(256, (COUNT, 3, 10, 10), dtype=torch.uint8)
    digest = passes(net, levels)[0].digest
    assert len(digest) == 16
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    column = (slice(None), None, None)
    carrying = (levels / 255 - mean[column]) / std[column]
    for data, options in (
        (levels.split(5), {}),
        (levels / 255, {}),
        (levels.contiguous(memory_format=torch.channels_last), {}),
        (carrying.split(7), {"mean": mean, "std": std}),
        (carrying.double(), {"mean": mean, "std": std}),
    ):
        batches, _ = passes(net, data, **options)
        assert batches.digest == digest
        list(batches.batches())
        assert batches.digest == digest
    changed = levels.clone()
    changed[-1, -1, -1, -1] ^= 1
    turned = levels.reshape(COUNT, 3, 5, 20)
    for other in (changed, levels.flip(0), levels[:-1], turned):
        assert passes(net, other)[0].digest != digest


def test_the_digest_by_its_definition(net):
    """SHA-256 of the size and the levels, in the order of the images."""
    import hashlib

    levels = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
    content = b"[3, 6, 5]" + levels.astype("<i2").tobytes()
    expected = hashlib.sha256(content).hexdigest()[:16]
    assert passes(net, torch.from_numpy(levels).split(3))[0].digest == expected


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.WARNING, "dai_plugin")
