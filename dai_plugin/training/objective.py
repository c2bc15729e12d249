"""The training objective: task loss and invariance losses, mixed by alpha and beta.

    L = (1 - alpha - beta) * L_task + sum_l alpha_l * L_inv_l + sum_l beta_l * L_class_l

An `Objective` belongs to one network: it makes the views of a step, has the hooks
measure the chosen layers, and mixes the losses. It knows no loop and no criterion.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from dai_plugin import settings
from dai_plugin.layers import Layers, select_layers, unwrap
from dai_plugin.losses import ranks
from dai_plugin.losses.weights import Law, spread_weights
from dai_plugin.training.hooks import LayerHooks, hooked
from dai_plugin.views.expand import FirstView, expand, mix_seed
from dai_plugin.views.normalization import (
    Normalization,
    Statistics,
    from_batch,
    known_normalization,
)
from dai_plugin.views.schemes import Scheme, Transform, find_scheme, moves_pixels

logger = logging.getLogger("dai_plugin")
logger.setLevel(logging.INFO)

Schedule = Callable[[int], float]
When = Literal["training", "grad"]


NO_DATA_PARALLEL = (
    "DataParallel replicates the network at each step and loses its hooks; use "
    "DistributedDataParallel, as `accelerate launch train.py` does"
)


class Objective:
    """Views, hooks and weights of one network. See `attach` for the arguments."""

    def __init__(
        self,
        model: nn.Module,
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
        first_view: FirstView = "augmented",
        correction: int = 0,
        sync: bool = False,
        alpha_schedule: Schedule | None = None,
        when: When = "training",
        seed: int | None = None,
        strict: bool = True,
    ) -> None:
        settings.check(num_views, alpha, beta, correction, first_view, when, sync)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {model!r:.80}")
        if isinstance(model, nn.DataParallel):
            raise TypeError(NO_DATA_PARALLEL)
        self.base = unwrap(model)
        _check_network(self.base)
        self.num_views, self.alpha, self.beta = num_views, alpha, beta
        self.scheme, self.first_view = find_scheme(scheme), first_view
        self._schedule, self._when, self._strict = alpha_schedule, when, strict
        self._seed = torch.initial_seed() if seed is None else int(seed)
        self._normalization = known_normalization(self.base, mean, std)
        self._automatic = isinstance(layers, str) and layers == "auto"
        self._chosen = select_layers(self.base, layers)
        self._law: tuple[Law, float] = (layer_weights, last_to_first)
        spread_weights(*self._law, self._chosen, self._chosen)
        self._hooks = LayerHooks(self.base, self._chosen, correction, beta > 0, sync)
        self._weights: dict[Any, Tensor] = {}
        self._fired: list[str] = []
        self._losses: Tensor | None = None
        self._last: dict[str, Any] = dict.fromkeys(("losses", "task", "total"))
        self._forwards = self._calls = self._missed = 0
        self._step = self._images = 0
        self._multiplier = 1.0
        self._open = self._started = self._removed = False
        self._rank: int | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the chosen layers."""
        return list(self._hooks.names)

    @property
    def active(self) -> bool:
        """Whether a forward now would be a training forward."""
        training = self._when == "grad" or self.base.training
        return training and torch.is_grad_enabled() and not _tracing()

    @property
    def factor(self) -> float:
        """The weight of the task loss in this step, 1 - alpha - beta."""
        return 1 - self._multiplier * (self.alpha + self.beta)

    def begin(self, images: Tensor) -> Tensor:
        """Starts a training step: the rows `[num_views * B, C, H, W]` of the images."""
        if self._removed:
            raise RuntimeError("this attachment was removed: attach anew to train on")
        self.abandon()
        if images.dim() != 4:
            raise ValueError(
                f"images must be a batch [B, C, H, W], got {list(images.shape)}; a "
                "single image is images[None]"
            )
        if not len(images):
            raise ValueError(
                f"got an empty batch {list(images.shape)}: there is nothing to train on"
            )
        if self._rank is None:
            self._start(images)
        known = self._normalization or Normalization()
        images = known.prepare(images)
        self._multiplier = self._scheduled(self._step)
        rows = expand(
            images,
            self.num_views,
            self.scheme,
            first_view=self.first_view,
            normalization=known,
            seed=mix_seed(self._seed, self._rank or 0, self._step),
        )
        graph = self._multiplier * self.alpha > 0
        self._hooks.arm(rows.shape[0], self.num_views, graph)
        self._forwards += 1
        self._step += 1
        self._open, self._images = True, images.shape[0]
        return rows

    def measured(self) -> None:
        """Ends the forward of a step: takes over the losses of its layers."""
        self._hooks.disarm()
        if not self._started:
            self._prune()
        self._fired, self._losses = self._hooks.fired, self._hooks.losses()
        if not self._started:
            if not self._rank:
                self._tell()
            self._started = True

    def total(
        self, task: Tensor, labels: Tensor | None, scale: float | Tensor = 1.0
    ) -> Tensor:
        """The objective from the task loss, a fresh tensor.

        Args:
            task: of any shape; the invariance terms are added to each element.
            labels: `[num_views * B]` hard labels, for beta > 0.
            scale: of the invariance terms; B where the task loss is a sum over images.
        """
        self._hooks.check()
        self._calls += self._open
        self._open = False
        total = self.factor * task
        if self._multiplier * self.alpha > 0:
            assert self._losses is not None
            terms = self._weighted(self._losses, self.alpha, task.device)
            total = total + scale * self._multiplier * terms
        if self._multiplier * self.beta > 0:
            if labels is None:
                raise ValueError("beta > 0 needs labels, and none were given")
            losses = self._hooks.class_losses(labels)
            terms = self._weighted(losses, self.beta, task.device)
            total = total + scale * self._multiplier * terms
        self._last = {
            "losses": None if self._losses is None else self._losses.detach(),
            "task": task.detach(),
            "total": total.detach(),
        }
        if total.requires_grad:
            release = functools.partial(self._release_step, self._step)
            total.register_hook(release)  # type: ignore[no-untyped-call]
        return total

    def release(self) -> None:
        """Lets go of all that is held of the step."""
        self._hooks.clear()
        self._losses = None

    def _release_step(self, step: int, _: Tensor) -> None:
        if step == self._step:
            self.release()

    def abandon(self) -> None:
        """Counts a training forward whose loss was never taken, and lets go of it.

        Raises:
            RuntimeError: it is the second one, and `strict`.
        """
        self.release()
        if not self._open:
            return
        self._open = False
        self._missed += 1
        message = (
            "a training forward did not reach the criterion: its invariance loss was "
            "not trained. The criterion must get what the network returned, not the "
            "result of an operation on it (put log_softmax into the network or the "
            "criterion), and it must be the attached one (use what attach returned)"
        )
        if self._missed > 1 and self._strict:
            raise RuntimeError(f"{message}. This happened {self._missed} times")
        if self._missed == 1:
            logger.warning("%s. The next time is an error unless strict=False", message)

    def stats(self) -> dict[str, Any]:
        """Counters and the last values.

        Returns:
            "forwards", "criterion_calls" (training forwards that reached the criterion,
            each once), "missed" (those that did not), "layers" ({name: last invariance
            loss}), "task_loss", "total_loss", and "alpha" and "beta" as scheduled.
        """
        losses = self._last["losses"]
        values = [] if losses is None else losses.tolist()
        return {
            "forwards": self._forwards,
            "criterion_calls": self._calls,
            "missed": self._missed,
            "layers": dict(zip(self._fired, values, strict=False)),
            "task_loss": _mean(self._last["task"]),
            "total_loss": _mean(self._last["total"]),
            "alpha": self._multiplier * self.alpha,
            "beta": self._multiplier * self.beta,
        }

    def state_dict(self) -> dict[str, Any]:
        """Seed, step and input range: plain numbers.

        They are the same on every rank if `seed` was given, or torch was seeded alike.
        """
        known = self._normalization
        return {
            "seed": self._seed,
            "step": self._step,
            "mean": list(known.mean) if known else None,
            "std": list(known.std) if known else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues the random stream where `state_dict` was taken."""
        self._seed, self._step = int(state["seed"]), int(state["step"])
        self._multiplier = self._scheduled(max(self._step - 1, 0))
        if state["mean"] is not None:
            self._normalization = Normalization.given(
                state["mean"], state["std"], "restored"
            )

    def remove(self) -> None:
        """Takes away every hook that was set here, and nothing else's."""
        self.release()
        self._hooks.remove()
        self._open, self._removed = False, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _start(self, images: Tensor) -> None:
        if images.is_floating_point() and not images.isfinite().all():
            raise ValueError(
                "the first batch of images holds NaN or infinite values; check the "
                "data and its normalisation (a standard deviation of 0?)"
            )
        rank = ranks.rank()
        if self._normalization is None:
            self._normalization = ranks.from_first(
                lambda: from_batch(images), images.device
            )
            if rank == 0:
                logger.warning(
                    "mean and std were not given; normalisation taken: %s. Give mean= "
                    "and std= if the images carry another",
                    self._normalization,
                )
        self._rank = rank

    def _scheduled(self, step: int) -> float:
        multiplier = float(self._schedule(step)) if self._schedule else 1.0
        if not 0 <= multiplier * (self.alpha + self.beta) <= 1:
            raise ValueError(
                f"alpha_schedule returned {multiplier} at step {step}; times "
                f"alpha + beta = {self.alpha + self.beta} it must lie in [0, 1]"
            )
        return multiplier

    def _weighted(self, losses: Tensor, total: float, device: torch.device) -> Tensor:
        key = (*self._fired, total, device, losses.dtype)
        if key not in self._weights:
            # Kept on the device, because a copy from the host would wait for it.
            weights = spread_weights(*self._law, self._chosen, self._fired)
            self._weights[key] = torch.tensor(
                [total * weight for weight in weights],
                device=device,
                dtype=losses.dtype,
            )
        return torch.dot(losses.to(device), self._weights[key])

    def refuse_dense(self, target: Tensor, images: int) -> None:
        """Raises if the target of so many images has pixels, which views move apart.

        Raises:
            ValueError: so it is.
        """
        dense = target.dim() > 2 and target.shape[0] == images
        moved = self.num_views > 1 or self.first_view == "augmented"
        if dense and moved and moves_pixels(self.scheme):
            raise ValueError(
                f"targets of shape {list(target.shape)} belong to pixels, which the "
                f'scheme moves ({self.scheme}); use scheme="photometric"'
            )

    def _prune(self) -> None:
        """Lets "auto" leave out what the network overwrites in place."""
        spoiled = self._hooks.overwritten() if self._automatic else []
        if not spoiled:
            return
        self._hooks.drop(spoiled)
        logger.info("left out, because overwritten in place: %s", ", ".join(spoiled))
        if not self._hooks.fired:
            raise RuntimeError(
                "every layer that layers='auto' chose is overwritten in place by a "
                f"later operation: {spoiled}; name layers with layers="
            )

    def _tell(self) -> None:
        weights = spread_weights(*self._law, self._chosen, self._fired)
        shares = {
            name: self.alpha * weight
            for name, weight in zip(self._fired, weights, strict=True)
        }
        rows, sync = self._hooks.rows, self._hooks.sync
        told = [
            *settings.costs(rows, self.num_views, self.alpha, self.beta),
            f"{len(shares)} layers and weights: "
            + ", ".join(f"{name} {share:.3g}" for name, share in shares.items()),
            f"scheme: {self.scheme} ({self.first_view} first view)",
            f"normalisation: {self._normalization}",
            *settings.cautions(self.scheme, self.num_views, sync),
        ]
        if not logger.hasHandlers():
            # Nobody set up logging: what a run costs is to be seen all the same.
            logger.addHandler(logging.StreamHandler())
        logger.info("%s", "\n  ".join(["data augmentation invariance", *told]))


def _check_network(base: nn.Module) -> None:
    if hooked(base):
        raise RuntimeError(
            f"something is attached to this {type(base).__name__} already; remove it "
            "first: dai_plugin.attached(model).remove()"
        )


def _tracing() -> bool:
    return torch._C._get_tracing_state() is not None or torch.compiler.is_exporting()


def _mean(value: Tensor | None) -> float | None:
    return None if value is None else value.float().mean().item()
