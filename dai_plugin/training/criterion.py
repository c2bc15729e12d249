"""One call of a criterion on the outputs of a training forward.

The network ran once on all views; its caller sees the first view's rows. A call of the
criterion on them is recognised, through whatever wrapper cast, cloned or viewed them,
and repeated for each further view with the caller's own targets and arguments. So
targets of any kind, class weights and every reduction keep their meaning. Where further
views are made of some images alone, arguments with a row an image are cut to theirs.
"""

import copy
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import _reduction as legacy
from torch.utils import _pytree as pytree

from dai_plugin.losses.classes import first_labels
from dai_plugin.training.follow import Follow
from dai_plugin.training.look import is_sum
from dai_plugin.training.outputs import Outputs

_MOVED = (
    "dai_plugin: this is a further view, whose targets moved with it. Outside the "
    "image masks hold -100, or what the criterion names as ignore_index; give "
    'ignore_index= the label that it ignores, or scheme="photometric", which moves '
    "no pixels"
)
# Copies of smaller arguments are kept, in case the criterion changes them in place.
_SMALL = 2**20


class Snapshot:
    """The arguments of a criterion call as they are before it.

    Args:
        args: positional arguments of the caller.
        kwargs: keyword arguments of the caller.
    """

    def __init__(self, args: Sequence[Any], kwargs: Any) -> None:
        leaves, self._structure = pytree.tree_flatten((tuple(args), kwargs))
        self._versions = [
            leaf._version if isinstance(leaf, Tensor) else 0 for leaf in leaves
        ]
        self.leaves = leaves
        # Noted before the call, which may go on in place.
        self.nodes = [
            (leaf.grad_fn, leaf.output_nr) if isinstance(leaf, Tensor) else (None, 0)
            for leaf in leaves
        ]
        self._copies = {
            i: leaf.clone()
            for i, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
            and not leaf.requires_grad
            and leaf.numel() <= _SMALL
        }

    def untouched(self, i: int) -> Any:
        """Argument i as it was before the call.

        Raises:
            RuntimeError: the call changed it, and it is too large to be kept.
        """
        leaf = self.leaves[i]
        if not self.changed(i):
            return leaf
        if i in self._copies:
            return self._copies[i].clone()
        raise RuntimeError(
            f"the criterion changed its argument {i} of shape {list(leaf.shape)} in "
            "place, so that the further views would get the changed one; let it work "
            "on a copy"
        )

    def changed(self, i: int) -> bool:
        """Whether the call changed its argument i in place."""
        leaf = self.leaves[i]
        return isinstance(leaf, Tensor) and leaf._version != self._versions[i]

    def rebuilt(self, leaves: list[Any]) -> Any:
        """`(args, kwargs)` with other leaves."""
        return pytree.tree_unflatten(leaves, self._structure)


