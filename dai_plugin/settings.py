"""What the settings of an objective may be, and what they mean for a run."""

from dai_plugin.losses import ranks
from dai_plugin.views.schemes import Scheme, Transform


def check(
    num_views: int,
    alpha: float,
    beta: float,
    correction: int,
    first_view: str,
    when: str,
    sync: bool,
) -> None:
    """Checks the numbers and words that `attach` takes.

    Raises:
        TypeError: `num_views` is no int.
        ValueError: something lies out of its range, or does not go together.
    """
    if not isinstance(num_views, int):
        raise TypeError(f"num_views must be an int, got {num_views!r}")
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if not (0 <= alpha <= 1 and 0 <= beta <= 1 and alpha + beta <= 1 + 1e-9):
        raise ValueError(
            f"alpha and beta must lie in [0, 1], and so must their sum, got "
            f"alpha={alpha}, beta={beta}; 1 - alpha - beta is the task loss's weight"
        )
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction}")
    if first_view not in ("clean", "augmented"):
        raise ValueError(f"first_view is 'clean' or 'augmented', got {first_view!r}")
    if when not in ("training", "grad"):
        raise ValueError(f"when is 'training' or 'grad', got {when!r}")
    if sync and beta:
        raise ValueError(
            f"sync=True takes no class-wise term, got beta={beta}: classes are not "
            "brought together over ranks; set beta=0 or sync=False"
        )


def costs(rows: int, num_views: int, alpha: float, beta: float) -> list[str]:
    """What a step computes, and how its loss is mixed."""
    return [
        f"{rows // num_views} images x {num_views} views = {rows} rows a step, "
        f"{num_views} times the network's compute for this batch size",
        f"loss = {1 - alpha - beta:g} task + {alpha:g} invariance"
        + (f" + {beta:g} class invariance" if beta else ""),
    ]


def cautions(scheme: Scheme | Transform, num_views: int, sync: bool) -> list[str]:
    """What a user of these settings has to know."""
    found = []
    if isinstance(scheme, Scheme) and scheme.flip:
        found.append("images are flipped: wrong for digits, text, left and right")
    if (world_size := ranks.world_size()) > 1:
        found.append(
            f"statistics are those of all {world_size} ranks together"
            if sync
            else f"statistics are local to each of {world_size} ranks (sync=False)"
        )
    if num_views == 1:
        found.append("one view has nothing to compare: the invariance loss is 0")
    return found
