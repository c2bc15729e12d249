"""Bad input gets a clear error and leaves nothing behind: all messages in one file."""

import copy
import math
import re

import kornia.augmentation as K
import pytest
import torch
import torch.nn.functional as F
from conftest import REFERENCE, TINY, SmallNet, named
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from dai_plugin import (
    DataAugmentationInvariance,
    Scheme,
    attach,
    attached,
    class_invariance_loss,
    invariance_loss,
    layer_weights,
    select_layers,
)

AS_THEY_ARE = {"mean": 0.0, "std": 1.0}


def hooks_of(*modules):
    return [
        hook
        for root in modules
        for module in root.modules()
        for hook in [
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
        ]
    ]


class OverridesCall(nn.CrossEntropyLoss):
    def __call__(self, *args):
        return super().__call__(*args)


REFUSED_AT_ATTACH = [
    ({"num_views": 0}, ValueError, "num_views must be at least 1, got 0"),
    ({"every": 0}, ValueError, "every must be at least 1, got 0"),
    ({"share": 0.0}, ValueError, "share must lie in (0, 1], got 0.0"),
    ({"share": 1.5}, ValueError, "share must lie in (0, 1], got 1.5"),
    ({"share": float("nan")}, ValueError, "share must lie in (0, 1], got nan"),
    ({"alpha": 1.5}, ValueError, "alpha and beta must lie in [0, 1]"),
    ({"beta": -0.1}, ValueError, "got alpha=0.1, beta=-0.1"),
    ({"alpha": 0.7, "beta": 0.4}, ValueError, "and so must their sum"),
    ({"correction": 2}, ValueError, "correction must be 0 or 1, got 2"),
    ({"first_view": "none"}, ValueError, "'clean' or 'augmented', got 'none'"),
    ({"when": "always"}, ValueError, "'training' or 'grad', got 'always'"),
    (
        {"sync": True, "beta": 0.1},
        ValueError,
        "leave it out (beta=0) or set sync=False",
    ),
    ({"layer_weights": [1, -1]}, ValueError, "none negative and not all zero"),
    ({"layer_weights": [0, 0]}, ValueError, "none negative and not all zero"),
    ({"layer_weights": [1, 2, 3]}, ValueError, "got 3 layer weights for 2 layers"),
    ({"layer_weights": "steep"}, ValueError, "unknown law of layer weights 'steep'"),
    ({"layer_weights": {"head": 1}}, KeyError, "names ['head'], which are not among"),
    ({"last_to_first": 0}, ValueError, "last_to_first must be positive, got 0"),
    ({"layers": "features.9"}, KeyError, "nearest: features"),
    ({"layers": ["clasifier"]}, KeyError, "nearest: classifier"),
    ({"layers": nn.LSTM}, ValueError, "chooses no layer of SmallNet"),
    ({"layers": lambda name, module: False}, ValueError, "chooses no layer"),
    ({"layers": 3}, TypeError, "(name, module) -> bool; got int"),
    ({"layers": [3]}, TypeError, "a layer is named by a str, got 3"),
    ({"scheme": "wild"}, ValueError, "unknown scheme 'wild': take one of light"),
    ({"scheme": 3}, TypeError, "a name, a Scheme or a callable, got int"),
    ({"mean": 0.5}, ValueError, "give mean and std together"),
    ({"mean": 0.5, "std": 0.0}, ValueError, "std must be positive"),
    ({"num_views": 2.5}, TypeError, "num_views must be an int, got 2.5"),
    ({"every": 2.0}, TypeError, "every must be an int, got 2.0"),
    ({"every": True}, TypeError, "every must be an int, got True"),
    ({"criterion": nn.CrossEntropyLoss}, TypeError, "instance: CrossEntropyLoss()"),
    ({"criterion": 3}, TypeError, "criterion must be a module, a callable, or None"),
    ({"criterion": OverridesCall()}, TypeError, "overrides __call__, which bypasses"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSED_AT_ATTACH, ids=named)
def test_attach_refuses(net, change, error, message):
    """The message names what was received; no hook is left behind."""
    arguments = {"criterion": nn.CrossEntropyLoss()} | change
    with pytest.raises(error, match=re.escape(message)):
        attach(net, **arguments)
    criterion = arguments["criterion"]
    assert isinstance(nn.CrossEntropyLoss, type)
    assert not hooks_of(net)
    if isinstance(criterion, nn.Module):
        assert not hooks_of(criterion)
    assert attached(net) is None


def test_attaching_twice(net):
    """One network carries one attachment, of either form; removed, it is free."""
    attachment = attach(net, nn.CrossEntropyLoss())
    with pytest.raises(RuntimeError, match="attached to this SmallNet already"):
        attach(net, nn.CrossEntropyLoss())
    with pytest.raises(RuntimeError, match="attached to this SmallNet already"):
        DataAugmentationInvariance(net)
    attachment.remove()
    DataAugmentationInvariance(net).remove()
    attach(copy.deepcopy(net), nn.CrossEntropyLoss())


def test_data_parallel(net):
    """DataParallel is refused with the way out."""
    parallel = nn.DataParallel(net)
    parallel.device_ids = [0, 1]
    with pytest.raises(TypeError, match=r"attach\(model.module, criterion\)"):
        attach(parallel, nn.CrossEntropyLoss())
    attach(net, nn.CrossEntropyLoss())
    replica = copy.copy(net)
    replica._is_replica = True  # as DataParallel marks those that it makes
    with pytest.raises(TypeError, match="accelerate launch"):
        replica(torch.rand(2, 3, 12, 12))


BAD_BATCHES = [
    (torch.rand(3, 12, 12), {}, "no batch of images [B, C, H, W]"),
    (torch.full((2, 3, 12, 12), math.nan), {}, "holds NaN or infinite values"),
    (torch.rand(2, 3, 12, 12), {"mean": (0.5, 0.5), "std": 0.5}, "mean has 2 values"),
    (torch.rand(2, 3, 12, 12), {"scheme": lambda x: x[:1]}, "it must keep the shape"),
    (
        torch.rand(2, 3, 12, 12),
        {"alpha_schedule": lambda step: 99},
        "alpha_schedule returned 99.0 at step 0",
    ),
]


@pytest.mark.parametrize(
    ("images", "options", "message"), BAD_BATCHES, ids=[m for *_, m in BAD_BATCHES]
)
def test_bad_batches(net, batch, images, options, message):
    """A refused batch raises a ValueError; the next good batch trains."""
    _, criterion = attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE | options)
    with pytest.raises(ValueError, match=re.escape(message)):
        net(images)
    if not options:
        criterion(net(batch[0]), batch[1]).backward()
        assert attached(net).stats()["missed"] == 0


