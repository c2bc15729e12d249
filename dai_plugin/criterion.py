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
    f"{name}Backward{suffix}"
    for name, suffixes in {
        "Clone": "0", "Alias": "0", "ToCopy": "0", "View": "0", "UnsafeView": "0",
        "ReshapeAlias": "0", "Unsqueeze": "0", "Squeeze": "012", "_DDPSink": [""],
    }.items()
    for suffix in suffixes
)  # fmt: skip


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
        first = [self._views[i][0] if i in self._views else leaf
                 for i, leaf in enumerate(leaves)]  # fmt: skip
        self.first: Any = pytree.tree_unflatten(first, structure)

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
        return self._views[index][v].reshape(like.shape).to(like.dtype)

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
        targets: the other tensors among the arguments.
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
        if isinstance(criterion, nn.Module):
            if type(criterion).__call__ is not nn.Module.__call__:
                raise TypeError(
                    f"{type(criterion).__name__} overrides __call__, which bypasses "
                    "hooks; move its code to forward, or attach a function"
                )
            self._reduction = getattr(criterion, "reduction", None)
            handle = criterion.register_forward_hook(
                Hook(self._after_module), with_kwargs=True, always_call=True
            )
            self._undo: Callable[[], None] = handle.remove
        elif callable(criterion):
            self._reduction = None
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
        """The combined loss if the call is this attachment's, else None.

        A `result` of None says that the stock call raised.
        """
        call = self._match(args, kwargs) if torch.is_grad_enabled() else None
        if call is None:
            return None
        if result is None:
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


def _dispatcher(function: Any) -> Any:
    """A stand-in for the function, put wherever modules hold it under its name."""
    if hasattr(function, "dai_watchers"):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = None
        try:
            result = function(*args, **kwargs)
        finally:
            for watcher in call.dai_watchers:  # type: ignore[attr-defined]
                combined = watcher.after(function, args, kwargs, result)
                if combined is not None:
                    result = combined
        return result

    name = getattr(function, "__name__", "")
    homes = [
        vars(module)
        for module in list(sys.modules.values())
        if isinstance(module, type(sys)) and vars(module).get(name) is function
    ]
    for home in homes:
        home[name] = call
    vars(call).update(dai_watchers=[], function=function, homes=homes)
    return call


def _forget(dispatcher: Any, watcher: CriterionHooks) -> None:
    dispatcher.dai_watchers.remove(watcher)
    if dispatcher.dai_watchers:
        return
    for home in dispatcher.homes:
        if home.get(dispatcher.__name__) is dispatcher:
            home[dispatcher.__name__] = dispatcher.function


def _key(tensor: Tensor) -> Any:
    if tensor.grad_fn is None:
        return id(tensor)
    return tensor.grad_fn, tensor.output_nr


def _describe(leaves: Sequence[Any]) -> str:
    shapes = [
        list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves
    ]
    return f"tensors of shapes {shapes}"
