"""Scores agree with the literal formula and depend on nothing they should not."""

import copy
import weakref

import kornia.augmentation as K
import oracle
import pytest
import torch
import torchvision
from conftest import SmallNet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dai_plugin import Scheme, attach, invariance_scores, select_layers
from dai_plugin.measures.versions import Transformations
from dai_plugin.views.expand import mix_seed, transform
from dai_plugin.views.normalization import Normalization

PIXELS = {"mean": 0.0, "std": 1.0}


@pytest.fixture
def images():
    return torch.rand(11, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def transformed(images, k, seed=0, normalization=None):
    """Transformation k of all images, drawn as one stream."""
    scheme = Scheme.halved()
    drawn = scheme.draw(
        len(images), generator=torch.Generator().manual_seed(mix_seed(seed, k))
    )
    out = torch.empty_like(images)[None]
    return transform(images, scheme, drawn, normalization or Normalization(), out=out)[
        0
    ]


@pytest.mark.parametrize("layers", ["auto", "features.*"])
def test_scores_agree_with_all_pairs(net, images, layers):
    """Each score is the formula over all pairs of images, overwritten layers too."""
    net.eval()
    scores = invariance_scores(net, images, layers=layers, num_transforms=2, **PIXELS)
    assert list(scores) == ["input", *select_layers(net, layers)]
    for k in range(2):
        views = transformed(images, k)
        expected = oracle.invariance_scores(images, views)
        torch.testing.assert_close(
            scores["input"][:, k].double(), expected, atol=1e-5, rtol=0
        )
        a, b = images, views
        for i, module in enumerate(net.features):
            a, b = module(a.clone()), module(b.clone())
            if f"features.{i}" in scores:
                expected = oracle.invariance_scores(a.detach(), b.detach())
                got = scores[f"features.{i}"][:, k].double()
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_scores_do_not_depend_on_batches(net, images):
    """Batches of any size, and the same numbers from a loader with labels."""
    whole = invariance_scores(net, images, **PIXELS)
    loader = DataLoader(TensorDataset(images, torch.arange(11)), batch_size=4)
    for data in (images.split(3), loader):
        for name, scores in invariance_scores(net, data, **PIXELS).items():
            assert scores.shape == (11, 5)
            torch.testing.assert_close(scores, whole[name], atol=1e-5, rtol=0)


def test_pixel_scores_depend_on_the_images_alone(net, images):
    """Model, normalisation and dtype of the data leave the pixel space as it is."""
    expected = invariance_scores(net, images, **PIXELS)["input"]
    other = invariance_scores(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()), images, **PIXELS
    )
    assert torch.equal(other["input"], expected)
    normalised = invariance_scores(net, (images - 0.4) / 0.2, mean=0.4, std=0.2)[
        "input"
    ]
    torch.testing.assert_close(normalised, expected, atol=1e-5, rtol=0)
    integers = (images * 255).round().byte()
    rounded = invariance_scores(net, integers, mean=0.4, std=0.2)
    as_floats = invariance_scores(net, (integers / 255 - 0.4) / 0.2, mean=0.4, std=0.2)
    for name, scores in rounded.items():
        torch.testing.assert_close(scores, as_floats[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [4, 11])
def test_any_pipeline_scores_the_same_in_any_batch(net, images, batch):
    """Callable schemes are seeded by image and transformation as well."""
    pipeline = K.AugmentationSequential(K.RandomAffine(10.0, p=1.0))
    scores = invariance_scores(
        net, images.split(batch), scheme=pipeline, num_transforms=2, **PIXELS
    )
    again = invariance_scores(net, images, scheme=pipeline, num_transforms=2, **PIXELS)
    torch.testing.assert_close(scores["input"], again["input"])
    assert (scores["input"][:, 0] - scores["input"][:, 1]).abs().max() > 0.01


def test_identity_scores_one_and_a_still_network_nan(net, images, caplog):
    """Nothing moved: 1. Nothing to compare: NaN and one warning."""
    still = invariance_scores(net, images, scheme=lambda x: x, **PIXELS)
    assert all(scores.eq(1).all() for scores in still.values())
    nn.init.zeros_(net.features[3].weight)
    dead = invariance_scores(net, images, **PIXELS)
    assert dead["features.4"].isnan().all()
    assert dead["features.2"].isfinite().all()
    assert sum("NaN" in r.getMessage() for r in caplog.records) == 1
    alone = invariance_scores(net, images[:1], **PIXELS)
    assert alone["input"].isnan().all()  # one image is as far from all as from itself


def test_the_model_is_left_as_it_was(net, images):
    """Mode, hooks, buffers and an attachment survive."""
    net.features[1].eval()
    before = copy.deepcopy(net.state_dict())
    with attach(net, nn.CrossEntropyLoss(), **PIXELS) as attachment:
        invariance_scores(net, images, **PIXELS)
        assert attachment.stats()["forwards"] == 0
    assert net.training
    assert not net.features[1].training
    assert not any(m._forward_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_data_must_last_for_two_passes(net, images):
    """Generators are refused, empty data and shuffling too."""
    with pytest.raises(TypeError, match="one-shot generator"):
        invariance_scores(net, (batch for batch in images.split(4)))
    for empty in ([], images[:0]):
        with pytest.raises(ValueError, match="data holds no images"):
            invariance_scores(net, empty)
    with pytest.raises(ValueError, match="give mean and std together"):
        invariance_scores(net, images, mean=0.5)
    with pytest.raises(ValueError, match="holds no images"):
        invariance_scores(net, [torch.rand(3)])
    with pytest.raises(ValueError, match="num_transforms must be at least 1, got 0"):
        invariance_scores(net, images, num_transforms=0)
    shuffled = DataLoader(TensorDataset(images), batch_size=4, shuffle=True)
    with pytest.raises(ValueError, match="draws its images by a RandomSampler"):
        invariance_scores(net, shuffled, num_transforms=1, **PIXELS)


def test_layers_that_share_a_module_are_kept_apart():
    """A ReLU that fires twice has two scores."""
    net = torchvision.models.resnet18(num_classes=4)
    images = torch.rand(4, 3, 32, 32)
    scores = invariance_scores(
        net, images, layers="layer1.0.relu", num_transforms=1, **PIXELS
    )
    assert list(scores) == ["input", "layer1.0.relu", "layer1.0.relu:1"]


def test_memory_does_not_grow_with_the_images():
    """What is kept for each image is its scores."""
    net = SmallNet()

    class Endless:
        def __init__(self, batches):
            self.batches = batches
            self.alive = []

        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            for _ in range(self.batches):
                images = torch.rand(4, 3, 12, 12, generator=generator)
                self.alive.append(weakref.ref(images))
                yield images

    data = Endless(20)
    invariance_scores(net, data, num_transforms=1, **PIXELS)
    assert len(data.alive) == 40
    assert sum(ref() is not None for ref in data.alive) <= 1


def test_batches_may_differ_in_memory_format(net):
    """Scores are those of the same images in one format."""
    images = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    mixed = [images[:4], images[4:].contiguous(memory_format=torch.channels_last)]
    one = invariance_scores(net, [images[:4], images[4:]], mean=0.0, std=1.0)
    other = invariance_scores(net, mixed, mean=0.0, std=1.0)
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("callable_scheme", [False, True])
def test_processes_that_take_turns_transform_as_one(images, callable_scheme):
    """Each process has every second batch; the last ones are filled up."""
    scheme = Scheme.halved()
    if callable_scheme:
        scheme = K.AugmentationSequential(K.RandomAffine(10.0, p=1.0))
    known = Normalization.given(0.0, 1.0)
    one = Transformations(scheme, 2, 5)
    expected = [list(one(batch, known)) for batch in images.split(3)]
    expected = torch.cat([torch.stack(versions, 1) for versions in expected])
    filled = torch.cat([images, images[:1]]).split(3)
    for rank in range(2):
        own = Transformations(scheme, 2, 5, rank, 2)
        for number in (rank, rank + 2):
            versions = torch.stack(list(own(filled[number], known)), 1)
            right = expected[3 * number : 3 * number + 3]
            torch.testing.assert_close(versions[: len(right)], right)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_their_channels_last_are_refused(channels):
    """Scores of [B, H, W, C] would be those of other pictures."""
    images = torch.rand(8, 12, 10, channels)
    with pytest.raises(ValueError, match=r"look like \[B, H, W, C\]"):
        invariance_scores(SmallNet(channels=12), images, mean=0.0, std=1.0)


def test_scores_of_what_enters_the_classifier_and_of_the_output(net):
    """Words that name a place instead of a module."""
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pooled = nn.Sequential(net.features, nn.Flatten())
    options = {"mean": 0.0, "std": 1.0}
    for word, place in (("penultimate", pooled), ("output", net)):
        scores = invariance_scores(net, images, layers=word, **options)
        whole = nn.Sequential(place)
        expected = invariance_scores(whole, images, layers=["0"], **options)
        assert len(scores) == 2
        for one, other in zip(scores.values(), expected.values(), strict=True):
            torch.testing.assert_close(one, other)


def test_a_layer_may_give_one_number_an_image():
    """Activations `[B]` are rows of one feature."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(0, -1))
    net[2].forward = lambda x: x.mean((1, 2, 3))
    images = torch.rand(6, 3, 8, 8)
    found = invariance_scores(net, images, layers=["2"], mean=0, std=1)
    assert found["2"].shape == (6, 5)
    assert found["2"].isfinite().all()
