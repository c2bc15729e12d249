"""`--measures`, and the flags that say more of a group of them."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dai_plugin.cli import values
from dai_plugin.cli.failures import UsageError, refused_as
from dai_plugin.cli.sources import from_file
from dai_plugin.measures.attacked import ATTACKS, Attacks
from dai_plugin.measures.compared import Similarity
from dai_plugin.measures.corrupted import Corruptions
from dai_plugin.measures.measure import GROUPS
from dai_plugin.measures.strengths import Strength

NAMES = (*GROUPS, "strength", "corruptions", "attacks", "similarity")
# The flags of each group, and what they are called where it is made.
FLAGS: Mapping[str, Mapping[str, str]] = {
    "corruptions": {"corruptions": "names", "severities": "severities"},
    "attacks": {
        "attacks": "attacks",
        "eps": "eps",
        "steps": "steps",
        "restarts": "restarts",
        "attack_loss": "loss",
    },
    "similarity": {"rdm": "rdm", "metric": "metric"},
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--measures` and the flags of the groups."""
    parser.add_argument(
        "--measures",
        type=values.some_of(*NAMES),
        default=list(GROUPS),
        metavar="GROUP,...",
        help=f"some of {','.join(NAMES)} (default: {','.join(GROUPS)})",
    )
    add = parser.add_argument_group("corruptions").add_argument
    add("--corruptions", nargs="+", metavar="NAME|FOLDER", help="default: the 15")
    add("--severities", nargs="+", type=values.whole(1, 5), metavar="1..5")
    add = parser.add_argument_group("attacks").add_argument
    add(
        "--attacks",
        nargs="+",
        metavar="NAME|FILE.py:FUNCTION",
        help=f"{', '.join(ATTACKS)}, or one of your own",
    )
    add("--eps", nargs="+", type=values.real(0, 1), help="radii: 2/255 4/255 8/255")
    add("--steps", type=values.whole(1), help="of pgd")
    add("--restarts", type=values.whole(1), help="of pgd")
    add("--attack-loss", choices=("ce", "margin"))
    add = parser.add_argument_group("similarity").add_argument
    add("--rdm", metavar="FILE", help="matrices to compare the layers' with")
    add("--metric", choices=("correlation", "euclidean"))


def groups(options: argparse.Namespace) -> list[Any]:
    """What `measure` takes as `measures`.

    Raises:
        UsageError: a flag belongs to a group that is not asked for, or asks for what
            cannot be.
    """
    asked: list[str] = options.measures
    for group, flags in FLAGS.items():
        given = [flag for flag in flags if getattr(options, flag) is not None]
        if given and group not in asked:
            raise UsageError(
                f"argument {_flag(given[0])}: it says more of {group}, which are not "
                f"asked for; add --measures {','.join([*asked, group])}"
            )
    found = [
        _MADE[name](_given(options, name)) if name in _MADE else name for name in asked
    ]
    if any(isinstance(each, Corruptions) and each.folder for each in found):
        _expect_all_images(options)
    return found


def _expect_all_images(options: argparse.Namespace) -> None:
    """Images that are left out would pair those behind them with other ones."""
    for flag in ("limit", "skip_unreadable"):
        if getattr(options, flag):
            raise UsageError(
                f"argument {_flag(flag)}: the images of a folder of --corruptions are "
                "compared with those of the data one by one, so that none may be left "
                "out"
            )


def _given(options: argparse.Namespace, group: str) -> dict[str, Any]:
    flags = FLAGS.get(group, {})
    found = {called: getattr(options, flag) for flag, called in flags.items()}
    return {name: value for name, value in found.items() if value is not None}


def _corruptions(given: dict[str, Any]) -> Corruptions:
    names = given.get("names", [])
    if len(names) == 1 and Path(names[0]).is_dir():
        given = {**given, "names": None, "folder": names[0]}
    with refused_as("--corruptions"):
        return Corruptions(**given)


def _attacks(given: dict[str, Any]) -> Attacks:
    with refused_as("--attacks"):
        if "attacks" in given:
            given["attacks"] = [_attack(each) for each in given["attacks"]]
        return Attacks(**given)


def _attack(source: str) -> Any:
    path, _, function = source.partition(":")
    wanted = "an attack (model, images, labels) -> images on [0, 1] pixels"
    return from_file(Path(path), function, wanted) if path.endswith(".py") else source


def _similarity(given: dict[str, Any]) -> Similarity:
    with refused_as("--rdm"):
        return Similarity(**given)


_MADE: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "strength": lambda given: Strength(**given),
    "corruptions": _corruptions,
    "attacks": _attacks,
    "similarity": _similarity,
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
