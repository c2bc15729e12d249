"""The training of one trial: the loop of the README, on tensors in memory."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from parts import InMemory
from study_length import Length
from study_settings import Training, scheme_of
from torch import Tensor, nn

import dai_plugin
from dai_plugin.views.expand import expand, mix_seed
from dai_plugin.views.normalization import Normalization
from dai_plugin.views.schemes import find_scheme

# Mixed into the seed of a trial: of the order, of the loop's own augmentation, and of
# what the network draws itself (dropout).
_ORDER, _AUGMENT, _NOISE = 2, 3, 4
_PARTS = 20  # of the training, of each of which the mean loss is kept


@dataclass(frozen=True)
class Trained:
    """What a training took and came to.

    Attributes:
        images: that were shown, each as often as it was.
        rows: that the network ran on.
        steps: of the optimizer.
        cpu_seconds: of the process.
        seconds: by the clock.
        losses: what the criterion returned, means over each twentieth of the steps.
        diverged: the step whose loss was no number; None: all were.
    """

    images: int
    rows: int
    steps: int
    cpu_seconds: float
    seconds: float
    losses: list[float]
    diverged: int | None


def train(
    model: nn.Module,
    data: InMemory,
    training: Training,
    keywords: dict[str, Any] | None,
    known: Normalization,
    seed: int,
    device: torch.device,
) -> Trained:
    """Trains a network in place; it is stock afterwards.

    The order of the images depends on the seed and their number alone, and views and
    augmentation on seed and step: arms with equal steps see the same.

    Args:
        model: on the device.
        data: training images.
        training: how.
        keywords: of attach; None trains the plain loop.
        known: the normalisation of the images.
        seed: of the trial.
        device: of the network.
    """
    length = Length.of(training, keywords, len(data))
    criterion, attachment = nn.CrossEntropyLoss(), None
    if keywords is not None:
        own = {"mean": known.mean, "std": known.std, "seed": seed}
        attachment = dai_plugin.attach(model, criterion, **keywords, **own)
    optimizer = torch.optim.SGD(
        model.parameters(),
        training.lr,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length.steps)
    batches = Batches(data, length.images, training, known, seed, device)
    model.train()
    cpu, start, losses, diverged = time.process_time(), time.monotonic(), [], None
    torch.manual_seed(mix_seed(seed, _NOISE))
    for step, (images, targets) in zip(range(length.steps), batches, strict=False):
        output = model(images)
        loss = criterion(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if not loss.isfinite():
            diverged = step
            break
    took = time.process_time() - cpu, time.monotonic() - start
    settings = None
    if attachment is not None:
        attachment.remove()
        settings = attachment.settings
    rows = sum(_rows(settings, length.images, step) for step in range(len(losses)))
    shown = length.images * len(losses)
    return Trained(shown, rows, len(losses), *took, _means(losses), diverged)


class Batches:
    """Batches of normalised images without end.

    Every image comes once before any comes again; a batch may lie across that border.

    Args:
        data: the images.
        size: of a batch.
        training: which may augment them.
        known: their normalisation.
        seed: of the trial.
        device: where they go.
    """

    def __init__(
        self,
        data: InMemory,
        size: int,
        training: Training,
        known: Normalization,
        seed: int,
        device: torch.device,
    ) -> None:
        self._images, self._targets = data.images.to(device), data.targets.to(device)
        self._size, self._known, self._seed = size, known, seed
        told = training.augment
        self._scheme = None if told is None else find_scheme(scheme_of(told))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step, chosen in enumerate(order(len(self._images), self._size, self._seed)):
            images = self._known.prepare(self._images[chosen])
            images = images.contiguous(memory_format=torch.channels_last)
            if self._scheme is not None:
                images = expand(
                    images,
                    1,
                    self._scheme,
                    first_view="augmented",
                    normalization=self._known,
                    seed=mix_seed(self._seed, _AUGMENT, step),
                )
            yield images, self._targets[chosen]


def order(count: int, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of the images of one batch after another, without end."""
    left, epoch = torch.empty(0, dtype=torch.int64), 0
    while True:
        while len(left) < size:
            own = torch.Generator().manual_seed(mix_seed(seed, _ORDER, epoch))
            left, epoch = (
                torch.cat([left, torch.randperm(count, generator=own)]),
                epoch + 1,
            )
        yield left[:size]
        left = left[size:]


def _rows(settings: dai_plugin.Settings | None, images: int, step: int) -> int:
    if settings is None or not settings.has_views(step):
        return images
    return settings.layout(images).rows


def _means(losses: list[float]) -> list[float]:
    """Of each of 20 parts, or of single ones where there are fewer."""
    parts = torch.tensor(losses).tensor_split(min(_PARTS, max(len(losses), 1)))
    return [part.mean().item() for part in parts]
