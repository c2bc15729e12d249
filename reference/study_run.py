"""Trials are run, each once: what is there already is read, what is whole is kept."""

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from files import write, write_json
from study_data import Pool, Split, file_of, read, split
from study_measures import accuracy, measured, quantities
from study_training import Trained, train
from study_trials import TUNED, Trial
from torch import nn

Result = dict[str, Any]
Say = Callable[[str], None]
TRIALS, WEIGHTS, TRAINED = "trials", "model.pth", "trained.json"


@dataclass(frozen=True)
class Place:
    """Where trials are run.

    Attributes:
        folder: of the study.
        data_path: of the data set.
        device: of the networks.
    """

    folder: Path
    data_path: str
    device: str

    def images(self, trial: Trial) -> Pool:
        """All images of the data set of a trial."""
        return read(file_of(trial.setting.data, self.data_path, self.folder))

    def file(self, trial: Trial) -> Path:
        """Where the result of a trial is, or will be.

        The name is a hash of all that the result depends on, but for the code.
        """
        hashes, kind = self.images(trial).hashes, torch.device(self.device).type
        name = trial.trained({"images": hashes["train"], "device": kind})
        test = {"images": hashes["test"]}
        return self.folder / TRIALS / name / f"{trial.measured(test)}.json"

    def result(self, trial: Trial) -> Result | None:
        """What came of a trial, None if it has not been run."""
        file = self.file(trial)
        return json.loads(file.read_text()) if file.is_file() else None


def run_all(trials: Sequence[Trial], place: Place, jobs: int, say: Say) -> None:
    """Runs the trials that have no result yet, one in a process at a time.

    Args:
        trials: in the order in which they start.
        place: of their results.
        jobs: processes.
        say: is told of each.

    Raises:
        RuntimeError: a trial could not be run; the results of the others are kept.
    """
    left = list({place.file(t): t for t in trials if place.result(t) is None}.values())
    start = time.monotonic()
    with closing(_results(left, place, jobs)) as results:
        for done, (trial, result) in enumerate(results, 1):
            rest = (time.monotonic() - start) / done * (len(left) - done) / 60
            where = f"[{done}/{len(left)}, {rest:.0f} min left]"
            say(f"{where} {trial.label}: {told(result)}")


def told(result: Result) -> str:
    """A result in a few words."""
    if result["diverged"] is not None:
        return f"diverged in step {result['diverged']}"
    return f"{100 * result['accuracy']:.1f} % in {result['seconds']:.0f} s"


def run(trial: Trial, place: Place) -> Result:
    """Trains, measures and writes the result, whole or not at all."""
    pool, setting = place.images(trial), trial.setting
    images = split(pool, setting.data, trial.seed, trial.part)
    model = setting.network.build(images.classes, trial.seed).to(place.device)
    file = place.file(trial)
    file.parent.mkdir(parents=True, exist_ok=True)
    took = _trained(model, trial, images, pool, place)
    result = asdict(took)
    if took.diverged is None:
        result |= _measured(model, trial, images, pool, file)
    write_json(file, result)
    return result


def _trained(
    model: nn.Module, trial: Trial, images: Split, pool: Pool, place: Place
) -> Trained:
    """Trains the network, or gives it the weights that are there already."""
    folder, setting = place.file(trial).parent, trial.setting
    about = folder / TRAINED
    if about.is_file():
        state = torch.load(folder / WEIGHTS, map_location=place.device)
        model.load_state_dict(state)
        return Trained(**json.loads(about.read_text()))
    known = setting.data.normalization(pool.normalization)
    device = torch.device(place.device)
    own = setting.training, setting.attach, known, trial.seed, device
    with torch.random.fork_rng(devices=[]):
        took = train(model, images.train, *own)
    if trial.part != TUNED and took.diverged is None:
        write(folder / WEIGHTS, lambda out: torch.save(model.state_dict(), out))
        write_json(about, asdict(took))
    return took


def _measured(
    model: nn.Module, trial: Trial, images: Split, pool: Pool, file: Path
) -> dict[str, float]:
    known = trial.setting.data.normalization(pool.normalization)
    if trial.part == TUNED:
        return {"accuracy": accuracy(model, images.held_out, known)}
    section, name = trial.setting.sections["measures"], trial.name
    found = measured(model, images.held_out, section, known, name)
    found.save(file.parent)
    return quantities(found)


def _results(
    trials: Sequence[Trial], place: Place, jobs: int
) -> Generator[tuple[Trial, Result]]:
    """Trials with their results, as they end."""
    if jobs == 1 or len(trials) < 2:
        for trial in trials:
            yield trial, _run_alone(trial, place)
        return
    context = multiprocessing.get_context("spawn")  # which a GPU needs, too
    with ProcessPoolExecutor(jobs, context, initializer=_begin) as processes:
        running = {processes.submit(_run_alone, t, place): t for t in trials}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _run_alone(trial: Trial, place: Place) -> Result:
    """The trial, in one thread: numbers are the same whatever else runs."""
    # What attach takes and weighs stands in the file; each trial would say it again.
    logging.getLogger("dai_plugin").setLevel(logging.WARNING)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(trial, place)
    except (ValueError, TypeError, RuntimeError, KeyError, OSError) as error:
        raise RuntimeError(f"{trial.label}: {error}") from error
    finally:
        torch.set_num_threads(threads)


def _begin() -> None:
    """A process leaves Ctrl-C to its parent, and ends when that does, however."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
