"""Runs a study: regimes x arms x seeds, tuned alike, compared in pairs.

python reference/study.py reference/studies/digits.yaml --output-dir study

`study_file.py` says what stands in the file. Each arm's learning rate and weight decay
are chosen on validation images; the chosen setting is trained again with every seed,
and then looked at on test images, for the first time. A study that was stopped goes on
with the same command; where the file has changed, what the change touches is run anew
and nothing else. The code is not looked at: after a change of it, take another folder.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import study_table
import study_tuning
import torch
from files import write
from output import locked
from study_data import prepare
from study_figure import draw
from study_file import Study
from study_run import Place, run_all
from study_trials import Trial
from study_tuning import final_trials

TABLE, FIGURE, NUMBERS, TUNING = "study.md", "study.png", "study.csv", "tuning.csv"


def main(argv: list[str]) -> int:
    """The exit status of the command."""
    args = parse(argv)
    try:
        study = Study.read(args.file)
        place = Place(args.output_dir, args.data_path, args.device)
        with locked(place.folder):
            for cell in study.cells:
                prepare(cell.setting.data, place.data_path, place.folder)
            return conduct(study, place, args.jobs)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"study.py: error: {error}", file=sys.stderr)
        return 1


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("study.py", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="YAML: see study_file.py")
    parser.add_argument("--output-dir", type=Path, required=True, help="of results")
    parser.add_argument("--data-path", default="", help="of the data set, as train.py")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="trials at a time")
    parser.add_argument("--device", default="cpu", help="of the networks")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: give the number of trials at a time, from 1")
    return args


def conduct(study: Study, place: Place, jobs: int) -> int:
    """Runs what is left of a study, and writes the table of what is there.

    Returns:
        0, or 130 if Ctrl-C has stopped it.
    """
    tuning = [t for cell in study.cells for each in study.tuning(cell) for t in each]
    say(_plan(study, tuning))
    status = 0
    try:
        run_all(tuning, place, jobs, say)
        # Seed by seed: whenever it is stopped, the arms have about as many.
        finals = (final_trials(study, cell, place) for cell in study.cells)
        by_seed = [t for each in zip(*filter(None, finals), strict=True) for t in each]
        run_all(by_seed, place, jobs, say)
    except KeyboardInterrupt:
        say("stopped: the same command goes on")
        status = 130
    say(report(study, place))
    return status


def report(study: Study, place: Place) -> str:
    """Writes table, numbers and figure; returns the table."""
    found = study_tuning.rows(study, place)
    lines = [*_head(study), *study_table.as_markdown(found), *_foot(study, place)]
    text = "\n".join(lines)
    files = {
        TABLE: text + "\n",
        NUMBERS: study_table.as_csv(found),
        TUNING: study_tuning.as_csv(study, place),
    }
    for name, content in files.items():
        write(place.folder / name, lambda out, c=content: out.write(c.encode()))
    draw(found, place.folder / FIGURE)
    return text


def _head(study: Study) -> Iterator[str]:
    yield from (f"# {study.question.strip()}", "", study.small.strip(), "")


def _foot(study: Study, place: Place) -> Iterator[str]:
    cells = study.cells
    trials = [t for cell in cells for each in study.tuning(cell) for t in each]
    tuning = _spent(trials, place)
    reported = _spent([t for c in cells for t in final_trials(study, c, place)], place)
    yield (
        "Mean ± standard deviation of one seed, for the first arm of each regime; for "
        "the others the mean, and in brackets the difference from the first arm with "
        "the same seed and Student's interval of 95 %, one comparison at a time. "
        "Scores as they are, all else in per cent. “Chosen of”: how many settings were "
        "tried on validation images, and the most accurate; * lies at an end of its "
        "grid."
    )
    yield ""
    yield (
        f"In all: tuning {tuning}; reported {reported}. torch {torch.__version__}, "
        f"{platform.machine()}, {place.device}, one thread a trial."
    )


def _plan(study: Study, tuning: list[Trial]) -> str:
    own = study.seeds * sum(cell.setting.length.rows for cell in study.cells)
    tried = sum(trial.setting.length.rows for trial in tuning)
    return (
        f"{len(study.cells)} arms; tuning: {len(tuning)} trials, {tried / 1e6:.1f} "
        f"million rows; reported: {len(study.cells) * study.seeds} trials, "
        f"{own / 1e6:.1f} million rows"
    )


def _spent(trials: list[Trial], place: Place) -> str:
    # Arms that are set alike share their trials.
    by_file = {place.file(trial): place.result(trial) for trial in trials}
    results = [result for result in by_file.values() if result is not None]
    rows = sum(result["rows"] for result in results) / 1e6
    hours = sum(result["cpu_seconds"] for result in results) / 3600
    return (
        f"{len(results)} trials, {rows:.2f} million rows, {hours:.2f} CPU hours of "
        "training"
    )


def say(text: str) -> None:
    """Tells it at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
