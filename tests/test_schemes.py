"""Callable schemes: each row draws its own numbers, and what cannot train is named."""

import functools

import kornia.augmentation as K
import oracle
import pytest
import torch
from conftest import named
from kornia.augmentation.auto import AutoAugment, RandAugment, TrivialAugment
from torch import nn
from torchvision.transforms import v2

from dai_plugin import Scheme
from dai_plugin.views.expand import expand
from dai_plugin.views.named import NAMED
from dai_plugin.views.normalization import PRESETS, Normalization
from dai_plugin.views.pipelines import ImageByImage
from dai_plugin.views.policies import Named
from dai_plugin.views.schemes import Given, find_scheme, moves_pixels

IMAGENET = Normalization.given(*PRESETS[3]["ImageNet"])


def rows_of(images, scheme, num_views=3, **options):
    options = {
        "first_view": "augmented",
        "normalization": Normalization(),
        "seed": 0,
    } | options
    return expand(images, num_views, find_scheme(scheme), **options)


ONCE_A_BATCH = {
    "RandAugment": RandAugment(2, 10),
    "TrivialAugment": TrivialAugment(),
    "AutoAugment": AutoAugment("cifar10"),
    "in a sequence": nn.Sequential(nn.Sequential(RandAugment(1, 20))),
    "in kornia's container": K.AugmentationSequential(
        K.RandomHorizontalFlip(), TrivialAugment(), data_keys=["input"]
    ),
    "random_apply": K.AugmentationSequential(
        K.RandomAffine(20.0, p=1.0), K.ColorJiggle(0.4), random_apply=1
    ),
    "crop at times": K.RandomResizedCrop((12, 10), p=0.5),
    "both libraries": nn.Sequential(RandAugment(1, 20), v2.RandomHorizontalFlip()),
}


@pytest.mark.parametrize("name", ONCE_A_BATCH)
def test_what_draws_once_a_batch_goes_row_by_row(name):
    """Each row is the pipeline's answer to that row alone, from one random stream."""
    pipeline = ONCE_A_BATCH[name]
    images = torch.rand(4, 3, 12, 10)
    rows = rows_of(images, pipeline, seed=11)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        alone = [pipeline(image[None]) for image in images.repeat(3, 1, 1, 1)]
    torch.testing.assert_close(rows, torch.cat(alone), atol=1e-6, rtol=0)
    assert moves_pixels(find_scheme(pipeline))


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugment", "in a sequence"])
def test_views_of_an_image_get_operations_of_their_own(name):
    """One image many times over: hardly two rows agree."""
    rows = rows_of(torch.rand(1, 3, 12, 10).repeat(16, 1, 1, 1), ONCE_A_BATCH[name], 2)
    assert len({tuple(row.flatten().tolist()) for row in rows}) > 12


@pytest.mark.parametrize(
    "pipeline",
    [
        K.RandomAffine(15.0, p=1.0),
        nn.Sequential(K.RandomCrop((12, 10), padding=2), K.ColorJiggle(0.2)),
        K.AugmentationSequential(K.Resize((12, 10)), K.RandomErasing()),
        K.RandomJigsaw((2, 2)),
        lambda x: x + torch.rand(x.shape[0], 1, 1, 1) * 0.1,
    ],
    ids=named,
)
def test_what_draws_for_each_row_is_called_once(pipeline):
    """Pipelines that draw row by row stay as they are."""
    assert find_scheme(pipeline) is pipeline
    assert rows_of(torch.rand(4, 3, 12, 10), pipeline).shape == (12, 3, 12, 10)


MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
REFUSED = {
    "mixup": (K.RandomMixUpV2(p=1.0), "holds RandomMixUpV2, which mixes images"),
    "cutmix": (
        K.RandomCutMixV2(use_correct_lambda=True),
        "holds RandomCutMixV2, which mixes",
    ),
    "mosaic": (K.RandomMosaic((12, 10)), "holds RandomMosaic, which mixes"),
    "transplantation": (
        K.AugmentationSequential(
            K.RandomTransplantation(), data_keys=["input", "mask"]
        ),
        "holds RandomTransplantation, which mixes",
    ),
    "v2 mixup": (v2.MixUp(num_classes=3), "holds MixUp, which mixes"),
    "v2 cutmix": (
        v2.RandomChoice([v2.CutMix(num_classes=3), v2.MixUp(num_classes=3)]),
        "which mixes images of a batch",
    ),
    "nested": (
        nn.Sequential(K.RandomAffine(9.0), K.ImageSequential(K.RandomMixUpV2())),
        "holds RandomMixUpV2",
    ),
    "partial": (
        functools.partial(K.RandomCutMixV2(use_correct_lambda=True)),
        "holds RandomCutMixV2",
    ),
    "normalize": (K.Normalize(MEAN, STD), "holds Normalize, but schemes take"),
    "v2 normalize": (
        v2.Compose([v2.RandomCrop(10), v2.Normalize(MEAN.tolist(), STD.tolist())]),
        "mean= and std= say what the images carry",
    ),
    "same": (K.RandomAffine(9.0, same_on_batch=True), "RandomAffine in the scheme has"),
    "same container": (
        K.AugmentationSequential(K.RandomAffine(9.0), same_on_batch=True),
        "has same_on_batch=True, so that all views",
    ),
    "same inside": (
        nn.Sequential(K.ColorJiggle(0.1), K.ColorJiggle(0.1, same_on_batch=True)),
        "ColorJiggle in the scheme has same_on_batch=True",
    ),
    "method": (K.RandomAffine(9.0, same_on_batch=True).forward, "same_on_batch=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_scheme_may_hold_is_refused_by_name(name):
    """Mixing, normalising and one draw a batch, at any depth."""
    pipeline, message = REFUSED[name]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        find_scheme(pipeline)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=named
)
@pytest.mark.parametrize("check", [False, True])
def test_a_scheme_returns_floats(dtype, check):
    """Integers are refused in every step."""
    with pytest.raises(TypeError, match=f"returned {dtype}; it must return floating"):
        rows_of(torch.rand(2, 3, 4, 4), lambda x: (x * 255).to(dtype), check=check)


@pytest.mark.parametrize("other", [None, "x", (torch.rand(6, 3, 4, 4),)], ids=named)
def test_a_scheme_returns_a_tensor_of_the_same_shape(other):
    """Nothing, something else, and lists of tensors are refused."""
    with pytest.raises(ValueError, match="it must keep the shape"):
        rows_of(torch.rand(2, 3, 4, 4), lambda x: other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checked_scheme_returns_finite_numbers(value):
    """NaN of finite images is refused."""

    def spoil(x):
        return x.index_fill(3, torch.tensor([1]), value)

    with pytest.raises(ValueError, match="returned NaN or infinite values for finite"):
        rows_of(torch.rand(2, 3, 4, 4), spoil, check=True)


def draw(x):
    return x * torch.rand(x.shape[0], 1, 1, 1)


SUSPICIOUS = {
    "to 255": (lambda x: draw(x) * 255, "it must return pixels in [0, 1]: is there a"),
    "normalised": (
        lambda x: (draw(x) - 0.45) / 0.22,
        "it must return pixels in [0, 1]",
    ),
    "identity": (lambda x: x, "gives every view of an image the same pixels"),
    "flip": (lambda x: x.flip(3), "must draw random numbers for each of its rows"),
    "kernel": (nn.AvgPool2d(3, 1, 1), "gives every view of an image the same pixels"),
}


@pytest.mark.parametrize("name", SUSPICIOUS)
@pytest.mark.parametrize("normalization", [Normalization(), IMAGENET], ids=named)
def test_what_a_scheme_returns_is_checked(name, normalization, caplog):
    """Values out of range and equal views: one warning with the scheme's name."""
    scheme, message = SUSPICIOUS[name]
    mean, std = normalization.tensors(torch.rand(1, 3, 1, 1))
    images = (torch.rand(3, 3, 6, 5) - mean) / std
    unchecked = rows_of(images, scheme, normalization=normalization)
    assert not caplog.records
    rows = rows_of(images, scheme, normalization=normalization, check=True)
    assert torch.equal(rows, unchecked)
    assert [message in record.getMessage() for record in caplog.records] == [True]
    assert repr(scheme) in caplog.text


@pytest.mark.parametrize(
    "scheme",
    [
        "heavier",
        draw,
        lambda x: x + torch.randn_like(x) * 0.02,
        K.RandomHorizontalFlip(p=0.5),
        v2.RandomHorizontalFlip(p=0.5),
        RandAugment(2, 10),
        v2.RandAugment(),
    ],
    ids=named,
)
@pytest.mark.parametrize("reach", [1.0, 4.0])
def test_good_schemes_pass_the_check(scheme, reach, caplog):
    """Random pipelines raise no warning, on images beyond [0, 1] neither."""
    images = torch.rand(8, 3, 8, 8)
    images = images if isinstance(scheme, nn.Module) else images * reach
    rows_of(images, scheme, 2, first_view="clean", check=True)
    assert not caplog.records


def test_a_fixed_change_beside_a_clean_view_is_one(caplog):
    """A mirror image differs from the clean view; a copy of it does not."""
    images = torch.rand(3, 3, 6, 5)
    rows_of(images, lambda x: x.flip(3), 2, first_view="clean", check=True)
    assert not caplog.records
    rows_of(images, lambda x: x, 2, first_view="clean", check=True)
    assert "the same pixels" in caplog.text


def test_a_scheme_of_no_range_is_told(caplog):
    """All views are the same then."""
    rows_of(torch.rand(2, 3, 4, 4), Scheme(0, 0, 0, 0, 0, 0, 0), check=True)
    assert "the scheme changes nothing (uniform): all views" in caplog.text


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
@pytest.mark.parametrize("scheme", ["heavier", "light", "photometric"])
@pytest.mark.parametrize(
    "normalization",
    [Normalization(), IMAGENET, Normalization.given(0.4, 0.3)],
    ids=named,
)
def test_a_gradient_reaches_the_images_through_all_views(
    scheme, first_view, normalization
):
    """Rows as without a gradient; the gradient is that of the formula in float64."""
    mean, std = normalization.tensors(torch.rand(1, 3, 1, 1))
    images = (torch.rand(2, 3, 6, 7) - mean) / std
    options = {"first_view": first_view, "normalization": normalization, "seed": 4}
    plain = rows_of(images, scheme, **options)
    wanted = images.clone().requires_grad_()
    rows = rows_of(wanted, scheme, **options)
    torch.testing.assert_close(rows.detach(), plain, atol=1e-6, rtol=0)
    cotangent = torch.randn(rows.shape)
    (gradient,) = torch.autograd.grad(rows, wanted, cotangent)
    literal, expected = literal_views(images, find_scheme(scheme), **options)
    # Beside a bound the literal value and float32 may round to its two sides.
    torch.testing.assert_close(rows.double(), literal, atol=1e-4, rtol=0)
    (exact,) = torch.autograd.grad(literal, expected, cotangent.double())
    error = (gradient.double() - exact).norm() / exact.norm()
    assert error < 1e-4


def literal_views(images, scheme, first_view, normalization, seed):
    """Three views in float64 and the leaf that they depend on."""
    leaf = images.double().requires_grad_()
    mean, std = (each.double() for each in normalization.tensors(images))
    start = 1 if first_view == "clean" else 0
    count = (3 - start) * len(images)
    drawn = scheme.draw(count, generator=torch.Generator().manual_seed(seed))
    rows = list(leaf) if start else []
    for row in range(count):
        p = {name: values[row].item() for name, values in drawn.items()}
        pixels = leaf[row % len(images)] * std + mean
        if scheme.geometric:
            matrix = oracle.affine_matrix(
                p["flip"], p["zoom_x"], p["zoom_y"], p["rotation"], p["shear"],
                p["shift_x"] * images.shape[3], p["shift_y"] * images.shape[2],
            )  # fmt: skip
            pixels = oracle.warp(pixels, matrix)
        if scheme.colours:
            pixels = oracle.colour(pixels, p["contrast"], p["brightness"])
        rows.append((pixels - mean) / std)
    return torch.stack(rows), leaf


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64], ids=named
)
def test_dtype_and_memory_format_are_kept_with_a_gradient(dtype):
    """Rows come as the images came, and the network's weights play no part."""
    images = torch.rand(3, 3, 6, 8).to(dtype).to(memory_format=torch.channels_last)
    plain = rows_of(images, "heavier")
    rows = rows_of(images.requires_grad_(), "heavier")
    assert (rows.dtype, rows.stride()) == (dtype, plain.stride())
    torch.testing.assert_close(rows.detach(), plain)
    with torch.no_grad():
        assert not rows_of(images, "heavier").requires_grad


