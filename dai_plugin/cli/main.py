"""`dai-plugin COMMAND`: one of the commands runs, and its end is told by a status."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from dai_plugin.cli import compare, layers, measure, report, score
from dai_plugin.cli.failures import UsageError, show
from dai_plugin.cli.parser import parser

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
PIPE_CLOSED = 141  # 128 and the signal's number, as a shell says it

_COMMANDS: dict[str, Callable[[Any], int]] = {
    "compare": compare.run,
    "layers": layers.run,
    "measure": measure.run,
    "report": report.run,
    "score": score.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0: done. 1: it could not be done. 2: the command line asks for what cannot be.
    `compare`, whose 1 says that a network is worse, ends with 2 wherever others end
    with 1.
    130: interrupted. 141: who read the output has gone.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(words)
    options.words = words
    if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    interrupts: list[int] = []
    try:
        with _terminated_as_interrupted(interrupts):
            status = _COMMANDS[options.command](options)
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        _leave_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print(f"dai-plugin {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    # A user's file may end the process, too, and says so by an exception.
    except (Exception, SystemExit) as error:
        if interrupts:  # which have ended what this one relied on
            print(f"dai-plugin {options.command}: interrupted", file=sys.stderr)
            return INTERRUPTED
        show(error, options.command, options.traceback)
        wrong = isinstance(error, UsageError) or options.command == "compare"
        return MISUSED if wrong else FAILED


@contextmanager
def _terminated_as_interrupted(interrupts: list[int]) -> Iterator[None]:
    """SIGTERM is as Ctrl-C; only the main thread may say so. Each is noted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_stdout() -> None:
    """Keeps the interpreter's end from writing to a pipe that is closed."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
