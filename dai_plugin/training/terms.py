"""All terms of one network: what they measure in a forward, and what that comes to.

Ratios of variances come from the sums that the taps took on the way; every other loss
is computed from the activations that the step kept: once the forward has ended or, if
it needs the loop's targets, when the criterion brings them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dai_plugin.layers import select_layers
from dai_plugin.losses import ranks
from dai_plugin.losses.ratio import variance_ratio
from dai_plugin.losses.tap import tap
from dai_plugin.losses.weights import key_name
from dai_plugin.settings import Settings
from dai_plugin.training.hooks import LayerHooks
from dai_plugin.training.placed import Placed
from dai_plugin.training.predictions import predictions
from dai_plugin.training.step import Step
from dai_plugin.wrappers import OUTPUT


class Terms:
    """The terms of one network.

    Args:
        base: the network.
        settings: of the run.

    Attributes:
        placed: each with its layers.
        names: of their layers, in the order of the network.
    """

    def __init__(self, base: nn.Module, settings: Settings) -> None:
        self.placed = [
            Placed(term, select_layers(base, term.layers), settings)
            for term in settings.terms
        ]
        chosen = [name for placed in self.placed for name in placed.chosen]
        self.names = select_layers(base, list(dict.fromkeys(chosen)))
        self._settings = settings
        self._agreed: dict[str, int] = {}

    def weights(self) -> dict[str, float]:
        """What the losses at each layer weigh together, if each fires once."""
        found = dict.fromkeys(self.names, 0.0)
        for each in self.placed:
            for name, share in zip(each.chosen, each.nominal(), strict=True):
                found[name] += each.term.weight * share
        return found

    def hooks(self, base: nn.Module) -> LayerHooks:
        """Hooks on their layers; the network's output is taken without."""
        names = [name for name in self.names if name != OUTPUT]
        return LayerHooks(base, names, self._users(True), self._users(False))

    def _users(self, tapped: bool) -> set[str]:
        kinds = [each for each in self.placed if each.term.tapped == tapped]
        return {name for each in kinds for name in each.chosen}

    @property
    def droppable(self) -> set[str]:
        """Layers that only "auto" chose."""
        named = [p.chosen for p in self.placed if p.term.layers != "auto"]
        return set(self.names).difference(*named)

    def check(self, step: Step, left_out: Iterable[str]) -> None:
        """Checks that every term still has a layer.

        Raises:
            RuntimeError: one has none.
        """
        if not all(
            each.keys(step) for each in self.placed if OUTPUT not in each.chosen
        ):
            raise RuntimeError(
                "every layer that layers='auto' chose is overwritten in place by a "
                f"later operation: {list(left_out)}; name layers with layers="
            )

    def measure(self, step: Step, output: Any, reached: Tensor | None = None) -> None:
        """Takes the losses that need no targets.

        Args:
            step: whose forward has ended.
            output: what the network returned, with all its rows.
            reached: the tensor in it that goes to the criterion, if there is one.
        """
        self._take_output(step, output, reached)
        self._check_ranks(step)
        keys, ratios = list(step.parts), self._ratios(step)
        step.losses = {}
        for number, each in enumerate(self.placed):
            if each.term.tapped:
                own = each.keys(step)
                places = [keys.index(key) for key in own]
                step.losses[number] = ratios if own == keys else ratios[places]
            elif not each.term.needs_targets:
                step.losses[number] = self._everywhere(step, each.losses(step))

    def losses(
        self, step: Step, targets: Tensor | None, ignore_index: int
    ) -> dict[int, Tensor]:
        """Losses `[calls]` by the number of the term, those of weight 0 left out.

        Args:
            step: that was measured.
            targets: `[B, ...]` of the loop.
            ignore_index: the label of rows that have none.

        Raises:
            RuntimeError: after a backward of the step, which let go of activations.
        """
        assert step.losses is not None
        found = dict(step.losses)
        for number, each in enumerate(self.placed):
            if number not in found and step.multiplier * each.term.weight > 0:
                found[number] = each.losses(step, targets, ignore_index)
        return found

    def weighed(
        self, step: Step, losses: dict[int, Tensor]
    ) -> list[tuple[float, Tensor, Tensor]]:
        """Weight, losses and shares of the layers, of each term that weighs anything.

        Args:
            step: of the losses.
            losses: `[calls]` by the number of the term.
        """
        return [
            (each.term.weight, losses[number], each.weights(step, losses[number]))
            for number, each in enumerate(self.placed)
            if step.multiplier * each.term.weight > 0
        ]

    def _take_output(self, step: Step, output: Any, reached: Tensor | None) -> None:
        """Measures what the network returned, if a term is taken there."""
        users = [each.term for each in self.placed if OUTPUT in each.chosen]
        if not users:
            return
        key = OUTPUT, 0
        loss = self._settings.loss if reached is None else None
        found = predictions(output, step.groups.rows, loss, reached)
        # The network's own memory goes to the loop, which may write into it.
        rows = found.clone()
        step.fired = (*step.fired, key)
        step.shapes[key] = rows.shape
        if any(term.tapped for term in users):
            _, step.parts[key], centre = tap(rows, step.groups)
            if centre is not None:
                step.centres[key] = centre
        if not all(term.tapped for term in users):
            step.activations[key] = rows

    def _check_ranks(self, step: Step) -> None:
        """Checks that all ranks measure the same, before anything is summed."""
        if not step.groups.centred:
            return
        sizes = {key_name(key): len(centre) for key, centre in step.centres.items()}
        for key, activation in step.activations.items():
            sizes[key_name(key)] = activation[0].numel()
        if sizes != self._agreed:
            ranks.check_same_layers(sizes)
            self._agreed = sizes

    def _ratios(self, step: Step) -> Tensor:
        """The ratios of variances `[calls]` of the forward that ended."""
        if not step.parts:
            return torch.empty(0)
        parts = list(step.parts.values())
        stacked = torch.stack([each.to(parts[-1].device) for each in parts])
        if not step.groups.centred:
            return variance_ratio(stacked, step.groups)
        return ranks.global_losses(stacked, list(step.centres.values()), step.groups)

    def _everywhere(self, step: Step, losses: Tensor) -> Tensor:
        """Means over images `[calls]`: over those of all ranks, if so wished."""
        if not step.groups.centred:
            return losses
        return ranks.global_means(losses, step.groups.images)
