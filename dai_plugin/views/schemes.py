"""What may happen to an image: ranges, sampling, and the paper's named schemes.

A scheme is one affine map and then one colour change, in [0, 1] pixels. With (x, y) in
pixels from the centre of the image, x to the right and y down, the map is

    [x']   [f*zx*cos(t)   -zy*sin(t+s)   tx] [x]
    [y'] = [f*zx*sin(t)    zy*cos(t+s)   ty] [y]

from input to output: flip f = -1 or 1, zoom z > 1 magnifies, a positive rotation t
turns clockwise on the screen, s is the shear. Colour is `g * (x - mean) + mean + b`,
with the mean of each channel over the warped image, and one clip to [0, 1].
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from dai_plugin.views import pipelines
from dai_plugin.views.composed import Composed, Summand
from dai_plugin.views.named import NAMED
from dai_plugin.views.pipelines import Transform as Transform
from dai_plugin.views.policies import Named

Parameters = dict[str, Tensor]

_DISTRIBUTIONS = ("uniform", "normal", "extremes")
_PARAMETERS = (
    "flip",  # -1 or 1
    "shift_x",  # fraction of the width
    "shift_y",  # fraction of the height
    "zoom_x",
    "zoom_y",
    "rotation",  # radians
    "shear",  # radians
    "contrast",  # gain g
    "brightness",
)


@dataclass(frozen=True)
class Scheme(Summand):
    """Ranges and distribution of random transformations; the default is "heavier".

    Change single values with keywords: `Scheme.heavier(flip=0.0)`. What is added runs
    after it: `Scheme.heavier() + kornia.augmentation.RandomErasing()`.

    Attributes:
        flip: probability of a horizontal flip.
        translation: bound of the shift, as a fraction of width and of height.
        zoom: bound of the zoom about 1, drawn for each axis.
        rotation: bound of the rotation in degrees.
        shear: bound of the shear in radians.
        contrast: bound of the contrast gain about 1.
        brightness: bound of the brightness offset, in [0, 1] pixels.
        distribution: "uniform" within the bounds (the paper's table), "normal" (bounds
            at two standard deviations, truncated there), or "extremes" (each parameter
            at plus or minus its bound).

    Raises:
        ValueError: a bound is negative or makes the map singular, `flip` is no
            probability, or the distribution is unknown.
    """

    flip: float = 0.5
    translation: float = 0.10
    zoom: float = 0.15
    rotation: float = 22.5
    shear: float = 0.15
    contrast: float = 0.5
    brightness: float = 0.25
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        bounds = dataclasses.asdict(self)
        if bounds.pop("distribution") not in _DISTRIBUTIONS:
            raise ValueError(
                f"unknown distribution {self.distribution!r}: take one of "
                f"{', '.join(_DISTRIBUTIONS)}"
            )
        for name, value in bounds.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number from 0 up, got {value}")
        if self.flip > 1:
            raise ValueError(f"flip is a probability in [0, 1], got {self.flip}")
        if self.zoom >= 1 or self.shear >= math.pi / 2:
            raise ValueError(
                f"zoom must be below 1 and shear below pi/2, or an image collapses to "
                f"a line; got zoom={self.zoom}, shear={self.shear}"
            )

    @classmethod
    def heavier(cls, **changes: Any) -> Self:
        """The paper's heavier augmentation: all of flip, affine map and colour."""
        return dataclasses.replace(cls(), **changes)

    @classmethod
    def light(cls, **changes: Any) -> Self:
        """The paper's light augmentation: horizontal flip and translation."""
        light = cls(zoom=0.0, rotation=0.0, shear=0.0, contrast=0.0, brightness=0.0)
        return dataclasses.replace(light, **changes)

    @classmethod
    def photometric(cls, **changes: Any) -> Self:
        """The colour changes of `heavier` alone: every pixel stays in its place."""
        still = cls(flip=0.0, translation=0.0, zoom=0.0, rotation=0.0, shear=0.0)
        return dataclasses.replace(still, **changes)

    @classmethod
    def halved(cls, **changes: Any) -> Self:
        """The paper's test transformations: half the ranges of `heavier`, extremes."""
        whole = dataclasses.asdict(cls())
        kept = {"flip": whole.pop("flip"), "distribution": "extremes"}
        del whole["distribution"]
        half: dict[str, Any] = {name: bound / 2 for name, bound in whole.items()}
        return dataclasses.replace(cls(**half, **kept), **changes)

    @property
    def geometric(self) -> bool:
        """Whether pixels move."""
        return any((self.flip, self.translation, self.zoom, self.rotation, self.shear))

    @property
    def colours(self) -> bool:
        """Whether values change."""
        return bool(self.contrast or self.brightness)

    def draw(
        self,
        rows: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Parameters:
        """Parameters of `rows` transformations, each a float32 tensor `[rows]`.

        They come from one draw of `[rows, 9]` uniform numbers, row by row: drawing 3
        rows and then 5 from a generator gives what drawing 8 rows gives. torch's
        default dtype and device change nothing.

        Args:
            rows: how many.
            generator: of the random numbers; the global one if left out.
            device: of the numbers; the generator's if left out, else the CPU.
        """
        if device is None:
            device = generator.device if generator else "cpu"
        uniform = torch.rand(
            rows,
            len(_PARAMETERS),
            generator=generator,
            dtype=torch.float32,
            device=device,
        )
        flips = _sign(uniform[:, 0] >= self.flip)
        middle, reach = _ranges(self, uniform.device)
        drawn = torch.addcmul(middle, self._unit(uniform[:, 1:]), reach)
        return dict(zip(_PARAMETERS, (flips, *drawn.unbind(1)), strict=True))

    def _unit(self, uniform: Tensor) -> Tensor:
        """Numbers in [-1, 1], distributed as the scheme says."""
        centred = 2 * uniform - 1
        if self.distribution == "uniform":
            return centred
        if self.distribution == "extremes":
            return _sign(centred >= 0)
        # Inverse distribution function of a normal cut at two standard deviations.
        return torch.erfinv(centred * math.erf(math.sqrt(2))) / math.sqrt(2)

    def matrix(self, parameters: Parameters, height: int, width: int) -> Tensor:
        """Affine maps `[rows, 3, 3]` from input to output pixels, float32.

        Pixels are counted from the top left (x, y from 0 to width - 1, height - 1), as
        in `kornia.geometry.transform.warp_affine`, so that boxes, points and masks can
        follow their image.
        """
        p, centre_x, centre_y = parameters, (width - 1) / 2, (height - 1) / 2
        turned, zero = p["rotation"] + p["shear"], torch.zeros_like(p["flip"])
        zoom = p["flip"] * p["zoom_x"]
        a, c = zoom * torch.cos(p["rotation"]), zoom * torch.sin(p["rotation"])
        b, d = -p["zoom_y"] * torch.sin(turned), p["zoom_y"] * torch.cos(turned)
        # The centre stays where it is, but for the translation.
        x = p["shift_x"] * width + centre_x
        x = x.sub_(a, alpha=centre_x).sub_(b, alpha=centre_y)
        y = p["shift_y"] * height + centre_y
        y = y.sub_(c, alpha=centre_x).sub_(d, alpha=centre_y)
        entries = (a, b, x, c, d, y, zero, zero, zero + 1)
        return torch.stack(entries, 1).view(-1, 3, 3)

    def __str__(self) -> str:
        ranges = {
            "flip p": self.flip,
            "translation +-": self.translation,
            "zoom +-": self.zoom,
            "rotation +-": self.rotation,
            "shear +-": self.shear,
            "contrast +-": self.contrast,
            "brightness +-": self.brightness,
        }
        units = {"rotation +-": " deg", "shear +-": " rad"}
        parts = [f"{k} {v:g}{units.get(k, '')}" for k, v in ranges.items() if v]
        return f"{', '.join(parts) or 'nothing'} ({self.distribution})"


def _sign(positive: Tensor) -> Tensor:
    """1 where true, else -1, in float32."""
    return positive.float().mul_(2).sub_(1)


@lru_cache(maxsize=64)
def _ranges(scheme: Scheme, device: torch.device) -> tuple[Tensor, Tensor]:
    """Middle and half width `[8]` of what each parameter but the flip is drawn from."""
    # Kept, because a copy from the host would wait for the device at each step.
    middle = [0, 0, 1, 1, 0, 0, 1, 0]
    reach = [
        scheme.translation,
        scheme.translation,
        scheme.zoom,
        scheme.zoom,
        math.radians(scheme.rotation),
        scheme.shear,
        scheme.contrast,
        scheme.brightness,
    ]
    return (
        torch.tensor(middle, dtype=torch.float32, device=device),
        torch.tensor(reach, dtype=torch.float32, device=device),
    )


@dataclass(frozen=True)
class Given:
    """Views that the loader has made already are taken as they are."""

    def __str__(self) -> str:
        return "given: the views that the loader made"


AnyScheme = Scheme | Composed | Given | Transform

_WORDS: dict[str, Callable[[], AnyScheme]] = {
    "light": Scheme.light,
    "heavier": Scheme.heavier,
    "photometric": Scheme.photometric,
    "halved": Scheme.halved,
    **NAMED,
    "given": Given,
}


def find_scheme(scheme: str | AnyScheme) -> AnyScheme:
    """The scheme of that name; a scheme of this package or a callable as it is.

    A class of this package's schemes stands for one with its usual strengths.
    A pipeline that draws once for a whole batch (torchvision's, kornia's RandAugment
    and the like) comes back as a callable that applies it image by image.

    Raises:
        ValueError: no scheme has that name, or the pipeline mixes images, normalises,
            or is told to draw once a batch.
        TypeError: neither a name, a scheme nor a callable on images.
    """
    if isinstance(scheme, str):
        if scheme not in _WORDS:
            raise ValueError(
                f"unknown scheme {scheme!r}: take one of {', '.join(_WORDS)}, a "
                "Scheme, or a callable from a float batch [N, C, H, W] in [0, 1] to "
                "such a batch"
            )
        return _WORDS[scheme]()
    if isinstance(scheme, type):
        scheme = _made(scheme)
    if isinstance(scheme, Summand | Given):
        return scheme
    if not callable(scheme):
        raise TypeError(
            "scheme must be a name, a Scheme or a callable, got "
            f"{type(scheme).__name__}"
        )
    _check_argument(scheme)
    return pipelines.usable(scheme)


def _made(kind: type) -> AnyScheme:
    """A scheme of this class, if it is one of this package's."""
    if kind in (Scheme, Given, *NAMED.values()):
        made: AnyScheme = kind()
        return made
    raise TypeError(
        f"scheme is the class {kind.__name__}, which is called with its settings, not "
        f"with images: give an object of it, {kind.__name__}(...)"
    )


def _check_argument(scheme: Transform) -> None:
    """Raises a TypeError if it cannot be called with a batch."""
    try:
        inspect.signature(scheme).bind(None)
    except TypeError as error:
        raise TypeError(
            f"the scheme {scheme!r} is called with a batch of images [N, C, H, W] and "
            f"nothing else, which it does not take ({error}); if it makes a scheme, "
            "give what it returns"
        ) from error
    except ValueError:
        return  # what is not written in Python may have no signature


def moves_pixels(scheme: AnyScheme) -> bool:
    """Whether pixels are known to move: a geometric `Scheme`, or a library's geometry.

    A callable of another origin is trusted to leave them where they are; what a loader
    did to its views is not known, so that they may have moved.
    """
    if isinstance(scheme, Scheme):
        return scheme.geometric
    if isinstance(scheme, Composed):
        return any(moves_pixels(part) for part in scheme.parts)
    return isinstance(scheme, Named | Given) or pipelines.moves_pixels(scheme)


def clips(scheme: AnyScheme) -> bool:
    """Whether it clips pixels to [0, 1] whatever the batch holds."""
    if isinstance(scheme, Composed):
        return any(clips(part) for part in scheme.parts)
    return isinstance(scheme, Named)


def flips(scheme: AnyScheme) -> bool:
    """Whether a scheme of this package mirrors images."""
    if isinstance(scheme, Composed):
        return any(flips(part) for part in scheme.parts)
    return bool(getattr(scheme, "flip", 0.0)) and isinstance(scheme, Summand)


def plain(scheme: Scheme | Named) -> dict[str, Any]:
    """The fields of a scheme, with the name of its kind, as JSON holds them."""
    kind = {"name": scheme.name} if isinstance(scheme, Named) else {}
    return {**kind, **vars(scheme)}


def from_plain(fields: Mapping[str, Any]) -> Scheme | Named:
    """The scheme that `plain` wrote down."""
    own = {key: value for key, value in fields.items() if key != "name"}
    return NAMED[fields["name"]](**own) if "name" in fields else Scheme(**own)
