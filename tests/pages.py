"""Runs with everything that a page shows, made up."""

from dataclasses import replace

import torch
from measured import made_up

from dai_plugin.measures.results import Pictures
from dai_plugin.report.runs import Run

NASTY = '<script>alert("x")</script>&amp;\'"{{ 7 * 7 }} Überkleid 猫 \u202e'


def full(seed=0, *, name="net", side=12, named=NASTY, **kinds):
    """Measures with pictures, predictions, names, and what a command adds."""
    found = made_up(seed, name=name, **kinds)
    draw = torch.Generator().manual_seed(seed)
    images = int(found.about["images"])
    shown = min(24, images)
    classes = torch.randint(10, (images, 6), generator=draw)
    output = {
        **found.tables.get("output", {}),
        "prediction": {"output": classes[:, 0]},
        "predictions": {"output": classes[:, 1:]},
    }
    pictures = {
        kind: Pictures(
            torch.randperm(images, generator=draw)[:shown],
            torch.randint(5, (shown,), generator=draw),
            torch.randint(
                256, (shown, 2, 3, side, side), generator=draw, dtype=torch.uint8
            ),
            [f"rotation {i} degrees, zoom 0.8 {named}" for i in range(shown)],
        )
        for kind in ("breaks", "holds")
    }
    about = {
        **found.about,
        "command": f"dai-plugin measure --model {named}",
        "source": [named],
    }
    return replace(
        found,
        about=about,
        tables={**found.tables, "output": output},
        names=[f"{i}{named}.png" for i in range(images)],
        pictures=pictures,
    )


def pages_of(names, seeds=1, **kinds):
    """Runs of so many seeds each."""
    from pathlib import Path

    return [
        Run(
            name,
            [full(10 * i + s, name=name, **kinds) for s in range(seeds)],
            [Path(f"runs/{i}-{s}") for s in range(seeds)],
        )
        for i, name in enumerate(names)
    ]