def test_a_class_instead_of_a_network():
    """The parentheses were forgotten."""
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got <class"):
        attach(SmallNet, nn.CrossEntropyLoss())


def test_pixels_from_0_to_255(net):
    """Floats that were never scaled."""
    attach(net, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="look like 0 to 255: divide them by 255"):
        net(torch.rand(4, 3, 12, 12) * 255)


def test_a_guess_needs_a_known_number_of_channels():
    """Two channels of unknown range: the user must say."""
    net = SmallNet(channels=2)
    attach(net, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="carry no known normalisation: give mean="):
        net(torch.randn(4, 2, 12, 12))


def test_soft_labels_with_beta(net, batch):
    """Class invariance needs hard labels."""
    images, targets = batch
    _, criterion = attach(net, nn.CrossEntropyLoss(), beta=0.1, **AS_THEY_ARE)
    with pytest.raises(ValueError, match="needs hard labels"):
        criterion(net(images), F.one_hot(targets, 5).float())
    with pytest.raises(TypeError, match="needs hard labels"):
        class_invariance_loss(torch.rand(4, 3), torch.rand(4))


def test_dense_targets_with_moving_pixels():
    """Numbers of which nobody said what they are: photometric schemes, or targets=."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8, 8)
    _, criterion = attach(net, nn.MSELoss(), **AS_THEY_ARE)
    told = r'\[2, 2, 8, 8\] of torch.float32 belong to pixels.*use scheme="photometric"'
    with pytest.raises(ValueError, match=told):
        criterion(net(images), maps)
    attached(net).remove()
    dai = DataAugmentationInvariance(net, **AS_THEY_ARE)
    with pytest.raises(ValueError, match=told):
        dai.views(images, maps)
    dai.remove()
    with attach(net, criterion, scheme="photometric", **AS_THEY_ARE) as attachment:
        criterion(net(images), maps).backward()
        assert attachment.stats()["criterion_calls"] == 1
    with attach(net, criterion, num_views=1, **AS_THEY_ARE):
        criterion(net(images), maps).backward()  # the clean view moves nothing


@pytest.mark.parametrize(
    ("pipeline", "moves"),
    [
        (K.AugmentationSequential(K.RandomAffine(20.0)), True),
        (
            K.AugmentationSequential(K.ColorJiggle(0.1), K.RandomElasticTransform()),
            True,
        ),
        (K.AugmentationSequential(K.ColorJiggle(0.1), K.RandomGaussianNoise()), False),
        (v2.RandomHorizontalFlip(), True),
        (
            v2.Compose([v2.ColorJitter(0.1), v2.RandomApply([v2.RandomRotation(45)])]),
            True,
        ),
        (v2.Compose([v2.ColorJitter(0.1), v2.GaussianBlur(3)]), False),
        (v2.RandAugment(), True),
        (transforms.Compose([transforms.RandomResizedCrop(8)]), True),
        (transforms.Compose([transforms.ColorJitter(0.1)]), False),
    ],
    ids=repr,
)
def test_dense_targets_with_a_pipeline(pipeline, moves):
    """Kornia's and torchvision's geometry is known, in containers, too."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 8, 8)
    _, criterion = attach(net, nn.MSELoss(), scheme=pipeline, **AS_THEY_ARE)
    output = net(images)
    if not moves:
        return criterion(output, maps).backward()
    with pytest.raises(ValueError, match='scheme="photometric"'):
        criterion(output, maps)


