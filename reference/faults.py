"""What ends a run before its time, and how all of its processes end the same way."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

NAMED = (ValueError, TypeError, KeyError, OSError, ImportError, ArithmeticError)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds within which one signal may come twice: from who sends it to all processes of
# a job, and from the launcher, which hands on its own.
ECHO = 5.0


class Interrupted(Exception):
    """SIGTERM or Ctrl-C reached a process, and every one is at the same step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Elsewhere(Exception):
    """Another process tells what is wrong."""


class Watch:
    """Waits for signals and losses that are no numbers, on behalf of all processes.

    A signal that comes while a step runs is kept until all processes have ended it;
    a second Ctrl-C, seconds later, ends the process at once. Processes ask each other
    through the CPU, so that nobody waits for an accelerator.

    Args:
        processes: how many there are.
        timeout: seconds to wait for one of them.
    """

    def __init__(self, processes: int, timeout: int) -> None:
        self._group = None
        if processes > 1:
            wait = timedelta(seconds=timeout)
            self._group = dist.new_group(backend="gloo", timeout=wait)
        self._signal = 0
        self._first_at = math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {n: signal.signal(n, self._note) for n in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, problem: str = "") -> None:
        """Ends the run in every process if one has a problem or got a signal.

        Raises:
            FloatingPointError: there is a problem with the loss here.
            Elsewhere: or in another process.
            Interrupted: a process got a signal.
        """
        found = [self._signal, int(bool(problem))]
        if self._group is not None:
            flags = torch.tensor(found)
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
            found = flags.tolist()
        if problem:
            raise FloatingPointError(problem)
        if found[1]:
            raise Elsewhere
        if found[0]:
            raise Interrupted(found[0])

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and now - self._first_at > ECHO:
            # The user insists: at once, whatever the process is waiting for.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        self._first_at = min(self._first_at, now)


def rejoin(backend: str, timeout: timedelta) -> None:
    """After a restart by torchrun: the process group, under a name of its own.

    torchrun 2.15 keeps one store over its restarts, where a fast process finds the
    addresses of those that have died ("connection refused").
    """
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    if not count or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, is_master=False, timeout=timeout)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"restart_{count}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )


def on_first(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns on the first process; its error is everybody's.

    Raises:
        Exception: the function's own on the first process.
        Elsewhere: it raised there, on the others.
    """
    result, error = None, None
    if PartialState().is_main_process:
        try:
            result = function(*args)
        except NAMED as caught:
            error = caught
    result, failed = broadcast_object_list([result, error is not None])
    if error is not None:
        raise error
    if failed:
        raise Elsewhere
    return result


def first_then_all(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns in each process, which the first one calls before all.

    Then one process of each machine, then the rest: who downloads does it alone, and
    what is wrong is said once.

    Raises:
        Exception: the function's own on the first process.
        Elsewhere: it raised there, on the others.
    """
    held: list[Any] = []
    on_first(lambda: held.append(function(*args)))
    with PartialState().local_main_process_first():
        return held[0] if held else function(*args)


def guarded(function: Callable[[], None]) -> int:
    """The exit status of the script; a known error is told in one line."""
    try:
        function()
    except KeyboardInterrupt:
        print("train.py: interrupted before training: nothing to save", file=sys.stderr)
        return 128 + signal.SIGINT
    except Elsewhere:
        return 1
    except NAMED as error:
        told = error.args[0] if isinstance(error, KeyError) else error
        print(f"train.py: error: {_where()}{told}", file=sys.stderr, flush=True)
        return 1
    return 0


def _where() -> str:
    """Which process speaks, unless it is the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def ignore_signals(_: int) -> None:
    """For the loader's workers: Ctrl-C reaches them too, and the step needs them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
