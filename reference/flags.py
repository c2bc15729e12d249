"""The command line: names and defaults of torchvision's references, and our own.

What the flags are stands in flag_groups.py, what they may be in flag_checks.py.
"""

import argparse

import flag_groups
from flag_checks import check
from recipes import RECIPES, recipe

Defaults = argparse.ArgumentDefaultsHelpFormatter


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags; hyphens and underscores are the same.

    A recipe's values stand where no flag says otherwise.

    Raises:
        ValueError: a number out of range, or flags that exclude each other.
    """
    arguments = [_hyphens(argument) for argument in arguments]
    parser = argparse.ArgumentParser(
        usage="train.py [flags]  (--help lists them)",
        description="Training with data augmentation invariance",
        formatter_class=Defaults,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", choices=RECIPES, help="defaults of a published run")
    named = parser.parse_known_args([a for a in arguments if a not in _HELP])[0].recipe
    for title, add in flag_groups.GROUPS.items():
        add(parser.add_argument_group(title).add_argument)
    if named:
        parser.set_defaults(**recipe(named))
    args = parser.parse_args(arguments)
    # What is there already, argparse leaves alone unless the flag is given.
    given = parser.parse_args(arguments, argparse.Namespace(batch_size=None))
    if named and args.keep_rows and given.batch_size is None:
        raise ValueError(_counted(named))
    check(args)
    if args.first_view is None:
        args.first_view = "augmented" if args.every == 1 else "clean"
    if args.keep_rows:
        args.batch_size = _images(args.batch_size, args.num_views)
    return args


def _counted(name: str) -> str:
    """What is wrong with `--keep-rows` and nothing but the recipe's batch size."""
    images, views = (recipe(name)[key] for key in ("batch_size", "num_views"))
    rows = images * views
    return (
        f"--keep-rows divides --batch-size, and --recipe {name} counts images already "
        f"({images} x {views} views = {rows} rows): leave --keep-rows out, or add "
        f"--batch-size {rows}"
    )


def _images(rows: int, num_views: int) -> int:
    if rows % num_views:
        raise ValueError(
            f"--keep-rows: {rows} rows (--batch-size) are no multiple of --num-views "
            f"{num_views}; {rows // num_views * num_views or num_views} are"
        )
    return rows // num_views


def _hyphens(argument: str) -> str:
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-") if name.startswith("--") else name
    return name + equals + value


_HELP = ("-h", "--help")
