"""What goes into a training forward: one row a view of an image in every argument.

The rule: each tensor among the arguments of the network, nested ones and keywords
included, whose first dimension is B goes to as many rows as there are views, the images
by the scheme and all others (labels, metadata, masks of tokens) by repetition.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.losses.classes import hard_labels
from dai_plugin.views.rows import Layout
from dai_plugin.views.targets import Kind

COUNT = "num_items_in_batch"  # Hugging Face's Trainer divides sums over rows by it


class Arguments:
    """The arguments of one forward, its images and whatever else belongs to an image.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        base: the network, whose parameters and buffers are no data.
        told: what targets among them are, by the settings.

    Attributes:
        images: the batch `[B, C, H, W]`.
        others: the further tensors with B rows, by the name that messages use.
        grown: identities of what goes to the network with a row a view.

    Raises:
        ValueError: there is no batch of images, or what there is cannot be told apart.
    """

    def __init__(
        self, args: Any, kwargs: Any, base: nn.Module, told: Kind | None = None
    ) -> None:
        found, self._structure = pytree.tree_flatten_with_path(
            (args, kwargs), is_leaf=_one_object_an_image
        )
        self._leaves = [leaf for _, leaf in found]
        self._names = [_name(path) for path, _ in found]
        tensors = {i: t for i, t in enumerate(self._leaves) if isinstance(t, Tensor)}
        if len(tensors) > 1:
            tensors = {i: t for i, t in tensors.items() if not belongs_to(base, t)}
        self._place = self._find_images(tensors)
        self.images: Tensor = self._leaves[self._place]
        batch = self.images.shape[0]
        self._repeated = [
            i
            for i, leaf in enumerate(self._leaves)
            if i != self._place and _belongs_to_images(leaf, batch, i in tensors)
        ]
        self.others: dict[str, Tensor] = {
            self._names[i]: tensors[i] for i in self._repeated if i in tensors
        }
        self.grown: set[int] = set()
        self._told = told
        self._refuse_second_images(batch)

    def expanded(
        self, rows: Tensor, layout: Layout, moved: Mapping[str, Tensor]
    ) -> tuple[Any, Any]:
        """The arguments with these rows and those moved ones, all others repeated."""
        leaves = list(self._leaves)
        leaves[self._place] = rows
        for i in self._repeated:
            own = moved.get(self._names[i])
            leaves[i] = layout.repeat(leaves[i]) if own is None else own
        self.grown = {id(leaves[i]) for i in (self._place, *self._repeated)}
        args, kwargs = pytree.tree_unflatten(leaves, self._structure)
        if layout.num_views > 1 and kwargs.get(COUNT) is not None:
            # Whoever divides a sum over all rows by it gets the mean over the rows.
            kwargs = {**kwargs, COUNT: layout.times(kwargs[COUNT])}
        return args, kwargs

    def as_they_came(self) -> list[str]:
        """Tensors that were not repeated, with their shapes, for messages."""
        kept = set(range(len(self._leaves))) - {self._place, *self._repeated}
        return [
            f"{self._names[i]} {list(self._leaves[i].shape)}"
            for i in sorted(kept)
            if isinstance(self._leaves[i], Tensor)
        ]

    def sizes(self) -> dict[str, tuple[int, bool]]:
        """First dimension of each further tensor, and whether it was repeated."""
        return {
            name: (leaf.shape[0], i in self._repeated)
            for i, (name, leaf) in enumerate(
                zip(self._names, self._leaves, strict=True)
            )
            if isinstance(leaf, Tensor) and leaf.dim() and i != self._place
        }

    def _find_images(self, tensors: Mapping[int, Tensor]) -> int:
        for i, leaf in tensors.items():
            if leaf.is_nested:
                raise ValueError(
                    f"{self._names[i]} is a nested tensor; give the network a batch "
                    "of images of one size, [B, C, H, W]"
                )
        batches = [i for i, leaf in tensors.items() if leaf.dim() == 4]
        # Numbers to be broadcast over pixels, [B, C, 1, 1], beside images.
        wide = [i for i in batches if tensors[i].shape[2:] != (1, 1)]
        batches = wide or batches
        if len(batches) > 1:  # a bias [1, heads, L, L] is broadcast to every image
            many = [i for i in batches if tensors[i].shape[0] > 1]
            batches = many if len(many) == 1 else batches
        if not batches:
            raise ValueError(self._no_images(tensors))
        return batches[0]

    def _no_images(self, tensors: Mapping[int, Tensor]) -> str:
        shapes = [list(leaf.shape) for leaf in tensors.values()]
        if any(leaf.dim() == 5 for leaf in tensors.values()):
            return (
                f"got a 5-D batch among {shapes}: video and volumes [B, T, C, H, W] "
                "are not images [B, C, H, W]; make the views of your own with the "
                'explicit form, or, if the loader made them, take scheme="given"'
            )
        plain = (Tensor, str, int, float, type(None))
        closed = {type(x).__name__ for x in self._leaves if not isinstance(x, plain)}
        hint = f" (not looked into: {', '.join(sorted(closed))})" if closed else ""
        return (
            "no batch of images [B, C, H, W] among the arguments of the network, which "
            f"have the shapes {shapes}{hint}; a single image is images[None]"
        )

    def _refuse_second_images(self, batch: int) -> None:
        images = self._leaves[self._place]
        for name, leaf in self.others.items():
            alike = leaf.shape[-2:] == images.shape[-2:]
            volume = leaf.dim() == 5 and leaf.is_floating_point()
            number = leaf.shape[2:] == (1, 1)  # an image, broadcast over pixels
            pictures = leaf.dim() == 4 and (leaf.is_floating_point() or alike)
            pictures = pictures and not number
            if names_target(name) and (self._told == "heatmap" or _one_label(leaf)):
                continue
            if volume or pictures:
                raise ValueError(
                    f"two batches of images: {self._names[self._place]} "
                    f"{list(images.shape)} and {name} {list(leaf.shape)}. Views of one "
                    "would not match the other, so that neither is guessed: make the "
                    "views of both with the explicit form, "
                    "dai_plugin.DataAugmentationInvariance(model); a list of views "
                    'that the loader made goes with scheme="given"'
                )


class Remembered:
    """First dimensions of the arguments seen so far: chance is found out by change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def check(self, arguments: Arguments) -> None:
        """Refuses a tensor that had B rows once, and keeps its size with another B.

        Raises:
            RuntimeError: so it is.
        """
        batch = arguments.images.shape[0]
        for name, (size, repeated) in arguments.sizes().items():
            before = self._seen.get(name)
            if before is not None and before[0] != batch and before[1] == size:
                raise RuntimeError(
                    f"the argument {name} had {size} rows for {before[0]} images and "
                    f"has {size} for {batch}: it belongs to no image, but was repeated "
                    "like one where the numbers were equal by chance. Make it a buffer "
                    "of the network, give it a leading dimension of 1, or use the "
                    "explicit form"
                )
            if repeated:
                self._seen[name] = batch, size


