"""`dai-plugin report`: measured networks side by side, on a page and as pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dai_plugin.cli.extras import of_report
from dai_plugin.cli.failures import UsageError
from dai_plugin.cli.output import PICTURE, SCORES, SUMMARY, output_folder, results
from dai_plugin.cli.scores import draw_picture, medians_table, write_scores
from dai_plugin.cli.tables import table, terminal_width
from dai_plugin.measures.results import FILE


def run(options: argparse.Namespace) -> int:
    """Reads the folders, writes, prints; returns the exit status."""
    page, runs_of = map(of_report, ("page", "runs"))
    folders = [Path(each) for each in options.folders]
    output = output_folder(options.output)
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(
            f"argument --output: {output} is one of the folders to report on"
        )
    check(folders)
    runs = runs_of.read_runs(folders)
    scored = [run for run in runs if run.has("layers", "score")]
    named = [(run.name, seed) for run in scored for seed in run.seeds]
    earlier = (SCORES, SUMMARY, PICTURE, *page.earlier(output))
    with results(output, page.PAGE, earlier) as beside:
        page.write_page(runs, beside, options.format)
        if named:
            write_scores(named, beside)
            if not (beside / PICTURE).exists():  # it is a figure of the page
                draw_picture(scored, beside)
    if told := accuracies(runs):
        print(told, end="\n\n")
    if named:
        print(medians_table(named, terminal_width()))
    print(f"written: {output / page.PAGE}")
    return 0


def check(folders: Sequence[Path]) -> None:
    """Folders hold measures.

    Raises:
        FileNotFoundError: some do not; all of these are named.
    """
    missing = [folder for folder in folders if not (folder / FILE).is_file()]
    if missing:
        old = any((folder / SCORES).exists() for folder in missing)
        why = f" (a {SCORES} alone is of an earlier version)" if old else ""
        raise FileNotFoundError(
            f"no {FILE} in {', '.join(map(str, missing))}{why}; `dai-plugin measure` "
            "and `dai-plugin score` write it: run one of them again with the same "
            "--output"
        )


def accuracies(runs: Sequence[Any]) -> str:
    """Last accuracies (per cent) of the runs that were trained here; else nothing."""
    labels = {"acc1": "accuracy", "acc1_augmented": "accuracy on augmented images"}
    read = of_report("dynamics").read_metrics
    last = {
        run.name if len(run.folders) == 1 else str(folder): rows[-1]
        for run in runs
        for folder in run.folders
        if (rows := read(folder))
    }
    table_rows = [
        (label, *(row.get(column, float("nan")) for row in last.values()))
        for column, label in labels.items()
    ]
    return table(["per cent", *last], table_rows, terminal_width()) if last else ""
