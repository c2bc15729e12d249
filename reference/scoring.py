"""The invariance scores of a trained network, as a picture for the trackers."""

from importlib.util import find_spec

import numpy as np
from faults import on_first
from PIL import Image
from run import Run
from torch import Tensor
from watched import held_out, protocol

import dai_plugin

MOST = 256  # held-out images: a minute on the CPU, nothing on a GPU
PACKAGES = ("pandas", "matplotlib")


def show(run: Run) -> None:
    """Writes scores.csv, summary.json and invariance.png; the trackers get the picture.

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
    on_first(_draw, run, _scores(run))


def _missing() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is None]


def _scores(run: Run) -> dict[str, Tensor]:
    whole, preset = run.accelerator.unwrap_model(run.model), run.images.preset
    images, _ = held_out(run, MOST)
    return dai_plugin.invariance_scores(
        run.average.module if run.average else whole,
        images,
        layers=run.attachment.layers,
        scheme=protocol(run),
        mean=preset.mean,
        std=preset.std,
        seed=run.args.seed,
    )


def _draw(run: Run, scores: dict[str, Tensor]) -> None:
    from dai_plugin.report import scores as report

    frame = report.scores_frame(scores, run.args.model)
    if frame["score"].isna().all():
        run.say("no picture of invariance scores: all images are alike")
        return
    report.write_scores(frame, run.output)
    with Image.open(run.output / "invariance.png") as file:
        picture = np.asarray(file.convert("RGB"))
    for tracker in run.accelerator.trackers:
        form = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        step = run.progress.epoch - 1  # the last that was tracked
        tracker.log_images({"invariance": picture[None]}, step=step, **form)
