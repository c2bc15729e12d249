"""Masks, maps, boxes and points move as the pixels of their images do."""

import itertools
import math
import random

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.geometry.transform import warp_affine
from torchvision import transforms
from torchvision.transforms import v2

from dai_plugin import Scheme
from dai_plugin.views.calls import forked_stream
from dai_plugin.views.composed import Composed
from dai_plugin.views.expand import expand
from dai_plugin.views.motion import Views, motion_of, move
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import find_scheme
from dai_plugin.views.warp import sampling_grid

CPU = torch.device("cpu")
# Kornia calls torch's affine_grid without saying which corners it means.
pytestmark = pytest.mark.filterwarnings("ignore:Default grid_sample")


def random_case(seed):
    """A scheme that moves pixels alone, sizes, and what was made of them."""
    rng = random.Random(seed)
    scheme = Scheme(
        flip=rng.choice([0.0, 0.5, 1.0]), translation=rng.choice([0.0, 0.3]),
        zoom=rng.choice([0.0, 0.4]), rotation=rng.choice([0.0, 70.0]),
        shear=rng.choice([0.0, 0.3]), contrast=0.0, brightness=0.0,
        distribution=rng.choice(["uniform", "normal", "extremes"]),
    )  # fmt: skip
    scheme = scheme if scheme.geometric else Scheme.light()
    batch, views = rng.randint(1, 3), rng.randint(1, 3)
    shape = torch.Size((batch, 4, rng.randint(5, 24), rng.randint(5, 24)))
    return scheme, Views(views, shape, rng.randint(0, 999), CPU)


def origins(motion):
    """Where each pixel of the views comes from, in float64: x and y `[N, H, W]`."""
    height, width = motion.made.size
    back = torch.linalg.inv(motion.matrices().double())
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    x, y, scale = (back @ pixels).unbind(1)
    return (x / scale).view(-1, height, width), (y / scale).view(-1, height, width)


def literal_masks(masks, motion, outside):
    """Of each pixel the label of the nearest one; and which are no near ties."""
    height, width = motion.made.size
    x, y = origins(motion)
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    column = x.round().long().clamp(0, width - 1)
    line = y.round().long().clamp(0, height - 1)
    repeated = masks.repeat(motion.made.views, 1, 1)
    rows = torch.arange(len(repeated))[:, None, None]
    found = torch.where(inside, repeated[rows, line, column].long(), outside)
    clear = torch.ones_like(inside)
    for place in (x, y):
        clear &= (place - place.floor() - 0.5).abs() > 1e-3
    return found, clear


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("dtype", [torch.long, torch.int16, torch.uint8])
def test_masks_are_those_of_the_nearest_pixel(seed, dtype):
    """As the formula says, in float64; what lies outside is marked exactly."""
    scheme, made = random_case(seed)
    masks = torch.randint(0, 9, (made.shape[0], *made.size)).to(dtype)
    motion = motion_of(scheme, made)
    moved = move(masks, "mask", motion, 200)
    expected, clear = literal_masks(masks, motion, 200)
    assert moved.dtype == dtype
    assert torch.equal(moved.long()[clear], expected[clear])


@pytest.mark.parametrize("seed", range(20))
def test_the_warp_of_a_coloured_mask_is_the_mask_of_the_warped_image(seed):
    """The fused pass and the mask, both with the nearest pixel: equal to the bit."""
    scheme, made = random_case(seed)
    masks = torch.randint(0, 7, (made.shape[0], *made.size))
    palette = torch.rand(7, 3)
    motion = motion_of(scheme, made)
    grid = sampling_grid(motion.matrices(), *made.size)
    colours = palette[masks].permute(0, 3, 1, 2).repeat(made.views, 1, 1, 1)
    seen = F.grid_sample(
        colours, grid, mode="nearest", padding_mode="border", align_corners=False
    )
    moved = move(masks, "mask", motion, -100)
    inside = moved != -100
    shown = palette[moved.clamp(min=0)].permute(0, 3, 1, 2)
    assert torch.equal(seen.movedim(1, 3)[inside], shown.movedim(1, 3)[inside])


@pytest.mark.parametrize("first_view", ["clean", "augmented"])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "half"])
@pytest.mark.parametrize("seed", range(8))
def test_views_show_what_their_masks_say(seed, layout, first_view):
    """Each label is a channel; the nearest pixel has a quarter of the weight."""
    scheme, made = random_case(seed)
    masks = torch.randint(0, 4, (made.shape[0], *made.size))
    images = F.one_hot(masks, 4).movedim(3, 1).float()
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    images = images.half() if layout == "half" else images
    start = first_view == "clean"
    rows = expand(
        images, made.views + start, scheme, first_view=first_view, seed=made.seed,
        normalization=Normalization(),
    )  # fmt: skip
    seen = rows.float().split(made.rows)[-1] if not start else rows[len(images) :]
    moved = move(masks, "mask", motion_of(scheme, made), -100)
    inside = moved != -100
    weight = seen.float().gather(1, moved.clamp(min=0)[:, None])[:, 0]
    assert (weight[inside] > 0.25 - 2e-3).all()
    sharp = inside & (seen.float().amax(1) > 0.76)  # so the nearest is among them
    assert torch.equal(seen.float().argmax(1)[sharp], moved[sharp])