class Call:
    """A criterion call on the outputs of a training forward.

    Args:
        outputs: of the forward.
        before: its arguments.

    Attributes:
        carries: whether the primary output is among the arguments, so that the
            invariance terms are added to this call.
        reached: number of the first output among the arguments.
        shapes: of the outputs among the arguments.
        targets: the other tensors among the arguments.
        labels: the first of them that holds hard labels, if one does.
        arguments: `(args, kwargs)` of the caller.
        losses: what the criterion returned for each view: its first tensor.
        moved: by number of an argument, the rows `[N, ...]` of a target that follows
            its views (`follow`).
    """

    def __init__(self, outputs: Outputs, before: Snapshot) -> None:
        self.outputs, self.layout, self._before = outputs, outputs.layout, before
        tensors = {i: t for i, t in enumerate(before.leaves) if isinstance(t, Tensor)}
        found = {i: outputs.find(t, *before.nodes[i]) for i, t in tensors.items()}
        self._found = {i: o for i, o in found.items() if o is not None}
        self.arguments = before.rebuilt(before.leaves)
        self._others = [i for i in tensors if i not in self._found]
        self.targets = [tensors[i] for i in self._others]
        self.carries = outputs.primary in self._found.values()
        self.reached = min(self._found.values(), default=None)
        self.shapes = [tensors[i].shape for i in self._found]
        self.losses: list[Tensor] = []
        self.moved: dict[int, Tensor] = {}
        self._marked: Callable[[int], bool] = lambda _: False

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def labels(self) -> Tensor | None:
        """The first argument with hard labels, as it was before the call."""
        return first_labels([self._before.untouched(i) for i in self._others])

    def follow(self, following: Follow) -> None:
        """Gives each view its own target, where targets move with the views.

        Raises:
            ValueError: a target belongs to pixels, and cannot follow them.
        """
        kept = {i: self._before.untouched(i) for i in self._others}
        kinds = {i: following.kind(t, self.shapes) for i, t in kept.items()}
        self.moved = {i: following.rows(kept[i], k) for i, k in kinds.items() if k}
        self._marked = lambda i: following.marked(self.moved[i], kinds[i])

    @property
    def marked(self) -> list[int]:
        """Numbers of the moved arguments that hold a label which nobody named."""
        return [i for i in self.moved if self._marked(i)]

    def run(self, criterion: Callable[..., Any], first: Any) -> None:
        """Runs the criterion on each further view; `first` is its stock result.

        Raises:
            TypeError: the criterion returned no tensor.
        """
        self._result, self._form = pytree.tree_flatten(first)
        places = [i for i, x in enumerate(self._result) if isinstance(x, Tensor)]
        if not places:
            raise TypeError(
                f"the criterion returned {type(first).__name__}; it must return a "
                "tensor, or a tuple or dict whose first tensor is the loss, for the "
                "invariance terms to be added to"
            )
        trained = [i for i in places if self._result[i].requires_grad]
        self._place = (trained or places)[0]
        self.losses = [self._result[self._place]]
        for v in range(1, self.layout.num_views):
            args, kwargs = self._arguments(v)
            try:
                result = criterion(*args, **kwargs)
            except Exception as error:
                if self.moved:
                    error.add_note(_MOVED)
                raise
            self.losses.append(self._loss_in(result))

    def with_loss(self, total: Tensor) -> Any:
        """What the caller gets: the first view's result, with this loss in it."""
        leaves = [_for_the_log(leaf) for leaf in self._result]
        leaves[self._place] = total
        return pytree.tree_unflatten(leaves, self._form)

    def _loss_in(self, result: Any) -> Tensor:
        found: Tensor = pytree.tree_leaves(result)[self._place]
        return found

    def sums(self, criterion: Any) -> bool | None:
        """Whether the criterion sums over images, tried with all views at once.

        A sum over all rows is that of the views' losses, a mean over them is their
        mean over the rows. For what is neither, no; None where these views do not
        tell.
        """
        views = [v.detach() for v in self.losses]
        if len(views) == 1 or views[0].dim():
            return False
        with torch.no_grad():
            try:
                together = self._tried(criterion, *self._arguments(None))
            except Exception:
                return False  # a criterion that takes no other number of rows
        expected = sum(views, torch.zeros_like(views[0]))
        return is_sum(together, expected, self.layout.mean(views))

    def learns_from(self, criterion: Any, label: int) -> bool:
        """Whether pixels of that label teach anything: then it is not ignored.

        Tried with the first view's outputs and `marked` masks, whose upper half gets
        the label: no gradient must come to the first line of outputs `[B, K, h, w]`,
        of any resolution, and none to others.
        """
        leaves, outputs, marked = list(self._before.leaves), [], self.marked
        for i, leaf in enumerate(leaves):
            if i in self._found:
                outputs.append(leaf.detach().requires_grad_())
                leaves[i] = outputs[-1].clone()  # which may be changed in place
            else:
                kept = self._before.untouched(i)
                leaves[i] = _half(kept, label) if i in marked else kept
        try:
            with torch.enable_grad():
                loss = self._tried(criterion, *self._before.rebuilt(leaves)).sum()
            if not loss.requires_grad:
                return False
            grads = torch.autograd.grad(loss, outputs, allow_unused=True)
        except Exception:
            return True  # it was not shown that it is ignored
        lines = [g[:, :, 0] if g.dim() == 4 else g for g in grads if g is not None]
        # An average over no pixel is NaN, and teaches nothing.
        return any(bool((g.isfinite() & (g != 0)).any()) for g in lines)

    def _tried(self, criterion: Any, args: Any, kwargs: Any) -> Tensor:
        """The loss of a call that leaves no trace.

        A copy of the criterion is called where it can be copied, since it may count its
        calls or remember them.
        """
        try:
            # A bound method would bring along the object that it belongs to.
            bound = isinstance(criterion, types.MethodType)
            twin = criterion if bound else copy.deepcopy(criterion)
        except Exception:
            twin = criterion  # it holds a lock, or a tensor with a graph
        devices = {t.device for t in self.targets if t.device.type == "cuda"}
        with torch.random.fork_rng(list(devices)):
            return self._loss_in(_past_watching(twin)(*args, **kwargs))

    def _view(self, v: int, i: int, leaf: Tensor) -> Tensor:
        view = self.outputs.view(self._found[i], v, leaf)
        # A criterion that works in place would write into what other views saved.
        return view.clone() if self._before.changed(i) else view

    def _all_rows(self, i: int, leaf: Tensor) -> Tensor:
        further = [self._view(v, i, leaf) for v in range(1, self.layout.num_views)]
        return torch.cat([view.detach() for view in (leaf, *further)])

    def _arguments(self, v: int | None) -> Any:
        """The caller's, as they are for view v > 0; None: for all rows at once."""
        leaves = []
        for i, leaf in enumerate(self._before.leaves):
            if i in self._found:
                one = self._all_rows(i, leaf) if v is None else self._view(v, i, leaf)
            else:
                one = self._before.untouched(i)
                if isinstance(one, Tensor) and one.shape[:1] == (self.layout.images,):
                    one = self._of_images(i, one, v)
            leaves.append(one)
        return self._before.rebuilt(leaves)

    def _of_images(self, i: int, kept: Tensor, v: int | None) -> Tensor:
        """Argument i, which has a row an image, for view v or for all rows."""
        rows = self.moved.get(i)
        if v is None:
            return self.layout.repeat(kept) if rows is None else rows
        if rows is not None:
            return rows[self.layout.view(v)]
        return kept[: self.layout.viewed] if self.layout.alone else kept


