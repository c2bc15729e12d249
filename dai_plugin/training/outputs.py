"""Which rows a criterion call is about, and how the losses of the views become one.

The network ran once on all views; its caller sees the first view's rows. A call of the
criterion on them is recognised, through whatever wrapper cast, cloned or viewed them,
and repeated for each further view with the caller's own targets and arguments. So
targets of any kind, class weights and every reduction keep their meaning.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# Autograd nodes between what forward returned and what the criterion got, which leave
# every value in its row: casts, copies, views, and DistributedDataParallel's sink.
_IDENTITIES = frozenset(
    [
        "AliasBackward0",
        "CloneBackward0",
        "ReshapeAliasBackward0",
        "SqueezeBackward0",
        "SqueezeBackward1",
        "SqueezeBackward2",
        "ToCopyBackward0",
        "UnsafeViewBackward0",
        "UnsqueezeBackward0",
        "ViewBackward0",
        "_DDPSinkBackward",
    ]
)


class Outputs:
    """The outputs of one training forward: the first view's rows, and the others'.

    Args:
        output: of the network, in any structure of tensors.
        rows: num_views * B.
        num_views: M.
        carrier: number of the output that the invariance terms go with; None is the
            first.

    Attributes:
        first: the structure with B rows in each tensor, for the caller.
        primary: number of the output that the invariance terms go with.

    Raises:
        RuntimeError: no tensor in the output has `rows` rows.
    """

    def __init__(
        self, output: Any, rows: int, num_views: int, carrier: int | None = None
    ) -> None:
        leaves, structure = pytree.tree_flatten(output)
        self.images = rows // num_views
        self._views = {
            i: self._split(leaf, num_views)
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == rows
        }
        if not self._views:
            raise RuntimeError(
                f"the network returned {_describe(leaves)} for {rows} rows "
                "(num_views x images); no tensor with as many rows was found in it"
            )
        self.primary = carrier if carrier in self._views else min(self._views)
        self._leaves = {_key(views[0]): i for i, views in self._views.items()}
        for i, views in self._views.items():
            leaves[i] = views[0]
        self.first: Any = pytree.tree_unflatten(leaves, structure)

    def _split(self, leaf: Tensor, num_views: int) -> list[Tensor]:
        if num_views == 1:
            return [leaf]  # the caller gets the network's own tensor
        # A slice by itself, which the loop may change in place, unlike those of split.
        return [leaf[: self.images], *torch.split(leaf[self.images :], self.images)]

    def find(self, tensor: Tensor) -> int | None:
        """Which output the tensor is, if it is one in other clothes."""
        node, position = tensor.grad_fn, tensor.output_nr
        if node is None:
            return self._leaves.get(id(tensor))
        while node is not None:
            if (node, position) in self._leaves:
                return self._leaves[node, position]
            if node.name() not in _IDENTITIES:
                return None
            edges = node.next_functions
            node, position = edges[position if len(edges) > 1 else 0]
        return None

    def view(self, index: int, v: int, like: Tensor) -> Tensor:
        """Output `index` of view v, cast and viewed as the caller did with view 0."""
        return self._views[index][v].reshape(like.shape).to(like)

    def returned(self) -> list[Tensor]:
        """The tensors that the caller got."""
        return [views[0] for views in self._views.values()]

    def release(self) -> None:
        """Lets go of the tensors, and with them of the graph."""
        self._views.clear()
        self._leaves.clear()


class Call:
    """A criterion call on the outputs of a training forward.

    Args:
        outputs: of the forward.
        num_views: M.
        args: positional arguments of the caller.
        kwargs: keyword arguments of the caller.

    Attributes:
        carries: whether the primary output is among the arguments, so that the
            invariance terms are added to this call.
        reached: number of the first output among the arguments.
        shapes: of the outputs among the arguments.
        targets: the other tensors among the arguments.
        labels: the first of them that holds hard labels, if one does.
        losses: what the criterion returned for each view.
    """

    def __init__(
        self, outputs: Outputs, num_views: int, args: Sequence[Any], kwargs: Any
    ) -> None:
        leaves, self._structure = pytree.tree_flatten((tuple(args), kwargs))
        self.outputs, self.num_views, self._leaves = outputs, num_views, leaves
        tensors = {i: t for i, t in enumerate(leaves) if isinstance(t, Tensor)}
        found = {i: outputs.find(t) for i, t in tensors.items()}
        self._found = {i: o for i, o in found.items() if o is not None}
        self.targets = [t for i, t in tensors.items() if i not in self._found]
        self.carries = outputs.primary in self._found.values()
        self.reached = min(self._found.values(), default=None)
        hard = [t for t in self.targets if t.dim() == 1 and not t.is_floating_point()]
        self.labels = next(iter(hard or self.targets), None)
        self.shapes = [tensors[i].shape for i in self._found]
        self.reduction = kwargs.get("reduction", "mean")
        self.losses: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def run(self, criterion: Callable[..., Any], first: Any) -> None:
        """Runs the criterion on each further view; `first` is its stock result.

        Raises:
            TypeError: the criterion returns something else than a tensor.
        """
        if not isinstance(first, Tensor):
            raise TypeError(
                f"the criterion returned {type(first).__name__}; it must return a "
                "tensor for the invariance terms to be added to"
            )
        self.losses = [first]
        for v in range(1, self.num_views):
            args, kwargs = self._arguments(v)
            self.losses.append(criterion(*args, **kwargs))

    def mean(self) -> Tensor:
        """The task loss: the views' losses, averaged."""
        first, *others = self.losses
        return sum(others, first) / self.num_views if others else first

    def _arguments(self, v: int) -> Any:
        leaves = [
            self.outputs.view(self._found[i], v, leaf) if i in self._found else leaf
            for i, leaf in enumerate(self._leaves)
        ]
        return pytree.tree_unflatten(leaves, self._structure)


def _key(tensor: Tensor) -> Any:
    if tensor.grad_fn is None:
        return id(tensor)
    return tensor.grad_fn, tensor.output_nr


def _describe(leaves: Sequence[Any]) -> str:
    shapes = [
        list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves
    ]
    return f"tensors of shapes {shapes}"
