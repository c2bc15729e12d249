"""The command line: `dai-plugin layers`, `dai-plugin score`, `dai-plugin report`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from dai_plugin import __version__
from dai_plugin.cli.images import image_size, load_images
from dai_plugin.cli.models import load_model, parse_options
from dai_plugin.cli.networks import Loaded, input_channels
from dai_plugin.cli.sources import load_scheme, with_values
from dai_plugin.layers import select_layers
from dai_plugin.measures.scores import invariance_scores
from dai_plugin.measures.taps import activation_shapes
from dai_plugin.views.normalization import known_normalization


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (
        ValueError,
        ImportError,
        KeyError,
        TypeError,
        OSError,
        RuntimeError,
        AssertionError,  # torchvision's transformers refuse sizes so
    ) as error:
        message = str(error.args[0] if isinstance(error, KeyError) else error)
        # An error of a loading process brings its traceback along as text.
        last = message.strip().splitlines()[-1] if message else type(error).__name__
        print(f"dai-plugin: error: {last}", file=sys.stderr)
        return 1
    return 0


def _layers(options: argparse.Namespace) -> None:
    loaded = _load(options)
    names = select_layers(loaded.model, _chosen(options))
    _, size = _size(options, loaded)
    example = torch.zeros(1, input_channels(loaded.model), size, size)
    shapes = activation_shapes(loaded.model, names, example)
    modules = dict(loaded.model.named_modules())
    width = max(len(name) for name in shapes)
    kinds = {
        name: type(modules.get(name, modules.get(name.rpartition(":")[0]))).__name__
        for name in shapes
    }
    column = max(len(kind) for kind in kinds.values())
    print(
        f"{len(shapes)} layers of {options.model} for images {list(example.shape[1:])}"
    )
    for depth, (name, shape) in enumerate(shapes.items(), start=1):
        sizes = " x ".join(str(n) for n in shape[1:])
        print(f"{depth:4}  {name:{width}}  {kinds[name]:{column}}  {sizes}")


def _score(options: argparse.Namespace) -> None:
    report = _report_module()
    loaded = _load(options)
    scheme = with_values(load_scheme(options.scheme), flip=options.flip)
    resize, crop = _size(options, loaded)
    channels = input_channels(loaded.model)
    images = load_images(options.data, resize=resize, crop=crop, channels=channels)
    if not loaded.trained:
        print(
            "no --weights: the scores are those of an untrained network",
            file=sys.stderr,
        )
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(
        images, batch_size=options.batch_size, num_workers=options.workers
    )
    known = loaded.normalization
    print(
        f"{len(images)} images of {crop} x {crop} pixels (resized to {resize}, centre "
        f"cropped)\nnormalisation: {known}\nscheme: {scheme}"
    )
    scores = invariance_scores(
        loaded.model.to(device),
        _Progress(loader),
        layers=_chosen(options),
        scheme=scheme,
        num_transforms=options.num_transforms,
        mean=known.mean,
        std=known.std,
        seed=options.seed,
    )
    own = Path(options.model.partition(":")[0]).is_file()
    name = options.name or (Path(options.output).name if own else options.model)
    frame = report.scores_frame(scores, name)
    if frame["score"].isna().all():
        raise ValueError("all images are alike (or there is one): nothing to compare")
    written = report.write_scores(frame, Path(options.output))
    print(report.medians_table(frame))
    print("written:", *written)


def _report(options: argparse.Namespace) -> None:
    report = _report_module()
    folders, output = [Path(f) for f in options.folders], Path(options.output)
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise ValueError(f"--output {output} is one of the folders to report on")
    frames = report.read_tables(folders, report.SCORES)
    if len(frames) < len(folders):
        missing = [str(f) for f in folders if not (f / report.SCORES).exists()]
        raise FileNotFoundError(
            f"no {report.SCORES} in {', '.join(missing)}; `dai-plugin score` writes it"
        )
    if len({name for frame in frames for name in frame["model"].unique()}) < len(
        frames
    ):
        frames = [
            frame.assign(model=folder.name)
            for frame, folder in zip(frames, folders, strict=True)
        ]
    frame = report.pd.concat(frames, ignore_index=True)
    written = report.write_scores(frame, output)
    runs = {
        frame["model"].iloc[0]: run
        for frame, folder in zip(frames, folders, strict=True)
        for run in report.read_tables([folder], report.METRICS)
    }
    if runs:
        names = [str(frame["model"].iloc[0]) for frame in frames]
        written += report.write_dynamics(dict(zip(names, folders, strict=True)), output)
        print(report.accuracy_table(runs), end="\n\n")
    print(report.medians_table(frame))
    print("written:", *written)


class _Progress:
    """Batches with a progress bar for each of the two passes over them."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._titles = iter(["means", "scores"])

    def __iter__(self) -> Iterator[Any]:
        title = next(self._titles, "images")
        yield from tqdm(self._loader, desc=title, unit="batch", disable=None)


