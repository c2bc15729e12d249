"""A network is measured on images, both as the flags ask for them."""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dai_plugin.cli import chosen
from dai_plugin.cli.images import ImageSet, load_images
from dai_plugin.cli.labels import fit_labels
from dai_plugin.cli.networks import Loaded
from dai_plugin.cli.trial import try_out
from dai_plugin.measures.measure import measure
from dai_plugin.measures.results import Measures

_BY_CLASS = ("layers",)  # labels say which images are alike, whatever they are called
INTERRUPTED = 130  # the exit status of what Ctrl-C has ended


def measured(options: argparse.Namespace, groups: Sequence[Any]) -> Measures:
    """The measures that the flags ask for, with what the command knows of them.

    Raises:
        UsageError: a flag asks for what cannot be.
        ValueError: the network, the images or the measures are refused.
    """
    scheme = chosen.scheme(options)
    loaded = chosen.network(options)
    layers = chosen.layers(options, loaded)
    images = _images(options, loaded)
    known = loaded.normalization
    print(
        f"{len(images)} images of {images.crop} x {images.crop} pixels (resized to "
        f"{images.resize}, centre cropped)\nnormalisation: {known}\nscheme: {scheme}"
    )
    if not loaded.trained:
        print("no --weights: the network is untrained", file=sys.stderr)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = loaded.model.to(device)
    first = torch.stack([images[i][0] for i in range(min(2, len(images)))])
    outputs = try_out(model, first.to(device), known)
    if any(group not in _BY_CLASS for group in groups):
        images = fit_labels(images, loaded.classes, outputs)
    found = measure(
        model,
        DataLoader(
            images,
            batch_size=options.batch_size,
            num_workers=options.workers,
            worker_init_fn=_terminated_as_interrupted,
            # Ctrl-C while one is started may be lost: they are started once.
            persistent_workers=options.workers > 0,
        ),
        measures=groups,
        layers=layers,
        scheme=scheme,
        num_transforms=options.num_transforms,
        units=options.units,
        mean=known.mean,
        std=known.std,
        seed=options.seed,
        name=_name(options, loaded),
        progress=sys.stderr.isatty(),
    )
    return replace(found, about={**found.about, **_about(options, images)})


def _terminated_as_interrupted(worker: int) -> None:
    """In a loading process: SIGTERM to all of a job is for the first one to tell."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def ended(found: Measures) -> int:
    """Says what was left out; returns the exit status."""
    skipped = found.about["skipped"]
    if skipped:
        print(f"{len(skipped)} files that cannot be read were left out:")
        print(*(f"  {each}" for each in skipped), sep="\n")
    interrupted = found.about["interrupted"]
    if missing := ", ".join(found.about["missing"]):
        why = "interrupted; " if interrupted else ""
        print(f"{why}not measured: {missing}", file=sys.stderr)
    return INTERRUPTED if interrupted else 0


def _images(options: argparse.Namespace, loaded: Loaded) -> ImageSet:
    resize, crop = chosen.size(options, loaded)
    return load_images(
        options.data,
        resize=resize,
        crop=crop,
        channels=loaded.channels,
        skip_unreadable=options.skip_unreadable,
        limit=options.limit,
    )


def _name(options: argparse.Namespace, loaded: Loaded) -> str:
    """Networks of files have no name of their own that tells them apart."""
    file = options.weights or options.model.partition(":")[0]
    own = Path(options.output).resolve().name if Path(file).is_file() else ""
    return options.name or own or loaded.name


def _about(options: argparse.Namespace, images: ImageSet) -> dict[str, Any]:
    return {
        "command": shlex.join(["dai-plugin", *options.words]),
        "source": [str(_whole(Path(each))) for each in options.data],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipped": images.skipped,
    }


def _whole(path: Path) -> Path:
    return path.resolve() if path.exists() else path