@pytest.mark.parametrize("seed", range(12))
def test_kornia_warps_alike(seed):
    """`warp_affine` takes the same matrices; masks nearest, maps bilinear."""
    scheme, made = random_case(seed)
    motion = motion_of(scheme, made)
    masks = torch.randint(1, 9, (made.shape[0], *made.size))
    maps = torch.rand(made.shape[0], 2, *made.size)
    matrices = motion.matrices()[:, :2]

    def theirs(images, mode):
        repeated = images.float().repeat(made.views, 1, 1, 1)
        return warp_affine(repeated, matrices, made.size, mode, align_corners=False)

    _, clear = literal_masks(masks, motion, 0)
    expected = theirs(masks[:, None], "nearest")[:, 0].long()
    assert torch.equal(move(masks, "mask", motion, 0)[clear], expected[clear])
    torch.testing.assert_close(
        move(maps, "heatmap", motion, 0), theirs(maps, "bilinear"), atol=1e-3, rtol=0
    )


def test_masks_keep_their_shape_and_may_be_small():
    """`[B, 1, H, W]`, bool, and labels at a quarter of the resolution."""
    scheme, size = Scheme.light(flip=1.0, translation=0.0), (8, 12)
    motion = motion_of(scheme, Views(2, torch.Size((3, 3, *size)), 0, CPU))
    masks = torch.randint(5, (3, 1, *size))
    flipped = masks.flip(3).repeat(2, 1, 1, 1)
    assert torch.equal(move(masks, "mask", motion, -100), flipped)
    assert torch.equal(move(masks > 2, "mask", motion, 0), flipped > 2)
    small = torch.randint(5, (3, 2, 3))
    assert torch.equal(move(small, "mask", motion, -100), small.flip(2).repeat(2, 1, 1))