def test_a_criterion_that_was_compiled_by_itself():
    """Its calls bypass hooks."""
    with pytest.raises(TypeError, match="attach, and call, the one that was given to"):
        attach(SmallNet(), torch.compile(nn.CrossEntropyLoss()))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", torch.rand(2, 8, 8), "targets \\[2, 8, 8\\] of torch.float32"),
        ("pixel_mask", torch.ones(2, 8, 8).long(), "pixel_mask .* as torch.bool it"),
        ("extra", torch.rand(2, 5, 8, 8), "two batches of images"),
        ("depth", torch.rand(2, 8, 8), 'use scheme="photometric"'),
    ],
)
def test_dense_arguments_of_a_network(name, values, message):
    """The name of a keyword tells whether it is a target."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())

        def forward(self, images, **others):
            return {"loss": self.conv(images).mean()}

    net = Own()
    attach(net, **AS_THEY_ARE)
    with pytest.raises(ValueError, match=message):
        net(torch.rand(2, 3, 8, 8), **{name: values})


def test_images_among_the_criterions_arguments_are_no_targets(net, batch):
    """Distillation losses take the inputs as well."""
    images, targets = batch
    _, criterion = attach(
        net, lambda x, o, t: F.cross_entropy(o, t) + 0 * x.sum(), **AS_THEY_ARE
    )
    criterion(images, net(images), targets).backward()
    assert attached(net).stats()["criterion_calls"] == 1


def test_removed_is_removed(net, batch):
    """remove() twice is once; a removed explicit form does not come back."""
    with attach(net, F.cross_entropy, **AS_THEY_ARE) as attachment:
        attachment.remove()
    dai = DataAugmentationInvariance(net, **AS_THEY_ARE)
    dai.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        dai.views(batch[0])
    assert not hooks_of(net)


def test_the_second_missed_forward_raises(net, batch, caplog):
    """A run without its loss is never silent: first a warning, then an error."""
    images, targets = batch
    attach(net, nn.CrossEntropyLoss(), **AS_THEY_ARE)
    for _ in range(2):
        F.nll_loss(net(images).log_softmax(1), targets).backward()
    assert "did not reach the criterion" in caplog.text
    with pytest.raises(RuntimeError, match="put log_softmax into the network"):
        net(images)
    assert attached(net).stats()["missed"] == 2


def test_missed_forwards_without_strict(net, batch):
    """strict=False counts and goes on."""
    attach(net, nn.CrossEntropyLoss(), strict=False, **AS_THEY_ARE)
    for _ in range(5):
        net(batch[0])
    assert attached(net).stats()["missed"] == 4


def test_a_layer_that_does_not_fire(batch):
    """A chosen layer outside the forward pass is an error, not a missing term."""
    net = SmallNet()
    net.unused = nn.Conv2d(3, 3, 1)
    attach(net, nn.CrossEntropyLoss(), layers=["features.2", "unused"], **AS_THEY_ARE)
    with pytest.raises(RuntimeError, match=r"\['unused'\] did not fire"):
        net(batch[0])
    assert attached(net).stats()["criterion_calls"] == 0


def test_a_layer_of_other_rows(batch):
    """An output without a row for each view is named."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.turn = nn.Conv2d(3, 5, 3), nn.Identity()

        def forward(self, x):
            return self.turn(self.conv(x).transpose(0, 1)).transpose(0, 1).mean((2, 3))

    net = Turned()
    attach(net, nn.CrossEntropyLoss(), layers="turn", **AS_THEY_ARE)
    with pytest.raises(RuntimeError, match=r"'turn' returned .* no tensor with 8 rows"):
        net(batch[0])


