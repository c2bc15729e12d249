"""What comes out of a training forward: the first view's rows, and the others'.

The rule: what depends on the forward and has all its rows in its first dimension
is split into views; parameters, buffers and leaves of the graph never are. Rows in
another dimension (similarities of all rows) are refused: there the views of one image
would stand as negatives of each other.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.training.arguments import belongs_to
from dai_plugin.training.graph import MOST, nodes_behind
from dai_plugin.views.rows import Layout

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
_PARTS = ("SliceBackward", "SelectBackward", "IndexBackward", "SplitBackward",
          "NarrowBackward", "UnbindBackward", "GatherBackward")  # fmt: skip

Place = tuple[Any, int]  # a node of autograd, and which of its results


class Outputs:
    """The outputs of one training forward.

    Args:
        output: of the network, in any structure of tensors.
        layout: of the rows.
        base: the network, whose parameters and buffers are no outputs.
        depends: from the number of an output and the output to the dimensions that grow
            with the rows; asked where the sizes alone do not tell.
        carrier: number of the output that the invariance terms go with; None is the
            first.
        needed: whether there has to be one with rows; not where the network returns its
            loss.

    Attributes:
        first: the structure with B rows in each tensor, for the caller.
        primary: number of the output that the invariance terms go with.

    Raises:
        RuntimeError: no tensor in the output has `rows` rows, or one has them in
            another dimension than the first.
    """

    def __init__(
        self,
        output: Any,
        layout: Layout,
        base: nn.Module,
        depends: Callable[[int, Tensor], frozenset[int]],
        carrier: int | None = None,
        needed: bool = True,
    ) -> None:
        leaves, self._structure = pytree.tree_flatten(output)
        self.layout, rows = layout, layout.rows
        self._views: dict[int, list[Tensor]] = {}
        known: dict[int, list[Tensor]] = {}  # one tensor under two names is cut once
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, Tensor) or rows not in leaf.shape:
                continue
            if belongs_to(base, leaf) or (leaf.is_leaf and leaf.requires_grad):
                continue
            if id(leaf) in known:
                self._views[i] = known[id(leaf)]
            elif layout.num_views == 1:
                self._views[i] = [leaf]  # the caller gets the network's own tensor
            elif (grown := depends(i, leaf)) == {0}:
                # Slices by themselves, which loop and criterion may change in place,
                # unlike those of torch.split.
                places = map(layout.view, range(layout.num_views))
                self._views[i] = [leaf[place] for place in places]
            elif grown:
                raise RuntimeError(_across(i, leaf, rows, grown))
            if i in self._views:
                known[id(leaf)] = self._views[i]
        if not self._views and needed:
            raise RuntimeError(
                f"the network returned {_describe(leaves)} for {rows} rows "
                "(views of images); no tensor with as many rows was found in it"
            )
        first = min(self._views, default=None)
        self.primary = carrier if carrier in self._views else first
        self._numbers: dict[Any, int] = {}
        for i, views in self._views.items():
            self._numbers.setdefault(_key(views[0]), i)
        for i, views in self._views.items():
            leaves[i] = views[0]
        self._first_leaves = leaves
        self.first: Any = pytree.tree_unflatten(leaves, self._structure)
        self._loose: dict[int, weakref.ref[Tensor]] = {}

    def find(self, tensor: Tensor, node: Any, position: int) -> int | None:
        """Which output the tensor is, if it is one in other clothes.

        Args:
            tensor: an argument of a criterion.
            node: of autograd that made it.
            position: among the results of the node.
        """
        if node is None:
            return self._numbers.get(id(tensor))
        places = _of_one_value(node, position)
        return next((self._numbers[p] for p in places if p in self._numbers), None)

    def origin(self, tensor: Tensor) -> str | None:
        """The operations between an output and the tensor, if it comes from one."""
        start = tensor.grad_fn, tensor.output_nr
        queue: deque[Any] = deque([start])
        came_from: dict[Any, Any] = {start: None}
        while queue and len(came_from) < MOST:
            place = queue.popleft()
            if place in self._numbers:
                return _between(place, came_from)
            for following in place[0].next_functions if place[0] else ():
                if following not in came_from:
                    came_from[following] = place
                    queue.append(following)
        return None

    def view(self, index: int, v: int, like: Tensor) -> Tensor:
        """Output `index` of view v > 0, cast and viewed as view 0 was by the caller.

        Raises:
            RuntimeError: the caller moved the images into another dimension, and other
                views have fewer of them.
        """
        # Counted from the end: the first is not held any more once it is loose.
        layout, view = self.layout, self._views[index][v - self.layout.num_views]
        if not layout.alone:
            return view.reshape(like.shape).to(like)
        first, *rest = like.shape
        if first % layout.images:
            raise RuntimeError(
                f"the criterion got an output of {layout.images} images viewed as "
                f"{list(like.shape)}; with share < 1, where other views have "
                f"{layout.viewed} images, it must keep them in the first dimension"
            )
        shape = (first // layout.images * layout.viewed, *rest)
        return view.reshape(shape).to(like)

    def whole(self, output: Any) -> Tensor | None:
        """The primary output with all its rows, in what the network returned."""
        if self.primary is None:
            return None
        found: Tensor = pytree.tree_leaves(output)[self.primary]
        return found

    def rows_of(self, place: int) -> list[Tensor] | None:
        """The views of one output, None if it was not split."""
        return self._views.get(place)

    def place_of(self, leaf: Any) -> int:
        """Number of the leaf, which is one of `first`."""
        return next(i for i, each in enumerate(self._first_leaves) if each is leaf)

    def returned(self) -> list[Tensor]:
        """The tensors that the caller got, as far as they live."""
        loose = [ref() for ref in self._loose.values()]
        return [t for t in loose if t is not None] or [
            views[0] for views in self._views.values()
        ]

    @property
    def main(self) -> Tensor | None:
        """The first view of the primary output, before it is let loose."""
        return None if self.primary is None else self._views[self.primary][0]

    def handed_out(self) -> Any:
        """The structure for the caller, which is not kept."""
        first, self.first, self._first_leaves = self.first, None, []
        return first

    def loosen(self) -> None:
        """Holds what the caller got weakly from now on."""
        for number, views in self._views.items():
            if number not in self._loose:
                self._loose[number] = weakref.ref(views[0])
                self._views[number] = views[1:]


class StockOutputs:
    """Knows what stock forwards of a network returned, for as long as its graph lives.

    They are marked in the graph itself, which is neither kept nor changed.
    """

    def __init__(self) -> None:
        self._mark = object()

    def add(self, output: Any) -> None:
        """Marks what a stock forward returned, in any structure."""
        for leaf in pytree.tree_leaves(output):
            node: Any = leaf.grad_fn if isinstance(leaf, Tensor) else None
            if node is not None:
                node.metadata[self._mark] = True

    def among(self, places: Iterable[Place]) -> bool:
        """Whether a tensor is one of them, in other clothes.

        Args:
            places: of the tensors in the graph.
        """
        walks = (_of_one_value(node, position) for node, position in places)
        return any(self._mark in node.metadata for walk in walks for node, _ in walk)

    def behind(self, tensors: Iterable[Tensor]) -> bool:
        """Whether one of the tensors was computed from them."""
        return any(self._mark in node.metadata for node in nodes_behind(tensors))


def _of_one_value(node: Any, position: int) -> Iterator[Place]:
    """The places in the graph that hold one value, in other clothes, the last first."""
    while node is not None:
        yield node, position
        if node.name() not in _IDENTITIES and not _selects_all(node):
            return
        edges = node.next_functions
        node, position = edges[position if len(edges) > 1 else 0]


def _between(place: Any, came_from: dict[Any, Any]) -> str:
    """What stands between an output and an argument, from the argument on."""
    names: list[str] = []
    while (place := came_from[place]) is not None:
        names.append(place[0].name())
    if any(name.startswith(_PARTS) for name in names):
        return (
            "a part of the output (a slice or an index): part it inside the criterion "
            "instead"
        )
    return "the result of " + " and ".join(list(dict.fromkeys(names))[:5])


def _selects_all(node: Any) -> bool:
    """Whether the node is `output[:, 0]` of an output with one column."""
    if node.name() != "SelectBackward0":
        return False
    sizes, dim = node._saved_self_sym_sizes, node._saved_dim
    dim = dim - 2**64 if dim >= 2**63 else dim  # as autograd stores a negative one
    return bool(dim % len(sizes) > 0 and sizes[dim] == 1)


def _across(place: int, leaf: Tensor, rows: int, grown: frozenset[int]) -> str:
    return (
        f"output {place} of the network has the shape {list(leaf.shape)}, whose "
        f"dimensions {sorted(grown)} grow with the rows of the batch ({rows} = views x "
        "images): similarities of all rows with each other, or rows in another "
        "dimension than the first, cannot be cut into views, whose images would stand "
        "as each other's negatives. Return features [rows, ...] and compare them in "
        "the criterion, or use the explicit form"
    )


def _key(tensor: Tensor) -> Any:
    if tensor.grad_fn is None:
        return id(tensor)
    return tensor.grad_fn, tensor.output_nr


def _describe(leaves: Sequence[Any]) -> str:
    shapes = [
        list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves
    ]
    return f"tensors of shapes {shapes}"
