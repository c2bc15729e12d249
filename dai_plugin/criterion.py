"""Which rows a criterion call is about, and how the losses of the views become one.

The network ran once on all views; its caller sees the first view's rows. A call of the
criterion on them is recognised, through whatever wrapper cast, cloned or viewed them,
and repeated for each further view with the caller's own targets and arguments. So
targets of any kind, class weights and every reduction keep their meaning.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.hooks import Hook

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

    Attributes:
        first: the structure with B rows in each tensor, for the caller.

    Raises:
        RuntimeError: no tensor in the output has `rows` rows.
    """

    def __init__(self, output: Any, rows: int, num_views: int) -> None:
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
        self.primary = min(self._views)
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


class CriterionHooks:
    """Watches the calls of one criterion on behalf of an attachment.

    Args:
        criterion: a module, a function that loops look up by its module-level name, or
            any other callable.
        match: finds the call that concerns the attachment, else None.
        combine: turns the views' losses into the loss that the caller gets.
        discard: called when such a call raises, so that its step is dropped.

    Attributes:
        criterion: what the loop is to call (for modules and module-level functions the
            loop's own name for it works as well).

    Raises:
        TypeError: the criterion is no callable, or a module whose calls bypass hooks.
    """

    def __init__(
        self,
        criterion: Any,
        match: Callable[[Sequence[Any], Any], Call | None],
        combine: Callable[[Call], Tensor],
        discard: Callable[[], None],
    ) -> None:
        self._match, self._combine, self._discard = match, combine, discard
        self.criterion = criterion
        self._reduction = getattr(criterion, "reduction", None)
        if isinstance(criterion, type):
            raise TypeError(
                f"criterion is the class {criterion.__name__}; give an instance: "
                f"{criterion.__name__}()"
            )
        if isinstance(criterion, nn.Module):
            if type(criterion).__call__ is not nn.Module.__call__:
                raise TypeError(
                    f"{type(criterion).__name__} overrides __call__, which bypasses "
                    "hooks; move its code to forward, or attach a function"
                )
            handle = criterion.register_forward_hook(
                Hook(self._after_module), with_kwargs=True, always_call=True
            )
            self._undo: Callable[[], None] = handle.remove
        elif callable(criterion):
            bound = getattr(criterion, "keywords", {})  # of a functools.partial
            self._reduction = bound.get("reduction", self._reduction)
            self.criterion = _dispatcher(criterion)
            self.criterion.dai_watchers.append(self)
            self._undo = functools.partial(_forget, self.criterion, self)
        else:
            raise TypeError(
                "criterion must be a module, a callable, or None if the model returns "
                f"the loss itself; got {type(criterion).__name__}"
            )

    def after(
        self, criterion: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> Any:
        """The combined loss if the call is this attachment's, else None."""
        call = self._match(args, kwargs) if torch.is_grad_enabled() else None
        if call is None:
            return None
        if result is None and raising():
            return self._discard()
        call.reduction = self._reduction or call.reduction
        try:
            call.run(criterion, result)
            return self._combine(call)
        except BaseException:
            self._discard()
            raise

    def remove(self) -> None:
        """Restores what was there before."""
        self._undo()

    def _after_module(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        return self.after(module.forward, args, kwargs, out)


def raising() -> bool:
    """Whether this code runs because a call has just raised.

    Hooks registered with `always_call` get None then, as if that had been returned.
    """
    return sys.exc_info()[1] is not None


def _dispatcher(function: Any) -> Any:
    """A stand-in for the function, put wherever a module holds it under any name."""
    dispatcher = function if hasattr(function, "dai_watchers") else _wrap(function)
    if not dispatcher.dai_watchers:
        dispatcher.homes = _homes(dispatcher.function)
        for home, name in dispatcher.homes:
            home[name] = dispatcher
    return dispatcher


def _wrap(function: Any) -> Any:
    watchers: list[CriterionHooks] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except BaseException:
            for watcher in watchers:
                watcher.after(function, args, kwargs, None)
            raise
        for watcher in watchers:
            combined = watcher.after(function, args, kwargs, result)
            if combined is not None:
                return combined
        return result

    vars(call).update(dai_watchers=watchers, function=function, homes=[])
    return call


def _homes(function: Any) -> list[tuple[dict[str, Any], str]]:
    modules = [m for m in list(sys.modules.values()) if isinstance(m, type(sys))]
    return [
        (vars(module), name)
        for module in modules
        for name, value in list(vars(module).items())
        if value is function
    ]


def _forget(dispatcher: Any, watcher: CriterionHooks) -> None:
    dispatcher.dai_watchers.remove(watcher)
    if dispatcher.dai_watchers:
        return
    for home, name in dispatcher.homes:
        if home.get(name) is dispatcher:
            home[name] = dispatcher.function


def _key(tensor: Tensor) -> Any:
    if tensor.grad_fn is None:
        return id(tensor)
    return tensor.grad_fn, tensor.output_nr


def _describe(leaves: Sequence[Any]) -> str:
    shapes = [
        list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves
    ]
    return f"tensors of shapes {shapes}"
