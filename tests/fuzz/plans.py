"""What a case consists of, drawn from its seed."""

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dai_plugin import select_layers
from fuzz import criteria
from fuzz.literal import Rows, observe
from fuzz.networks import Network, draw_network

LOOPS = {
    "plain": 4, "accumulation": 2, "several losses": 2, "late backwards": 1,
    "clipping": 1, "copies": 1, "evaluation": 1, "looks": 1,
    "broken forward": 1, "broken criterion": 1,
}  # fmt: skip
SCHEMES = {
    "heavier": "heavier",
    "light": "light",
    "photometric": "photometric",
    "halved": "halved",
    "darker": lambda images: images * torch.rand(len(images), 1, 1, 1),
    "noise": lambda images: (images + 0.3 * torch.rand_like(images)).clamp(0, 1),
}
SCHEDULES = {
    "none": None,
    "falling": lambda step: 1 / (1 + step),
    "warm-up": lambda step: min(1.0, step / 2),
    "half": lambda step: 0.5,
}


def apart(activations: Tensor, targets: Tensor | None) -> Tensor:
    """A term of one's own."""
    return (activations - activations.mean(0)).square().mean()


TERMS = {"ratio": "ratio", "cosine": "cosine", "apart": apart}


@dataclass
class Batch:
    """Images and what belongs to each of them."""

    images: Tensor
    labels: Tensor
    others: Tensor
    meta: dict[str, Tensor]

    def arguments(self, net: Network, images: Tensor, shown: list[int]) -> Any:
        """Positional and keyword arguments of the network, those of the shown images.

        Args:
            net: the network.
            images: or rows.
            shown: the image of each of them.
        """
        given: dict[str, Any] = {}
        if "labels" in net.takes:
            given["labels"] = self.labels[shown]
        if "meta" in net.takes:
            repeated = {k: v[shown] for k, v in self.meta.items() if v.dim()}
            given["meta"] = {**self.meta, **repeated}
        if net.in_dict:
            return ({"images": images, **given},), {}
        return (images,), given


@dataclass
class Plan:
    """One case: network, loop, criterion, and the settings of the objective."""

    seed: int
    net: Network
    loop: str
    criterion_kind: str
    criterion: criteria.Criterion
    heads: list[tuple[str, float]]
    explicit: bool
    compiled: bool
    autocast: str
    settings: dict[str, Any]
    told: dict[str, Any]
    images: int
    size: tuple[int, int]
    channels: int
    generator: torch.Generator = field(default_factory=torch.Generator)

    def batch(self) -> Batch:
        """The next batch, not always of the same size."""
        count = self.images + int(torch.randint(2, (), generator=self.generator))
        dtype = self.net.head.weight.dtype
        uniform = torch.rand(
            count, self.channels, *self.size, generator=self.generator, dtype=dtype
        )
        labels = torch.randint(self.net.classes, (2, count), generator=self.generator)
        numbers = torch.randn(2, count, generator=self.generator, dtype=dtype)
        meta = {"angle": numbers[0], "size": numbers[1], "unit": numbers[0, 0].clone()}
        return Batch(uniform, labels[0], labels[1], meta)

    def rows(self, images: int, step: int) -> Rows:
        """Of a forward of so many images, the number `step` of its kind."""
        if step % self.settings["every"]:
            return Rows(images, images, 1)
        views = self.settings["num_views"]
        further = max(1, round(self.settings["share"] * images))
        return Rows(images, further if views > 1 else images, views)

    def __str__(self) -> str:
        net = self.net
        lines = [
            f"seed {self.seed}: {self.loop} loop, criterion {self.criterion_kind} on "
            f"{self.heads}, {'explicit' if self.explicit else 'attach'}, "
            f"compiled={self.compiled}, autocast {self.autocast}",
            f"{self.images} or one more images of {self.channels} x {self.size}, "
            f"settings {self.told}",
            f"network takes {net.takes}, in a dict: {net.in_dict}, returns "
            f"{net.packing}, aux: {net.has_aux}, ways: "
            f"{[(n, w) for n, m in net.named_modules() if (w := _way(m))]}",
            str(net),
        ]
        return "\n".join(lines)


def _way(module: Any) -> Any:
    found = vars(module)
    keys = ("way", "before", "after", "add_in_place", "kind", "by_rows", "times")
    return {k: found[k] for k in keys if k in found}