@pytest.mark.parametrize("normalization", [Normalization(), IMAGENET], ids=named)
@pytest.mark.parametrize("first_view", ["clean", "augmented"])
def test_a_gradient_passes_through_a_callable_scheme(first_view, normalization):
    """A gain and a mirror image a row: the gradient is the gain, mirrored back."""
    images = torch.rand(2, 3, 4, 5).requires_grad_()

    def gain(x):
        return x.flip(3) * torch.arange(1.0, len(x) + 1).view(-1, 1, 1, 1)

    options = {"first_view": first_view, "normalization": normalization}
    rows = rows_of(images, gain, **options)
    cotangent = torch.randn(rows.shape)
    (gradient,) = torch.autograd.grad(rows, images, cotangent)
    start = 2 if first_view == "clean" else 0
    gains = torch.tensor([1.0] * start + list(range(1, 7 - start))).view(-1, 1, 1, 1)
    turned = torch.cat([cotangent[:start], cotangent[start:].flip(3)])
    expected = (gains * turned).view(3, 2, 3, 4, 5).sum(0)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        rows.detach(), rows_of(images.detach(), gain, **options), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "pipeline",
    [
        K.RandomAffine(15.0, p=1.0),
        K.ColorJiggle(0.2, 0.2, p=1.0),
        TrivialAugment(),
        v2.RandomResizedCrop((4, 5)),
    ],
    ids=named,
)
def test_libraries_let_the_gradient_through(pipeline):
    """Kornia's and torchvision's pipelines, called once or image by image."""
    images = torch.rand(2, 3, 4, 5).requires_grad_()
    rows_of(images, pipeline).square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_a_scheme_that_cuts_the_gradient_is_told(caplog):
    """Images that require one, through uint8 or numpy: the views send none."""
    images = torch.rand(2, 3, 4, 5)
    scheme = ImageByImage(lambda x: draw(x[None])[0].detach())
    rows_of(images, scheme, check=True)
    assert not caplog.records
    rows_of(images.requires_grad_(), scheme, check=True)
    assert "which the scheme" in caplog.text
    assert "does not let through: none reaches them" in caplog.text