def _size(options: argparse.Namespace, loaded: Loaded) -> tuple[int, int]:
    """Shorter side and crop: what was asked for, else what the weights ask."""
    return image_size(options.resize, options.crop, loaded.resize, loaded.crop)


def _load(options: argparse.Namespace) -> Loaded:
    torch.manual_seed(0)  # an untrained network is the same one each time
    loaded = load_model(
        options.model,
        weights=options.weights,
        options=parse_options(options.model_args),
        key=options.key,
        prefix=options.prefix,
        trust=options.trust,
    )
    given = known_normalization(torch.nn.Identity(), options.mean, options.std)
    if given is None:
        return loaded
    return replace(loaded, normalization=given)


def _chosen(options: argparse.Namespace) -> str | list[str]:
    layers: list[str] = options.layers
    return layers[0] if len(layers) == 1 else layers


def _report_module() -> Any:
    try:
        from dai_plugin.report import scores as report
    except ImportError as error:
        raise RuntimeError(
            f"tables and pictures need the extra packages of `report` ({error}): "
            "pip install 'dai-plugin[report]'"
        ) from error
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dai-plugin", description="Invariance of the layers of any vision network."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    layers = commands.add_parser("layers", help="what layers='auto' would take")
    _add_model(layers)
    layers.set_defaults(run=_layers)

    score = commands.add_parser("score", help="invariance scores on a folder of images")
    _add_model(score)
    add = score.add_argument
    add("--data", nargs="+", required=True, metavar="FOLDER", help="folders of images")
    add("--output", required=True, metavar="DIR", help="where the results go")
    add("--name", help="of the model in tables and pictures")
    add(
        "--scheme",
        default="halved",
        metavar="NAME|FILE.py:FUNCTION",
        help="transformations (default: %(default)s)",
    )
    add("--flip", type=float, help="probability of a flip, instead of the scheme's")
    add("--num-transforms", type=int, default=5, help="an image (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--batch-size", type=int, default=64)
    add("--workers", type=int, default=2, help="processes that load images")
    add("--device", help="default: cuda if there is one")
    score.set_defaults(run=_score)

    report = commands.add_parser("report", help="several scored models in one picture")
    report.add_argument("folders", nargs="+", metavar="DIR", help="outputs of `score`")
    report.add_argument("--output", required=True, metavar="DIR")
    report.set_defaults(run=_report)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="NAME_OR_FILE",
        help="torchvision's name, timm/NAME, a folder of Hugging Face, "
        "FILE.py:FUNCTION, or a file with a network",
    )
    add("--weights", metavar="FILE|DEFAULT|NAME", help="a checkpoint, or known ones")
    add("--key", help="entry of the checkpoint: model_ema, state.teacher")
    add("--prefix", help="of the names in it: module., model.")
    add("--trust", action="store_true", help="the network's file may run code")
    add("--model-args", nargs="+", default=[], metavar="NAME=VALUE")
    add("--layers", nargs="+", default=["auto"], help="names or patterns")
    add(
        "--resize", type=int, help="of the shorter side (default: the weights', or 256)"
    )
    add("--crop", type=int, help="of the centre (default: the weights', or 224)")
    add("--mean", type=float, nargs="+", help="of the network's normalisation")
    add("--std", type=float, nargs="+", help="of the network's normalisation")
