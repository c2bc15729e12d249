"""docs/commands.md and --help: their commands parse, all files are listed."""

import re
import shlex
from pathlib import Path

import pytest

from dai_plugin.cli import output
from dai_plugin.cli.groups import FLAGS
from dai_plugin.cli.main import _COMMANDS
from dai_plugin.cli.parser import _EXAMPLES, parser


def spoken(text):
    """The commands of a text, each in one line."""
    return text.replace("\\\n", " ").strip().splitlines()


PAGE = (Path(__file__).parents[1] / "docs" / "commands.md").read_text()
SHOWN = [line for text in _EXAMPLES.values() for line in spoken(text)]
LINES = spoken("".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)))


@pytest.mark.parametrize("line", [*LINES, *SHOWN])
def test_commands_parse(line):
    """Every flag exists."""
    parser().parse_args(shlex.split(line)[1:])


def test_every_command_and_group_is_described():
    """By its name."""
    for name in (*_COMMANDS, *FLAGS):
        assert f"| `{name}` |" in PAGE
    for flags in FLAGS.values():
        for flag in flags:
            assert f"--{flag.replace('_', '-')}" in PAGE
    for file in (output.FILE, output.ROWS, output.SCORES, output.SUMMARY):
        assert f"| `{file}` |" in PAGE