@pytest.mark.parametrize("kind", [Scheme, Given, *NAMED.values()])
def test_a_class_of_ours_is_one_with_its_usual_strengths(kind):
    """As the settings promise."""
    found = find_scheme(kind)
    assert type(found) is kind
    assert str(found) == str(kind())


TAKES_NO_BATCH = {
    "torchvision": (v2.RandomHorizontalFlip, "the class RandomHorizontalFlip, .*give"),
    "kornia": (K.RandomAffine, "the class RandomAffine, .*give an object of it"),
    "Named": (Named, "the class Named"),
    "a factory": (lambda: None, r"called with a batch .*too many positional arg"),
    "two batches": (lambda images, masks: None, "and nothing else.*'masks'"),
    "a keyword": (lambda images, *, p: None, "nothing else.*'p'"),
}


@pytest.mark.parametrize("name", TAKES_NO_BATCH)
def test_what_does_not_take_a_batch_is_refused(name):
    """Before a step, with what is called how."""
    scheme, message = TAKES_NO_BATCH[name]
    with pytest.raises(TypeError, match=message):
        find_scheme(scheme)


@pytest.mark.parametrize(
    "scheme",
    [torch.sigmoid, torch.nn.Sigmoid(), functools.partial(torch.clamp, min=0, max=1),
     lambda *images: images[0], lambda images, p=0.5: images],
)  # fmt: skip
def test_other_callables_are_taken(scheme):
    """With a signature or without one."""
    assert find_scheme(scheme) is scheme
