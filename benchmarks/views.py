"""Time of making views: each scheme on ready rows, beside the alternatives.

python benchmarks/views.py --output benchmarks/results
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import rivals
import timing
import torch
from torch import Tensor

from dai_plugin import Scheme
from dai_plugin.views.expand import expand
from dai_plugin.views.named import NAMED
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import find_scheme

KNOWN = Normalization.given(0.0, 1.0)
OURS = "dai_plugin"


def heavier(rows: int, side: int, device: torch.device, compiled: bool) -> dict:
    """The fused pass, beside kornia's modules and its bare functions."""
    images = torch.rand(rows // 8, 3, side, side, device=device)
    batch = images.repeat(8, 1, 1, 1)
    whole = (images * 255).to(torch.uint8)
    arms = {
        OURS: lambda: _views(images, "heavier"),
        f"{OURS}, uint8": lambda: _views(whole, "heavier"),
        **_functions(batch),
        **_others(batch, rivals.kornia_pipeline(), rivals.torchvision_pipeline()),
    }
    if compiled:
        fast = torch.compile(rivals.kornia_pipeline())
        arms["kornia, compiled"] = lambda: fast(batch)
    return arms


def named(name: str, rows: int, side: int, device: torch.device) -> dict:
    """A named scheme, beside kornia's container and torchvision's transform."""
    # Smooth, as photographs are, so that no operation is spared.
    coarse = torch.rand(rows // 8, 3, 8, 8, device=device)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    images = images.clamp(0, 1)
    others = rivals.kornia_named(name, side), rivals.torchvision_named(name, side)
    batch = images.repeat(8, 1, 1, 1)
    return {OURS: lambda: _views(images, name), **_others(batch, *others)}


def case(
    arms: dict[str, Callable[[], object]],
    rows: int,
    side: int,
    scheme: str,
    device: torch.device,
    rounds: int,
) -> dict:
    """Every arm makes `rows` transformed images of `side` x `side` pixels."""
    dropped = {name: _dropping(arm) for name, arm in arms.items()}
    with torch.no_grad():
        seconds = timing.compare(dropped, OURS, device, rounds, warmup=3)
    return {
        "rows": rows,
        "side": side,
        "scheme": scheme,
        "reference": OURS,
        "seconds": seconds,
    }


def _views(images: Tensor, scheme: str) -> Tensor:
    return expand(
        KNOWN.prepare(images),
        8,
        find_scheme(scheme),
        first_view="augmented",
        normalization=KNOWN,
        seed=next(_SEEDS),
    )


_SEEDS = iter(range(10**9))


def _functions(batch: Tensor) -> dict[str, Callable[[], object]]:
    """The pass in kornia's functions, with parameters drawn as ours are."""
    from kornia.enhance import adjust_brightness, adjust_contrast
    from kornia.geometry.transform import warp_affine

    scheme, (height, width) = Scheme.heavier(), batch.shape[2:]

    def passed() -> Tensor:
        drawn = scheme.draw(len(batch), device=batch.device)
        maps = scheme.matrix(drawn, height, width)[:, :2]
        warped = warp_affine(batch, maps, (height, width), padding_mode="border")
        middle = warped.mean((2, 3), keepdim=True)
        gained = adjust_contrast(warped - middle, drawn["contrast"], clip_output=False)
        return adjust_brightness(gained + middle, drawn["brightness"])

    return {"kornia's functions": passed}


def _others(
    batch: Tensor, kornia: Callable | None, torchvision: Callable
) -> dict[str, Callable[[], object]]:
    arms = {"torchvision, image by image": lambda: torchvision(batch)}
    return {**({"kornia": lambda: kornia(batch)} if kornia else {}), **arms}


def _dropping(arm: Callable[[], object]) -> Callable[[], None]:
    """Keeps an arm from returning what it made."""

    def drop() -> None:
        arm()

    return drop


def main() -> None:
    """Writes the results of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", default="benchmarks/results", type=Path)
    parser.add_argument("--rounds", default=31, type=int)
    parser.add_argument("--sides", default=[32, 224], nargs="+", type=int)
    parser.add_argument("--rows", default=[128, 32], nargs="+", type=int)
    parser.add_argument("--schemes", default=["heavier", *NAMED], nargs="+")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    cases = []
    for scheme in args.schemes:
        for rows, side in zip(args.rows, args.sides, strict=True):
            arms = (
                heavier(rows, side, device, not args.no_compile)
                if scheme == "heavier"
                else named(scheme, rows, side, device)
            )
            cases.append(case(arms, rows, side, scheme, device, args.rounds))
    print(timing.write(args.output, "views", device, cases))


if __name__ == "__main__":
    main()