def test_a_criterion_that_returns_no_tensor(net, batch):
    """The terms need a tensor to be added to."""
    _, criterion = attach(net, lambda o, t: {"loss": 1.0}, **AS_THEY_ARE)
    with pytest.raises(TypeError, match="the criterion returned dict"):
        criterion(net(batch[0]), batch[1])


def test_no_criterion_and_no_loss_of_its_own(net, batch):
    """criterion=None needs a model that returns its loss."""
    attach(net, **AS_THEY_ARE)
    with pytest.raises(TypeError, match="means that the model returns its loss"):
        net(batch[0])


def test_the_explicit_form_needs_its_views(net, batch):
    """Loss without views, and a single image."""
    dai = DataAugmentationInvariance(net, **AS_THEY_ARE)
    with pytest.raises(RuntimeError, match="call views"):
        dai.loss(net(batch[0]).sum())
    with pytest.raises(
        ValueError, match=r"must be a batch \[B, C, H, W\], got \[3, 12"
    ):
        dai.views(batch[0][0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: invariance_loss(torch.rand(5, 3), 2), ValueError, "got 5 rows"),
        (lambda: invariance_loss(torch.rand(4, 3), 0), ValueError, "at least 1, got 0"),
        (lambda: invariance_loss(torch.ones(4, 3).int(), 2), TypeError, "floating"),
        (lambda: class_invariance_loss(torch.rand(4, 3), torch.arange(2)), ValueError,
         "got 2 labels for 4 rows"),
        (lambda: layer_weights(0), ValueError, "num_layers must be at least 1"),
        (lambda: layer_weights(2, 1.2), ValueError, "alpha must lie in [0, 1]"),
        (lambda: Scheme(zoom=1.0), ValueError, "zoom must be below 1"),
        (lambda: Scheme(rotation=-5), ValueError, "rotation must be a number"),
        (lambda: Scheme(flip=2), ValueError, "flip is a probability"),
        (lambda: Scheme(distribution="cauchy"), ValueError, "unknown distribution"),
        (lambda: select_layers(SmallNet(), "conv*"), KeyError, "nearest:"),
    ],
)  # fmt: skip
def test_functions_refuse(call, error, message):
    """Pure functions say what they received."""
    with pytest.raises(error, match=re.escape(message)):
        call()


WRONG = {
    "no data": (
        ["--dataset", "imagefolder", "--data-path", "nowhere"],
        FileNotFoundError,
        "the folder --data-path nowhere does not exist",
    ),
    "no classes": (
        ["--dataset", "imagefolder", "--data-path", REFERENCE],
        FileNotFoundError,
        "needs the folders train and val",
    ),
    "no model": (["--model", "allcnm"], ValueError, "no model 'allcnm'; there are"),
    "no width": (["--width", "2"], ValueError, "resnet18 has no width factor"),
    "no run": ([*TINY, "--resume", "nowhere"], FileNotFoundError, "there is no file"),
    "no scheme": ([*TINY[:4], "--scheme", "wild"], ValueError, "unknown scheme 'wild'"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(train, tmp_path, arguments, error, message):
    """A named error before anything is written."""
    output = tmp_path / "run"
    with pytest.raises(error, match=message):
        train(*arguments, "--output-dir", output)
    assert not output.exists()


def test_a_checkpoint_of_another_model(train, tmp_path):
    """The network that the checkpoint lacks is named."""
    train(*TINY, "--epochs", 1, "--output-dir", tmp_path)
    with pytest.raises(ValueError, match=r"--width was 0.04, is 0.05. What was"):
        train(*TINY, "--width", 0.05, "--resume", tmp_path)


def test_a_loss_that_is_no_number(train, tmp_path):
    """A learning rate that blows up stops the run with its name."""
    with pytest.raises(FloatingPointError, match="try a lower --lr"):
        train(*TINY, "--epochs", 3, "--lr", 1e18, "--output-dir", tmp_path)
