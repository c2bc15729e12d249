"""`attach`: how an objective meets a training loop that knows nothing of it.

It works through four kinds of hooks: before the network's forward images become rows,
at each chosen layer its loss is taken, after the forward the caller gets the first
view's rows, and after the criterion the losses of all views become the objective.
"""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import Layers, unwrap
from dai_plugin.losses.weights import Law
from dai_plugin.training.hooks import Hook, in_backward, logger
from dai_plugin.training.objective import NO_DATA_PARALLEL, Objective, Schedule, When
from dai_plugin.training.outputs import Call, Outputs
from dai_plugin.training.watch import CriterionHooks, raising
from dai_plugin.views.expand import FirstView, repeat_targets
from dai_plugin.views.normalization import Statistics
from dai_plugin.views.schemes import Scheme, Transform


def attach(
    model: nn.Module,
    criterion: Any = None,
    *,
    num_views: int = 2,
    alpha: float = 0.1,
    beta: float = 0.0,
    layers: Layers = "auto",
    layer_weights: Law = "exponential",
    last_to_first: float = 10.0,
    scheme: str | Scheme | Transform = "heavier",
    mean: Statistics | None = None,
    std: Statistics | None = None,
    first_view: FirstView = "clean",
    correction: int = 0,
    sync: bool = False,
    alpha_schedule: Schedule | None = None,
    when: When = "training",
    seed: int | None = None,
    strict: bool = True,
) -> "Attachment":
    """Trains the network for data augmentation invariance, in place.

    From now on a training forward of B images runs the network once on
    `num_views * B` rows and returns the first view's B rows; the criterion, called on
    them, averages the task loss over the views and adds the invariance loss of each
    layer (arXiv:1906.04547). Evaluation is untouched.

    Args:
        model: any network, wrapped (DistributedDataParallel, `torch.compile`) or not.
        criterion: a module; a function that the loop looks up by its module-level name
            (`F.cross_entropy`); any other callable (then call the returned one); or
            None if the model returns the loss itself (`output.loss`).
        num_views: M, the views of each image.
        alpha: weight of the invariance losses, spread over the layers.
        beta: weight of the class-wise invariance losses; needs hard labels.
        layers: "auto", names, glob patterns, module classes, or a callable
            `(name, module) -> bool`.
        layer_weights: "exponential", "linear", "uniform", or numbers, one a layer or by
            name.
        last_to_first: ratio of the last layer's weight to the first's.
        scheme: "light", "heavier", "photometric", "halved", a `Scheme`, or a callable
            (kornia or torchvision v2 pipeline) on float batches `[N, C, H, W]` in
            [0, 1].
        mean: of the normalisation that the images carry, a number or one a channel;
            uint8 images are scaled to [0, 1] and get this normalisation.
        std: of that normalisation. Left out, both are taken from the model's
            configuration or guessed from the first batch, with a warning.
        first_view: "clean" keeps the batch as the loop made it as view 0; "augmented"
            transforms it too, as the paper does.
        correction: 0 as in the paper, or 1 (distinct pairs only).
        sync: statistics over all ranks.
        alpha_schedule: from the number of training forwards so far to a multiplier of
            alpha and beta.
        when: "training" (model.training and gradients enabled) or "grad" (gradients
            enabled).
        seed: of the views; None takes `torch.initial_seed()`.
        strict: raise when a second training forward does not reach the criterion.

    Returns:
        An `Attachment`, which unpacks into `(model, criterion)`.

    Raises:
        ValueError: a number out of range, or no layer chosen.
        KeyError: a layer name that does not exist.
        TypeError: a criterion that cannot be watched, or `DataParallel`.
        RuntimeError: something is attached to this network already.
    """
    return Attachment(
        model,
        criterion,
        num_views=num_views,
        alpha=alpha,
        beta=beta,
        layers=layers,
        layer_weights=layer_weights,
        last_to_first=last_to_first,
        scheme=scheme,
        mean=mean,
        std=std,
        first_view=first_view,
        correction=correction,
        sync=sync,
        alpha_schedule=alpha_schedule,
        when=when,
        seed=seed,
        strict=strict,
    )


