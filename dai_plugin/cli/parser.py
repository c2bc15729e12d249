"""Every command and its flags."""

import argparse
from collections.abc import Mapping
from typing import Any

from dai_plugin import __version__
from dai_plugin.cli import values
from dai_plugin.cli.groups import add_flags

_EXAMPLES: Mapping[str, str] = {
    "layers": """\
  dai-plugin layers --model resnet50
  dai-plugin layers --model models.py:build --model-args width=0.5
""",
    "measure": """\
  dai-plugin measure --model resnet50 --weights DEFAULT --data photos --output before
  dai-plugin measure --model models.py:build --weights model.pth --data photos \\
      --output after --measures layers,output,strength
""",
    "score": """\
  dai-plugin score --model timm/resnet18 --data cifar10:data --output scores
""",
    "report": """\
  dai-plugin report before after --output page --format png pdf
""",
    "compare": """\
  dai-plugin compare before after --max-drop consistency=0.02
""",
}


def parser() -> argparse.ArgumentParser:
    """The parser of `dai-plugin`; the command's name is in `command`."""
    whole = argparse.ArgumentParser(
        prog="dai-plugin",
        description="What a vision network does when its images are transformed.",
        epilog="examples:\n" + "".join(_EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_traceback(whole, default=False)
    whole.add_argument("--version", action="version", version=__version__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog="examples:\n" + _EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Without a default, which would take the place of the flag before the command.
        _add_traceback(added, default=argparse.SUPPRESS)
        return added

    _add_model(command("layers", "what layers='auto' would take"))
    measure = command("measure", "all measures of a network on images")
    _add_measured(measure)
    add_flags(measure)
    score = command("score", "invariance scores of the layers, with a picture")
    _add_measured(score)
    _add_report(command("report", "measured networks side by side, on a page"))
    _add_compared(command("compare", "is a network worse than the one before it?"))
    return whole


def _add_traceback(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="show where an error came from",
    )


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
    size = values.whole(1)
    add(
        "--resize",
        type=size,
        help="of the shorter side (default: the weights', or 256)",
    )
    add("--crop", type=size, help="of the centre (default: the weights', or 224)")
    add("--mean", type=values.real(-1e6), nargs="+", help="of the normalisation")
    add("--std", type=values.deviation, nargs="+", help="of the normalisation")


def _add_measured(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="images: folders, files, digits, cifar10:PATH, ...",
    )
    add("--output", required=True, metavar="DIR", help="where the results go")
    add("--name", help="of the network in tables and pictures")
    add(
        "--scheme",
        default="halved",
        metavar="NAME|FILE.py:FUNCTION",
        help="transformations (default: %(default)s)",
    )
    add(
        "--flip",
        type=values.real(0, 1),
        help="probability of a flip, instead of the scheme's",
    )
    add(
        "--num-transforms",
        type=values.whole(1),
        default=5,
        help="an image (default: %(default)s)",
    )
    add(
        "--units",
        type=values.whole(1),
        default=256,
        help="features of a layer that its variances are taken of (default: 256)",
    )
    add("--seed", type=values.seed, default=0)
    add("--limit", type=values.whole(2), metavar="N", help="images, evenly spread")
    add("--skip-unreadable", action="store_true", help="leave such files out")
    add("--batch-size", type=values.whole(1), default=64)
    add("--workers", type=values.whole(0), default=2, help="processes that load images")
    add("--device", type=values.device, help="default: cuda if there is one")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="+", metavar="DIR", help="outputs of `measure` or `score`")
    add("--output", required=True, metavar="DIR")
    formats = ("png", "svg", "pdf")
    add("--format", nargs="+", choices=formats, default=["png"], help="of the figures")


def _add_compared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("old", metavar="OLD", help="output of `measure`, of the network that is good")
    add("new", metavar="NEW", help="of the one in question")
    add(
        "--max-drop",
        action="append",
        type=values.drop,
        default=[],
        metavar="NAME=VALUE",
        help="how much a measure may lose; exit status 1 if it lost more",
    )
