"""`dai-plugin compare`: is a network worse than the one before it?"""

import argparse
from pathlib import Path

from dai_plugin.cli.failures import refused_as
from dai_plugin.cli.report import check
from dai_plugin.measures.results import Measures

WORSE = 1


def run(options: argparse.Namespace) -> int:
    """Prints a table; returns the exit status: 1 if a measure lost too much."""
    from dai_plugin.report.compare import check_alike, compare

    folders = [Path(options.old), Path(options.new)]
    check(folders)
    old, new = map(Measures.load, folders)
    with refused_as("NEW"):
        check_alike(old, new)
    with refused_as("--max-drop"):
        found = compare(old, new, dict(options.max_drop))
    print(found.text())
    return WORSE if found.failed else 0