def told_reduction(criterion: Any, args: Any, kwargs: Any) -> str | None:
    """The reduction that a call or its criterion names, by position, too."""
    bound, known = _bound(criterion, args, kwargs)
    old = bound.get("size_average"), bound.get("reduce")
    if any(flag is not None for flag in old):
        return str(legacy.legacy_get_string(*old, emit_warning=False))
    own = getattr(criterion, "reduction", None)
    default = known.get("reduction")
    found = bound.get("reduction", own if isinstance(own, str) else default)
    return found if isinstance(found, str) else None


def told_ignore_index(criterion: Any, args: Any, kwargs: Any) -> int | None:
    """The label that a call or its criterion ignores, None if neither names one."""
    bound, known = _bound(criterion, args, kwargs)
    own = getattr(criterion, "ignore_index", known.get("ignore_index"))
    found = bound.get("ignore_index", own)
    return found if isinstance(found, int) else None


def _bound(criterion: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What a call binds to the names of a criterion's arguments, and their defaults."""
    function = getattr(criterion, "func", criterion)  # of a functools.partial
    function = _past_watching(function)
    bound = dict(getattr(criterion, "keywords", {}))
    try:
        signature = inspect.signature(function)
        bound |= signature.bind_partial(*args, **kwargs).arguments
        known = {
            name: parameter.default for name, parameter in signature.parameters.items()
        }
    except (TypeError, ValueError):
        bound, known = bound | dict(kwargs), {}
    return bound, known


def _half(masks: Tensor, label: int) -> Tensor:
    """The masks, with a label in the upper half of their lines."""
    marked = masks.clone()
    marked[..., : max(1, masks.shape[-2] // 2), :] = label
    return marked


def _for_the_log(part: Any) -> Any:
    """A part of a criterion's result beside its loss: to be looked at, not trained."""
    if not isinstance(part, Tensor) or not part.requires_grad:
        return part
    shown = part.view_as(part)
    shown.register_hook(_refuse_part)  # type: ignore[no-untyped-call]
    return shown


def _refuse_part(_: Tensor) -> None:
    raise RuntimeError(
        "the criterion returned several losses, and the loop trains another one than "
        "the first, which alone carries the further views and the invariance terms; "
        "let the criterion return their sum first: (sum, parts)"
    )


def _past_watching(criterion: Any) -> Any:
    """The calls of a criterion itself: those of a watched module would be seen."""
    return criterion.forward if isinstance(criterion, nn.Module) else criterion
