"""`dai-plugin score`: the invariance scores of the layers, as a table and a picture."""

import argparse
from pathlib import Path

from dai_plugin.cli.extras import of_report
from dai_plugin.cli.measuring import ended, measured
from dai_plugin.cli.output import output_folder, results
from dai_plugin.cli.scores import draw_picture, medians_table, write_scores
from dai_plugin.cli.tables import terminal_width
from dai_plugin.measures.results import Measures


def run(options: argparse.Namespace) -> int:
    """Measures the layers, writes, prints; returns the exit status."""
    of_report("figures")
    output = output_folder(options.output, options.data)
    found = measured(options, ["layers"])
    if all(scores.isnan().all() for scores in found.scores.values()):
        raise ValueError("all images are alike: there is nothing to compare")
    write(found, output)
    print(medians_table([(found.about["name"], found)], terminal_width()))
    print(f"written: {output}")
    return ended(found)


def write(found: Measures, output: Path) -> None:
    """Writes measures of the layers, their scores as a table and as a picture.

    Raises:
        OSError: they cannot be written; what was there stays.
    """
    name = found.about["name"]
    with results(output) as folder:
        found.save(folder)
        write_scores([(name, found)], folder)
        draw_picture([of_report("runs").Run(name, [found], [])], folder)