@pytest.mark.parametrize("seed", range(12))
def test_points_boxes_and_maps_agree(seed):
    """A bump in a map is where its point went; a box holds its corners' points."""
    rng = random.Random(seed)
    scheme = Scheme(translation=0.1, zoom=0.2, rotation=30.0, shear=0.2)
    height, width = rng.choice([(48, 64), (64, 64), (80, 56)])
    made = Views(3, torch.Size((2, 3, height, width)), seed, CPU)
    motion = motion_of(scheme, made)
    points = torch.rand(2, 4, 2) * torch.tensor([width - 1, height - 1])
    moved = move(points, "keypoints", motion, 0)
    matrices = motion.matrices().double()
    for row, k in itertools.product(range(6), range(4)):
        x, y = points[row % 2, k].double()
        at = matrices[row] @ torch.stack([x, y, torch.ones_like(x)])
        assert torch.allclose(moved[row, k].double(), at[:2], atol=1e-3)
    factor = rng.choice([1, 2, 4])
    own = height // factor, width // factor
    y, x = torch.meshgrid(torch.arange(own[0]), torch.arange(own[1]), indexing="ij")
    centres = (points + 0.5) / factor - 0.5
    away = (x - centres[..., None, None, 0]) ** 2 + (
        y - centres[..., None, None, 1]
    ) ** 2
    bumps = move(torch.exp(-away / 8), "heatmap", motion, 0)
    assert bumps.shape == (6, 4, *own)
    wanted = (moved + 0.5) / factor - 0.5
    for row, k in itertools.product(range(6), range(4)):
        column, line = wanted[row, k].tolist()
        if 3 < column < own[1] - 4 and 3 < line < own[0] - 4:
            peak = bumps[row, k].flatten().argmax().item()
            assert math.dist((peak % own[1], peak // own[1]), (column, line)) < 1.5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.long])
def test_boxes_are_the_hull_of_their_corners(seed, dtype):
    """Edges, half a pixel beside centres; cut at the border; integers rounded."""
    scheme, made = random_case(seed + 50)
    motion, (height, width) = motion_of(scheme, made), made.size
    low = torch.rand(made.shape[0], 3, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([low, low + torch.rand_like(low) * 0.4 * height], 2).to(dtype)
    moved = move(boxes, "boxes", motion, 0)
    for row, k in itertools.product(range(made.rows), range(3)):
        x1, y1, x2, y2 = (boxes[row % made.shape[0], k].double() - 0.5).tolist()
        corners = torch.tensor([[x1, x2, x2, x1], [y1, y1, y2, y2], [1.0] * 4])
        x, y, _ = motion.matrices()[row].double() @ corners.double() + 0.5
        x, y = x.clamp(0, width), y.clamp(0, height)
        expected = torch.stack([x.min(), y.min(), x.max(), y.max()])
        found = moved[row, k].double()
        assert torch.allclose(
            found, expected, atol=0.51 if dtype == torch.long else 1e-3
        )
    one = move(boxes[:, 0], "boxes", motion, 0)
    assert torch.equal(one, moved[:, 0])
    assert moved.dtype == dtype


NEAREST = {"resample": "nearest"}
PIPELINES = {
    "affine": lambda size: K.RandomAffine(30.0, (0.2, 0.2), (0.7, 1.3), **NEAREST),
    "flip": lambda size: K.RandomHorizontalFlip(p=0.5),
    "rotation": lambda size: K.RandomRotation(40.0, **NEAREST),
    "shear": lambda size: K.RandomShear(20.0, **NEAREST),
    "perspective": lambda size: K.RandomPerspective(0.5, p=1.0, **NEAREST),
    "crop": lambda size: K.RandomResizedCrop(size, **NEAREST),
    "reflected": lambda size: K.RandomAffine(
        40.0, padding_mode="reflection", **NEAREST
    ),
    "filled": lambda size: K.RandomAffine(
        40.0, padding_mode="fill", fill_value=torch.ones(3), p=1.0, **NEAREST
    ),
    "white": lambda size: K.RandomAffine(
        40.0, padding_mode="fill", fill_value=1.0, p=1.0, **NEAREST
    ),
    "elastic": lambda size: K.RandomElasticTransform(p=1.0, **NEAREST),
    "container": lambda size: K.AugmentationSequential(
        K.RandomVerticalFlip(), K.RandomAffine(30.0, p=0.7, **NEAREST),
        K.RandomCrop(size, padding=3), K.RandomGaussianNoise(std=0.01),
    ),
    "nested": lambda size: K.ImageSequential(
        K.RandomHorizontalFlip(), K.ImageSequential(K.RandomTranslate(0.3, **NEAREST))
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [(16, 16), (13, 22)])
@pytest.mark.parametrize("name", PIPELINES)
def test_masks_follow_kornia(name, size):
    """The numbers drawn for the images move the masks; real calls of the pipeline."""
    scheme = find_scheme(PIPELINES[name](size))
    masks = torch.randint(1, 6, (3, *size))
    images = (masks / 10)[:, None].repeat(1, 3, 1, 1)
    made = Views(2, images.shape, 5, CPU)
    rows = expand(
        images, 3, scheme, first_view="clean", normalization=Normalization(), seed=5
    )
    before = torch.get_rng_state()
    moved = move(masks, "mask", motion_of(scheme, made), 0)
    assert torch.equal(torch.get_rng_state(), before)
    seen = (rows[3:, 0] * 10).round().long()
    outside = moved == 0
    assert torch.equal(moved[~outside], seen[~outside])
    # Kornia leaves black, or what it was told to fill with, outside the image.
    assert set(seen[outside].unique().tolist()) <= {0, 10}
    assert outside.float().mean() < 0.7


class Mirror(v2.Transform):
    """A transform of the user's, which draws from the generator that it is given."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def make_params(self, flat_inputs):
        return {"goes": self.draw() < 0.5}

    def transform(self, inpt, params):
        return v2.functional.horizontal_flip(inpt) if params["goes"] else inpt


EXACT = {"interpolation": v2.InterpolationMode.NEAREST}
V2 = {
    "flip": lambda size: v2.RandomHorizontalFlip(),
    "turns": lambda size: v2.Compose(
        [v2.ColorJitter(1e-4), v2.RandomApply([v2.RandomRotation(45, **EXACT)], 0.7)]
    ),
    "moves": lambda size: v2.Compose(
        [v2.GaussianNoise(sigma=1e-4), v2.RandomAffine(30, (0.2, 0.2), **EXACT)]
    ),
    "bends": lambda size: v2.ElasticTransform(20.0, 1.0, **EXACT),
    "crop": lambda size: v2.RandomCrop(size, padding=3),
    "python": lambda size: v2.Compose([Mirror(random.random), v2.RandomVerticalFlip()]),
    "numpy": lambda size: v2.Compose([v2.RandomVerticalFlip(), Mirror(np.random.rand)]),
}


@pytest.mark.parametrize("name", V2)
def test_masks_follow_torchvision(name):
    """A second call with the same numbers moves a mask as the first moved the image."""
    size = (14, 19)
    scheme = find_scheme(V2[name](size))
    masks = torch.randint(1, 6, (3, *size))
    images = (masks / 10)[:, None].repeat(1, 3, 1, 1)
    rows = expand(
        images, 3, scheme, first_view="clean", normalization=Normalization(), seed=5
    )
    motion = motion_of(scheme, Views(2, images.shape, 5, CPU))
    moved = move(masks, "mask", motion, 0)
    assert torch.equal(moved, (rows[3:, 0] * 10).round().long())
    with pytest.raises(ValueError, match="moves them without telling where to"):
        move(torch.rand(3, 4, 2), "keypoints", motion, 0)


@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"elastic"}))
def test_places_follow_kornia(name):
    """Points as kornia's own key points, boxes as its own boxes where nothing turns."""
    size = (17, 24)
    scheme = find_scheme(PIPELINES[name](size))
    made = Views(2, torch.Size((3, 3, *size)), 5, CPU)
    motion = motion_of(scheme, made)
    points = torch.rand(3, 5, 2) * 16
    whole = K.AugmentationSequential(scheme, data_keys=["input", "keypoints"])
    images, repeated = torch.rand(6, 3, *size), points.repeat(2, 1, 1)
    with forked_stream(CPU, 5):
        _, theirs = whole(images, repeated)
    moved = move(points, "keypoints", motion, 0)
    torch.testing.assert_close(moved, theirs, atol=1e-3, rtol=1e-4)


def test_boxes_of_a_flip():
    """Edges of a mirrored box: width - x, as kornia and torchvision have it."""
    made = Views(1, torch.Size((2, 3, 10, 16)), 0, CPU)
    boxes = torch.tensor([[[2.0, 3.0, 7.0, 9.0]], [[0.0, 0.0, 16.0, 10.0]]])
    expected = torch.tensor([[[9.0, 3.0, 14.0, 9.0]], [[0.0, 0.0, 16.0, 10.0]]])
    for scheme in (
        Scheme.light(flip=1.0, translation=0.0),
        K.RandomHorizontalFlip(p=1.0),
    ):
        moved = move(boxes, "boxes", motion_of(scheme, made), 0)
        torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)


def test_nothing_moves_where_no_view_does():
    """Photometric schemes, and a single clean view."""
    made = Views(1, torch.Size((2, 3, 8, 8)), 0, CPU)
    assert motion_of(Scheme.photometric(), made) is None
    assert motion_of(K.ColorJiggle(0.1), made) is None
    assert motion_of(Scheme(), Views(0, made.shape, 0, CPU)) is None


@pytest.mark.parametrize("first", ["scheme", "kornia"])
def test_a_sum_moves_as_its_first_part(first):
    """Where the others leave pixels in their places: each label is a channel."""
    size = (20, 26)
    masks = torch.randint(0, 4, (3, *size))
    images = F.one_hot(masks, 4).movedim(3, 1).float()
    moving = {
        "scheme": Scheme(contrast=0.0, brightness=0.0),
        "kornia": K.RandomAffine(30.0, p=1.0),
    }
    scheme = Composed((moving[first], K.RandomGaussianNoise(std=1e-4)))
    rows = expand(
        images, 3, scheme, first_view="clean", normalization=Normalization(), seed=5
    )
    motion = motion_of(scheme, Views(2, images.shape, 5, CPU))
    moved = move(masks, "mask", motion, -100)
    inside = moved != -100
    weight = rows[3:].gather(1, moved.clamp(min=0)[:, None])[:, 0]
    assert (weight[inside] > 0.25 - 1e-2).float().mean() > 0.99
    assert 0.5 < inside.float().mean() < 1


UNKNOWN = {
    "a sum whose second part moves": Scheme() + K.RandomHorizontalFlip(),
    "a named scheme": "randaugment",
    "sequence": torch.nn.Sequential(K.RandomRotation(20.0), K.RandomHorizontalFlip()),
    "spline": K.RandomThinPlateSpline(p=1.0),
    "policies": K.auto.RandAugment(2, 10),
    "torchvision's policies": v2.RandAugment(),
    "torchvision's first version": transforms.RandomRotation(20),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_motion_that_cannot_be_known_is_refused(name):
    """The error names the scheme and what would do."""
    made = Views(1, torch.Size((2, 3, 8, 8)), 0, CPU)
    motion = motion_of(find_scheme(UNKNOWN[name]), made)
    with pytest.raises(ValueError, match='scheme="photometric"'):
        move(torch.zeros(2, 8, 8, dtype=torch.long), "mask", motion, 0)


def test_what_moves_by_no_matrix_takes_masks_alone():
    """Key points and maps under an elastic deformation are refused by its name."""
    made = Views(1, torch.Size((2, 3, 8, 8)), 0, CPU)
    motion = motion_of(K.RandomElasticTransform(p=1.0), made)
    move(torch.zeros(2, 8, 8, dtype=torch.long), "mask", motion, 0)
    with pytest.raises(ValueError, match="RandomElasticTransform in the scheme moves"):
        move(torch.rand(2, 3, 2), "keypoints", motion, 0)
