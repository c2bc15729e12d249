"""The invariance scores of a trained network, measured as `dai-plugin score` does."""

from importlib.util import find_spec

import numpy as np
from faults import on_first
from PIL import Image
from run import Run
from watched import held_out, protocol

import dai_plugin
from dai_plugin.cli.output import PICTURE
from dai_plugin.cli.score import write

MOST = 256  # held-out images: a minute on the CPU, nothing on a GPU
BATCH = 64
PACKAGES = ("matplotlib",)


def show(run: Run) -> None:
    """Writes what `dai-plugin score` does; the trackers get the picture.

    Nothing without `--report-to`. With `--model-ema` they are the averaged network's.
    """
    if run.args.report_to == "none":
        return
    missing = on_first(_missing)
    if missing:
        run.say(
            f"no picture of invariance scores without {', '.join(missing)}: pip "
            "install 'dai-plugin[report]'"
        )
        return
    # On every process: a sharded network runs on all of them or not at all.
    on_first(_draw, run, _measured(run))


def _missing() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is None]


def _measured(run: Run) -> dai_plugin.Measures:
    whole, preset = run.accelerator.unwrap_model(run.model), run.images.preset
    images, labels = held_out(run, MOST)
    return dai_plugin.measure(
        run.average.module if run.average else whole,
        list(zip(images.split(BATCH), labels.split(BATCH), strict=True)),
        measures="layers",
        layers=run.attachment.layers,
        scheme=protocol(run),
        mean=preset.mean,
        std=preset.std,
        seed=run.args.seed,
        # As commands call networks of files: what else tells two runs apart?
        name=run.output.resolve().name,
    )


def _draw(run: Run, found: dai_plugin.Measures) -> None:
    if all(scores.isnan().all() for scores in found.scores.values()):
        run.say("no picture of invariance scores: all images are alike")
        return
    write(found, run.output)
    with Image.open(run.output / PICTURE) as file:
        picture = np.asarray(file.convert("RGB"))
    for tracker in run.accelerator.trackers:
        form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        step = run.progress.epoch - 1  # the last that was tracked
        tracker.log_images({"invariance": picture[None]}, step=step, **form)