def names_target(name: str) -> bool:
    """Whether an argument of that name is what the network is to find."""
    name = name.lower()
    # Ultralytics' batches have "cls", which is no part of a word, as in cls_token.
    return "label" in name or "target" in name or bool(re.search(r"\bcls\b", name))


def target_among(others: Mapping[str, Tensor]) -> Tensor | None:
    """The argument that terms compare with, of a network with a loss of its own.

    What is named a target, of any shape, hard labels first; if nothing is, hard labels.

    Args:
        others: the tensors beside the images, by name.

    Raises:
        ValueError: several hold hard labels, and their names do not tell them apart.
    """
    named = [name for name in others if names_target(name)]
    hard = [name for name in named or others if hard_labels(others[name])]
    if len(hard) > 1:
        raise ValueError(
            f"the arguments {', '.join(hard)} of the network all hold labels [B], and "
            "a term needs to know which are the targets: pass these, and no others, by "
            "a keyword that has label or target in it"
        )
    return next((others[name] for name in [*hard, *named]), None)


def _one_label(leaf: Tensor) -> bool:
    """Whether these are masks `[B, 1, H, W]`."""
    return leaf.dim() == 4 and leaf.shape[1] == 1 and not leaf.is_floating_point()


def belongs_to(base: nn.Module, tensor: Tensor) -> bool:
    """Whether the tensor is a parameter or a buffer of the network, and no data."""
    if tensor.grad_fn is not None:
        return False
    if isinstance(tensor, nn.Parameter):
        return True
    return any(tensor is buffer for buffer in base.buffers())


def _belongs_to_images(leaf: Any, batch: int, data: bool) -> bool:
    if isinstance(leaf, Tensor):
        learnt = leaf.is_leaf and leaf.requires_grad
        return data and not learnt and leaf.dim() > 0 and leaf.shape[0] == batch
    return _one_object_an_image(leaf) and len(leaf) == batch


def _one_object_an_image(value: Any) -> bool:
    """Whether this is a list of objects that are no data, as samples of mmpretrain."""
    plain = (Tensor, nn.Module, str, bytes, int, float, complex, type(None))
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(pytree.tree_is_leaf(each) for each in value)
        and not any(isinstance(each, plain) or callable(each) for each in value)
        and not any(isinstance(each, torch.dtype | torch.device) for each in value)
    )


def _name(path: Any) -> str:
    """`args[0]["img"]` or `labels`, as the loop would write it."""
    (kind, *rest) = path
    if getattr(kind, "idx", 0) == 1 and rest:
        return str(getattr(rest[0], "key", rest[0])) + pytree.keystr(tuple(rest[1:]))
    return "args" + pytree.keystr(tuple(rest))