def draw_plan(seed: int) -> Plan:
    """The case of this seed."""
    draw = random.Random(seed)
    images, channels = draw.randint(2, 4), draw.choice([3, 3, 1])
    autocast = draw.choices(["none", "off", "bfloat16"], [8, 1, 1])[0]
    compiled = draw.random() < 0.006
    explicit = draw.random() < 0.15
    own_loss = not explicit and draw.random() < 0.1
    dtype = torch.float32 if autocast == "bfloat16" else torch.float64
    net = draw_network(draw, channels, draw.randint(3, 6), own_loss, dtype)
    size = (draw.randint(6, 8), draw.randint(6, 8))
    if own_loss:
        kind, criterion, heads = "own", criteria.own(), [("loss", 1.0)]
    elif not explicit and net.packing != "tensor" and draw.random() < 0.25:
        kind, criterion = "whole", criteria.whole(net.has_aux)
        heads = [("whole", 1.0)]
    else:
        kind = draw.choice(criteria.MEANS if explicit else list(criteria.KINDS))
        criterion, heads = criteria.KINDS[kind](), [("logits", 1.0)]
        if draw.random() < 0.2:
            heads = [("logits", 0.7), ("logits of others", 0.3)]
        if net.has_aux:
            heads.append(("aux", 0.4))
    loop = draw.choices(list(LOOPS), list(LOOPS.values()))[0]
    if compiled and "broken" in loop:
        loop = "plain"
    plan = Plan(
        seed, net, loop, kind, criterion, heads, explicit, compiled, autocast,
        {}, {}, images, size, channels,
    )  # fmt: skip
    plan.generator.manual_seed(seed)
    _draw_settings(draw, plan)
    return plan


def _draw_settings(draw: random.Random, plan: Plan) -> None:
    alpha = draw.choice([0.1, 0.3, 0.5, 0.8])
    beta = draw.choice([0.0, 0.0, 0.0, 0.2])
    scheme, schedule = draw.choice(list(SCHEMES)), draw.choice(["none", *SCHEDULES])
    if plan.criterion.targets != "hard" and not plan.explicit:
        beta = 0.0  # it needs hard labels
    if "broken" in plan.loop:
        schedule = "none"
    told = {
        "num_views": draw.choices([1, 2, 3, 4], [1, 4, 2, 2])[0],
        "alpha": draw.choice([alpha, alpha, alpha, 0.0, 1 - beta]),
        "beta": beta,
        "layers": _draw_layers(draw, plan),
        "last_to_first": draw.choice([10.0, 10.0, 1.0, 0.1]),
        "scheme": scheme,
        "mean": 0.0,
        "std": 1.0,
        "first_view": draw.choice(["clean", "augmented"]),
        "correction": draw.choice([0, 0, 1]),
        "alpha_schedule": schedule,
        "seed": plan.seed,
    }
    laws = ["exponential", "exponential", "linear", "uniform", "own"]
    told["layer_weights"] = draw.choice(laws)
    if told["layer_weights"] == "own":
        names = select_layers(plan.net, told["layers"])
        weights = [draw.choice([0.5, 1.0, 3.0]) for _ in names]
        as_dict = draw.random() < 0.5
        told["layer_weights"] = (
            dict(zip(names, weights, strict=True)) if as_dict else weights
        )
    told["term"] = draw.choices(list(TERMS), [8, 1, 1])[0]
    # From a stream of their own, so that the other draws are what they were.
    spent = random.Random(f"spent {plan.seed}")
    told["every"] = spent.choices([1, 2, 3], [6, 1, 1])[0]
    if told["every"] > 1:
        told["first_view"] = "clean"
    told["share"] = spent.choices([1.0, 0.7, 0.5, 0.1], [5, 1, 1, 1])[0]
    functions = {
        "scheme": SCHEMES[scheme],
        "alpha_schedule": SCHEDULES[schedule],
        "term": TERMS[told["term"]],
    }
    plan.told, plan.settings = told, {**told, **functions}


def _draw_layers(draw: random.Random, plan: Plan) -> Any:
    """Of "auto", a pattern, and names mostly of layers that can be chosen."""
    kind = draw.choices(["auto", "pattern", "safe", "any"], [5, 2, 4, 2])[0]
    if kind == "auto":
        return "auto"
    if kind == "pattern":
        return draw.choice(["blocks.?", "*conv*", "*norm*", ["stem", "blocks*"]])
    names = [n for n, _ in plan.net.named_modules() if n and "unused" not in n]
    if kind == "safe":
        with torch.random.fork_rng(), torch.enable_grad():
            batch, net = plan.batch(), plan.net
            shown = list(range(len(batch.images)))
            args, kwargs = batch.arguments(net, batch.images, shown)
            seen = observe(net, names, len(batch.images), args, kwargs)
        fired = {name for name, _ in seen.fired} - seen.without_gradient
        names = [n for n in names if n in fired - seen.overwritten]
    return draw.sample(names, min(len(names), draw.randint(1, 4)))
