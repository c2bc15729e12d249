"""torchvision's augmentations: those of its reference's presets, at their place."""

import pytest
import torch
from conftest import REFERENCE
from launches import QUICK, assert_same_end, read
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC = v2.InterpolationMode.BICUBIC
BILINEAR = v2.InterpolationMode.BILINEAR  # AugMix knows no other that is smooth
POLICIES = {
    "ra": v2.RandAugment(interpolation=BICUBIC, magnitude=13),
    "ta_wide": v2.TrivialAugmentWide(interpolation=BICUBIC),
    "augmix": v2.AugMix(interpolation=BILINEAR, severity=5),
    "imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, BICUBIC),
    "cifar10": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, BICUBIC),
    "svhn": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, BICUBIC),
}


@pytest.fixture
def augmentations(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import augmentations

    return augmentations


def flags(*arguments):
    from flags import parse

    return parse([str(a) for a in arguments])


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_those_of_torchvision(augmentations, name):
    """With its magnitude, severity and interpolation, on the image that PIL has."""
    how = "bilinear" if name == "augmix" else "bicubic"
    ours = augmentations.of_image(
        flags("--auto-augment", name, "--ra-magnitude", 13, "--augmix-severity", 5,
              "--interpolation", how),
        MEAN,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for seed in range(12):
        image = torch.randint(256, (3, 20, 20), dtype=torch.uint8, generator=generator)
        torch.manual_seed(seed)
        expected = v2.functional.pil_to_tensor(
            POLICIES[name](v2.functional.to_pil_image(image))
        )
        torch.manual_seed(seed)
        got = ours(image)
        assert torch.equal(got, expected)
        changed += not torch.equal(got, image)
    assert changed > 6


def test_every_policy_of_torchvision_is_there(augmentations):
    """The words of its flag."""
    others = {policy.value for policy in v2.AutoAugmentPolicy}
    assert set(augmentations.POLICIES) == {"ra", "ta_wide", "augmix"} | others


def test_erasing_is_that_of_torchvision(augmentations):
    """The same rectangle, 0 once it is normalised, up to half a level of uint8."""
    ours = augmentations.of_image(flags("--random-erase", 0.6), MEAN)
    theirs = v2.RandomErasing(0.6)
    image = torch.randint(256, (3, 24, 24), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    erased = 0
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs((image / 255 - mean) / std)
        torch.manual_seed(seed)
        got = ours(image)
        assert got.dtype == torch.uint8
        bound = 0.51 / 255 / min(STD)
        assert ((got / 255 - mean) / std - expected).abs().max() < bound
        erased += not torch.equal(got, image)
    assert 6 <= erased <= 18


def test_nothing_is_nothing(augmentations):
    """Without the flags neither image nor batch is touched."""
    assert augmentations.of_image(flags(), MEAN) is None
    images, targets = torch.rand(4, 3, 5, 5), torch.arange(4)
    mixed = augmentations.of_batch(flags(), 4)(images, targets)
    assert mixed[0] is images
    assert mixed[1] is targets


def test_mixup_and_cutmix(augmentations):
    """Each alone is torchvision's; with both, one of them at random for a batch."""
    images, targets = torch.rand(6, 3, 8, 8), torch.arange(6)
    kinds = {"--mixup-alpha": v2.MixUp, "--cutmix-alpha": v2.CutMix}
    for flag, kind in kinds.items():
        theirs = kind(alpha=0.7, num_classes=6)
        for seed in range(3):
            torch.manual_seed(seed)
            expected = theirs(images, targets)
            torch.manual_seed(seed)
            got = augmentations.of_batch(flags(flag, 0.7), 6)(images, targets)
            for ours, other in zip(got, expected, strict=True):
                assert torch.equal(ours, other)
    both = augmentations.of_batch(flags("--mixup-alpha", 1, "--cutmix-alpha", 1), 6)
    # Cutmix keeps pixels; mixup makes new ones.
    kept = [torch.isin(both(images, targets)[0], images).all() for _ in range(40)]
    assert 8 < sum(kept) < 32


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_depends_on_its_place_alone(train, workers):
    """Whoever loads it; in memory, too, where there is something to do now."""
    from loaders import TrainingBatches
    from parts import InMemory

    pixels = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    data = InMemory(pixels, range(10))
    args = flags("-b", 4, "--auto-augment", "ra", "--workers", workers)
    import augmentations

    augment = augmentations.of_image(args, MEAN)
    batches = TrainingBatches(data, args, augment, 0, 1)
    found = {int(t): x for b in batches.epoch(1, 0) for x, t in zip(*b, strict=True)}
    later = {int(t): x for b in batches.epoch(1, 1) for x, t in zip(*b, strict=True)}
    assert len(later) == 6
    assert all(torch.equal(found[target], image) for target, image in later.items())
    again = {int(t): x for b in batches.epoch(2, 0) for x, t in zip(*b, strict=True)}
    assert any(not torch.equal(found[target], again[target]) for target in found)


def test_a_run_with_all_of_them_goes_on(train, tmp_path):
    """Augmented, erased, mixed and repeated images are the same after a resume."""
    flags = (
        *QUICK, "--train-images", 300, "--auto-augment", "ta_wide", "--random-erase",
        0.5, "--mixup-alpha", 0.2, "--cutmix-alpha", 1.0, "--ra-sampler", "--ra-reps",
        2, "--workers", 0, "--output-dir",
    )  # fmt: skip
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    train(*flags, parts, "--epochs", 1)
    train(*flags, parts, "--epochs", 2, "--resume", "auto")
    train(*flags, whole, "--epochs", 2)
    assert_same_end(parts, whole)
    assert all(0 < float(row["layer:features.23"]) < 2 for row in read(whole))
