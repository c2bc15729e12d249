"""`check`: a dry run on copies, which says what two lines would do to a loop."""

import copy
import inspect
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dai_plugin.layers import unwrap, why_not
from dai_plugin.losses.classes import first_labels
from dai_plugin.settings import Keywords, Settings, shows_settings
from dai_plugin.training import given as given_views
from dai_plugin.training.arguments import Arguments, target_among
from dai_plugin.training.attachment import Attachment
from dai_plugin.training.criterion import told_ignore_index
from dai_plugin.training.follow import Follow, ignored_by
from dai_plugin.training.literal import literal_gradient, task_of
from dai_plugin.views.schemes import Given, find_scheme

_NEAR = 1e-3  # relative error of a gradient that counts as the same
# Below this share of the largest gradient one is rounding, as of a bias before a batch
# norm, which takes it out again.
_LEAST = 1e-2


@dataclass
class Check:
    """What a dry run found.

    Attributes:
        error: why the settings do not work with this network, loop and batch; empty if
            they do.
        repeated: shapes of the arguments that go to a row a view, by name.
        targets: how each of them, and each further argument, goes with the views.
        layers: chosen ones, with the weights of their losses.
        left_out: candidates that were not chosen, and why.
        normalization: what the images are taken to carry.
        reached: how the output reaches the loss.
        gradient_error: largest relative difference of a parameter's gradient from the
            literal formula, on these images; None if there was no gradient to compare.
        views: how many are made of which images.
        compared: images of the batch that were run.
        cost: rows a step over images a step, averaged over steps: the factor of the
            compute.
        warnings: what a run would be told.
    """

    error: str = ""
    repeated: dict[str, list[int]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    normalization: str = ""
    reached: str = ""
    gradient_error: float | None = None
    views: str = ""
    compared: int = 2
    cost: float = 1.0
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the objective arrives: no error, and the literal gradient."""
        return not self.error and (self.gradient_error or 0.0) < _NEAR

    def __str__(self) -> str:
        shares = ", ".join(f"{n} {share:.3g}" for n, share in self.layers.items())
        rows = ", ".join(f"{n} {shape}" for n, shape in self.repeated.items())
        error = self.gradient_error
        images = f"{self.compared} images"
        verdict = "not compared" if error is None else f"off by {error:.1e}"
        lines = {
            "result": "works" if self.ok else f"does not work: {self.error or verdict}",
            "rows": f"{self.views}: {rows}",
            "targets": "; ".join(f"{n} {how}" for n, how in self.targets.items()),
            "layers": f"{len(self.layers)}: {shares}",
            "left out": _summary(self.left_out),
            "pixels": self.normalization,
            "loss": self.reached,
            "gradient": f"{verdict}, against the literal formula on {images}",
            "cost": f"{self.cost:.4g} times the compute of a step for this batch size",
            **{f"warning {i}": text for i, text in enumerate(self.warnings, 1)},
        }
        return "\n".join(f"{name:10} {text}" for name, text in lines.items() if text)


@shows_settings()
def check(
    model: nn.Module,
    criterion: Any = None,
    batch: Any = None,
    **settings: Unpack[Keywords],
) -> Check:
    """Tries the two lines on copies of network and criterion; nothing else changes.

    Args:
        model: as for `attach`.
        criterion: as for `attach`.
        batch: what the loop gets from its loader: `(images, targets)` for
            `criterion(model(images), targets)`, more arguments of the network between
            the two; without a criterion all arguments of the network, a dict for its
            keywords. Its first two images are used, more with `share` below 1: two get
            further views.
        **settings: as for `attach`.

    Returns:
        What was found, which is printed, too.
    """
    given = Settings(**settings)
    some = "each image" if given.share == 1 else f"a share of {given.share:g}"
    found = Check(views=f"{given.num_views} views of {some}", cost=given.num_views)
    with _recorded(found.warnings), torch.random.fork_rng():
        try:
            _try(found, unwrap(model), criterion, batch, given)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            found.error = str(error.args[0] if error.args else error)
    print(found)
    return found


def _try(
    found: Check, base: nn.Module, criterion: Any, batch: Any, settings: Settings
) -> None:
    found.cost = settings.cost(len(_images_in(batch)))
    found.compared = math.ceil(2 / settings.share)
    args, kwargs, targets = _call_of(base, criterion, batch, found.compared)
    network, other = copy.deepcopy(base), copy.deepcopy(base)
    judge, theirs = copy.deepcopy(criterion), copy.deepcopy(criterion)
    rows: list[Any] = []
    shown = args, kwargs
    if isinstance(find_scheme(settings.scheme), Given):
        shown = given_views.found_in(args, kwargs, settings.num_views)[:2]
    arguments = Arguments(*shown, base, settings.targets)
    attachment = Attachment(network, judge, settings)
    try:
        found.layers = attachment._steps.terms.weights()
        found.left_out = why_not(base, settings.terms[0].layers)
        network.train()
        network.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append((args, kwargs)), with_kwargs=True
        )
        torch.manual_seed(0)
        output = network(*args, **kwargs)
        total = task_of(output, attachment.criterion, targets, settings.loss)
        names = ("images", *arguments.others)
        shapes = (arguments.images, *arguments.others.values())
        found.repeated = {n: list(t.shape) for n, t in zip(names, shapes, strict=True)}
        step = attachment._steps.current
        assert step is not None
        told = ignored_by(base)
        if criterion is not None:
            told = told_ignore_index(criterion, (output, targets), {})
        if criterion is None and settings.needs_targets:
            labels = target_among(arguments.others)
        else:
            leaves = pytree.tree_leaves(targets)
            labels = first_labels([t for t in leaves if isinstance(t, Tensor)])
        following = Follow(step, settings, ignored_by(base))
        for name, leaf in arguments.others.items():
            how = following.how(following.kind_of_argument(name, leaf))
            found.targets[name] = f"{list(leaf.shape)} {how}"
        state = attachment.state_dict()
        found.normalization = f"mean {state['mean']}, std {state['std']}"
        stats = attachment.stats()
        found.reached = (
            "the network's own" if criterion is None else "the criterion's"
        ) + f" on the first view's output; {stats['criterion_calls']} of 1 reached"
        if not stats["criterion_calls"]:
            found.error = "the criterion did not get what the network returned"
            return
        of_views = _targets_of_views(found, attachment, told, output, targets)
        total.mean().backward()  # type: ignore[no-untyped-call]
        expected = literal_gradient(
            other.train(),
            theirs,
            rows[0],
            of_views,
            attachment.layers,
            settings,
            settings.layout(len(arguments.images)),
            labels,
            settings.ignored(told),
        )
        found.gradient_error = _worst(network, expected)
    finally:
        attachment.remove()


def _targets_of_views(
    found: Check, attachment: Attachment, told: int | None, output: Any, targets: Any
) -> list[Any]:
    """The targets that each view's output meets; says how they came there."""
    step, settings = attachment._steps.current, attachment.settings
    assert step is not None
    following, layout = Follow(step, settings, told), step.layout
    shapes = [t.shape for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    leaves, structure = pytree.tree_flatten_with_path(targets)
    views: list[list[Any]] = [[] for _ in range(settings.num_views)]
    for path, leaf in leaves:
        own = isinstance(leaf, Tensor) and leaf.shape[:1] == (layout.images,)
        kind = following.kind(leaf, shapes) if own else None
        rows = following.rows(leaf, kind) if own else leaf
        for v, view in enumerate(views):
            view.append(rows[layout.view(v)] if own else leaf)
        if own:
            name = f"target{pytree.keystr(path)}"
            found.targets[name] = f"{list(leaf.shape)} {following.how(kind)}"
    return [pytree.tree_unflatten(view, structure) for view in views]


def _images_in(batch: Any) -> Tensor:
    if batch is None:
        raise ValueError("check needs a batch, as the loop gets it from its loader")
    images = next(
        (
            t
            for t in pytree.tree_leaves(batch)
            if isinstance(t, Tensor) and t.dim() in (4, 5)
        ),
        None,
    )
    if images is None:
        raise ValueError("the batch holds no images [B, C, H, W]")
    return images


def _call_of(
    base: nn.Module, criterion: Any, batch: Any, some: int
) -> tuple[Any, Any, Any]:
    """Arguments of the network, its keywords, and the targets: of so many images."""
    count = len(_images_in(batch))

    def first_few(leaf: Any) -> Any:
        many = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == count
        return leaf[:some].clone() if many else leaf

    batch = pytree.tree_map(first_few, batch)
    if criterion is not None:
        *args, targets = batch
        return tuple(args), {}, targets
    if isinstance(batch, dict) and not _takes_a_dict(base, batch):
        return (), batch, None
    return (tuple(batch) if isinstance(batch, list | tuple) else (batch,)), {}, None


def _takes_a_dict(base: nn.Module, batch: dict[str, Any]) -> bool:
    # Decorators leave their own code, and the signature of what they wrap.
    return not set(batch) & set(inspect.signature(base.forward).parameters)


def _summary(left_out: dict[str, str]) -> str:
    """How many modules were left out for what reason, and the first of each."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason.split(" '")[0], []).append(name)
    return "; ".join(
        f"{len(names)} {reason} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for reason, names in by_reason.items()
    )


def _worst(network: nn.Module, expected: dict[str, Tensor]) -> float | None:
    """Largest relative difference from the expected gradients, None without any."""
    floor = _LEAST * max(
        (right.norm().item() for right in expected.values()), default=0
    )
    errors = []
    for name, parameter in network.named_parameters():
        grad, right = parameter.grad, expected.get(name)
        if right is None or not floor:
            continue
        got = torch.zeros_like(right) if grad is None else grad.double()
        errors.append((got - right).norm().item() / max(right.norm().item(), floor))
    return max(errors, default=None)


@contextmanager
def _recorded(texts: list[str]) -> Iterator[None]:
    """Keeps the package's warnings instead of showing them."""
    logger = logging.getLogger("dai_plugin")

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            texts.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
