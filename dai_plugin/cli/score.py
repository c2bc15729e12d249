"""`dai-plugin score`: the invariance scores of the layers, as a table and a picture."""

import argparse

from dai_plugin.cli.extras import of_report
from dai_plugin.cli.measuring import ended, measured
from dai_plugin.cli.output import output_folder, results
from dai_plugin.cli.scores import draw_picture, medians_table, write_scores
from dai_plugin.cli.tables import terminal_width


def run(options: argparse.Namespace) -> int:
    """Measures the layers, writes, prints; returns the exit status."""
    runs_of = of_report("runs")
    of_report("figures")
    output = output_folder(options.output, options.data)
    found = measured(options, ["layers"])
    if all(scores.isnan().all() for scores in found.scores.values()):
        raise ValueError("all images are alike: there is nothing to compare")
    name = found.about["name"]
    with results(output) as folder:
        found.save(folder)
        write_scores([(name, found)], folder)
        draw_picture([runs_of.Run(name, [found], [])], folder)
    print(medians_table([(name, found)], terminal_width()))
    print(f"written: {output}")
    return ended(found)