def attached(model: nn.Module) -> "Attachment | None":
    """The attachment of this network, None without one."""
    for hook in unwrap(model)._forward_pre_hooks.values():
        if isinstance(hook, Hook) and isinstance(hook.owner, Attachment):
            return hook.owner
    return None


class Attachment(Objective):
    """What `attach` returns; also a context manager that removes itself."""

    def __init__(self, model: nn.Module, criterion: Any, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.model = model
        self._outputs: Outputs | None = None
        self._carrier: int | None = None  # which output the invariance terms go with
        self._reached: int | None = None  # which other one reached the criterion
        self._warned_evaluation = self._warned_ended = self._warned_around = False
        self._ended: list[weakref.ref[Tensor]] = []
        try:
            self._criterion = (
                None
                if criterion is None
                else CriterionHooks(
                    criterion, self._match, self._combine, self._discard
                )
            )
        except TypeError:
            super().remove()
            raise
        opaque: Any = torch.compiler.disable
        # Opaque to the compiler: what happens once a step would break its graph in many
        # places, while the network itself, layer hooks included, stays one graph.
        before = Hook(opaque(self._before), self)
        after = Hook(opaque(self._after), self)
        self._handles = [
            self.base.register_forward_pre_hook(before, with_kwargs=True),
            self.base.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    @property
    def criterion(self) -> Any:
        """The criterion that the loop is to call."""
        return self._criterion.criterion if self._criterion else None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.criterion))

    def __repr__(self) -> str:
        return (
            f"Attachment(num_views={self.num_views}, alpha={self.alpha}, "
            f"{len(self.layers)} layers of {type(self.base).__name__})"
        )

    def remove(self) -> None:
        """Takes away every hook that attach set, and nothing else's."""
        if self._removed:
            return
        super().remove()
        for handle in self._handles:
            handle.remove()
        if self._criterion is not None:
            self._criterion.remove()

    def abandon(self) -> None:
        """Counts a training forward whose loss was never taken, and lets go of it.

        If another output than the first one reached the criterion, the invariance terms
        go with that one from now on.

        Raises:
            RuntimeError: it is the second one, and `strict`.
        """
        if self._open and self._reached is not None and self._carrier is None:
            self._open, self._carrier = False, self._reached
            self._missed += 1
            logger.warning(
                "the criterion got output %d of the network and never the first one, "
                "with which the invariance losses went: they were not trained in this "
                "step, and go with output %d from now on",
                self._carrier,
                self._carrier,
            )
        super().abandon()

    def release(self) -> None:
        """Lets go of all that is held of the step."""
        super().release()
        self._reached = None
        if self._outputs is not None:
            self._ended = [weakref.ref(t) for t in self._outputs.returned()]
            self._outputs.release()
            self._outputs = None

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if getattr(module, "_is_replica", False):
            raise TypeError(NO_DATA_PARALLEL)
        if not self.active:
            if not self.base.training:  # a look under no_grad leaves the step open
                self.abandon()
            return None
        if in_backward():
            raise RuntimeError(
                "the whole attached network is recomputed by activation checkpointing, "
                "which would draw other views; checkpoint the blocks inside it instead"
            )
        if self._hooks.armed:
            self._discard()  # an interrupt ended the forward before this one
        leaves, structure = pytree.tree_flatten((args, kwargs))
        place = _find_images(leaves)
        leaves[place] = self.begin(leaves[place])
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        if self._criterion is None and isinstance(kwargs.get("labels"), Tensor):
            self.refuse_dense(kwargs["labels"], self._images)
            kwargs["labels"] = repeat_targets(kwargs["labels"], self.num_views)
        return args, kwargs

    def _after(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not self._hooks.armed:
            return self._watch_evaluation(output)
        if output is None and raising():
            return self._discard()
        try:
            self.measured()
            self._outputs = Outputs(
                output, self._hooks.rows, self.num_views, self._carrier
            )
            first = self._outputs.first
            return first if self._criterion else self._with_loss(first, kwargs)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        self._open = False
        self.release()

    def _match(self, args: Sequence[Any], kwargs: Any) -> Call | None:
        if self._outputs is None:
            self._watch_ended((args, kwargs))
            self._watch_around((args, kwargs))
            return None
        return Call(self._outputs, self.num_views, args, kwargs) or None

    def _combine(self, call: Call) -> Tensor:
        task = call.mean()
        if not call.carries:
            self._reached = call.reached
            return self.factor * task
        images = call.outputs.images
        for target in call.targets:
            # A float argument of another shape is no target (the images, say).
            if not target.is_floating_point() or target.shape in call.shapes:
                self.refuse_dense(target, images)
        labels = call.labels if self.beta else None
        return self.total(
            task,
            None if labels is None else repeat_targets(labels, self.num_views),
            scale=images if call.reduction == "sum" else 1.0,
        )

    def _with_loss(self, first: Any, kwargs: Any) -> Any:
        """The output of a model that returns its own loss, with the objective in it."""
        named = isinstance(first, dict)
        task = first.get("loss") if named else getattr(first, "loss", None)
        if not isinstance(task, Tensor):
            raise TypeError(
                f"criterion=None means that the model returns its loss (output.loss or "
                f'output["loss"]), but it returned {type(first).__name__} without one; '
                "give attach the criterion, or the model its labels"
            )
        scale: float | Tensor = 1.0
        if kwargs.get("num_items_in_batch") is not None:
            # The loss is a sum over all rows divided by the loop's count of images.
            scale = self._images / kwargs["num_items_in_batch"]
            task = task / self.num_views
        total = self.total(task, kwargs.get("labels"), scale)
        if named:
            first["loss"] = total
        elif isinstance(first, tuple):
            first = first._replace(loss=total)  # type: ignore[attr-defined]
        else:
            first.loss = total
        return first

    def _watch_ended(self, arguments: Any) -> None:
        """Warns once if the criterion is called on outputs of a step that has ended."""
        leaves = pytree.tree_leaves(arguments)
        if not self._warned_ended and any(
            r() is x for r in self._ended for x in leaves
        ):
            self._warned_ended = True
            logger.warning(
                "the criterion was called on outputs whose step had ended (with its "
                "backward, or with another forward): that call returned the stock loss"
            )

    def _watch_around(self, arguments: Any) -> None:
        """Warns once if training goes on around the attached network."""
        if self._warned_around or self._forwards or not self.base.training:
            return
        leaves = pytree.tree_leaves(arguments)
        if any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
            self._warned_around = True
            logger.warning(
                "the criterion was called in training before the attached network was: "
                "that call returned the stock loss, as it should if it belongs to "
                "another network. Call the network that was given to attach, "
                "model(images): neither model.forward(images), nor a copy of it, nor a "
                "network inside it"
            )

    def _watch_evaluation(self, output: Any) -> None:
        """Warns once if a network in evaluation mode is trained past the plugin."""
        if self._warned_evaluation or not torch.is_grad_enabled() or self.active:
            return
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._warn_evaluation)  # type: ignore[no-untyped-call]
                return

    def _warn_evaluation(self, _: Tensor) -> None:
        if not self._warned_evaluation:
            self._warned_evaluation = True
            logger.warning(
                "gradients flow through a network in evaluation mode, without views "
                'and invariance loss; attach with when="grad" to train it so'
            )


def _find_images(leaves: Sequence[Any]) -> int:
    shapes = []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            if leaf.dim() == 4:
                return i
            shapes.append(list(leaf.shape))
    raise ValueError(
        f"no batch of images [B, C, H, W] among the arguments of the network, which "
        f"have the shapes {shapes}; a single image is images[None]"
    )
