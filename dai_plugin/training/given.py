"""Views that the loader made already: found in a forward's arguments, made rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def rows_of(views: Tensor | Sequence[Tensor], num_views: int) -> Tensor:
    """View-major rows `[num_views * B, C, H, W]`.

    Args:
        views: `num_views` batches `[B, C, H, W]`, or one `[B, num_views, C, H, W]`.
        num_views: M.

    Raises:
        ValueError: they are laid out in another way, of another number, or differ in
            shape, dtype or device.
    """
    if not _are_views(views):
        raise ValueError(f"{_WANTED}; got {_shown(views)}")
    count = views.shape[1] if isinstance(views, Tensor) else len(views)
    if count != num_views:
        raise ValueError(
            f"the loader made {count} views of each image ({_shown(views)}), and "
            f"num_views={num_views}: give num_views={count}, or a loader that makes "
            f"{num_views}"
        )
    if isinstance(views, Tensor):
        return views.transpose(0, 1).flatten(0, 1)
    for what, found in (
        ("shapes", [list(view.shape) for view in views]),
        ("dtypes", [view.dtype for view in views]),
        ("devices", [str(view.device) for view in views]),
    ):
        if any(each != found[0] for each in found):
            raise ValueError(
                f"the views of a batch have different {what}, {found}: they run "
                "through the network as one batch, so let the loader make all of them "
                "alike"
            )
    return torch.cat(list(views))


def found_in(args: Any, kwargs: Any, num_views: int) -> tuple[Any, Any, Tensor]:
    """The arguments of a forward with the first view in place of all, and the rows.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        num_views: M.

    Raises:
        ValueError: there are no views among them, or two sets; or as `rows_of`.
    """
    # As a dict, because two images given side by side are no list of views.
    places = dict(enumerate(args))
    leaves, structure = pytree.tree_flatten((places, kwargs), is_leaf=_are_views)
    found = [i for i, leaf in enumerate(leaves) if _are_views(leaf)]
    if len(found) != 1:
        got = ", ".join(_shown(leaf) for leaf in leaves) or "nothing"
        raise ValueError(f"{_WANTED}, once among its arguments; got {got}")
    rows = rows_of(leaves[found[0]], num_views)
    leaves[found[0]] = rows[: rows.shape[0] // num_views]
    places, kwargs = pytree.tree_unflatten(leaves, structure)
    return tuple(places.values()), kwargs, rows


_WANTED = (
    'scheme="given" takes the views that the loader made, a list of batches '
    "[B, C, H, W] or one batch [B, views, C, H, W]"
)


def _are_views(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 5
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(each, Tensor) and each.dim() == 4 for each in value)
    )


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(each) for each in value) + "]"
    return type(value).__name__
