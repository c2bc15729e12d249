"""What a command says when it fails, and how it ends.

An exception that this package raises is written for who typed the command: its message
is enough. Any other one is shown with its type and its place; if code that is neither
ours nor a library's had a part in it, with the traceback from there on.
"""

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
_LIBRARIES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")
_STANDARD = Path(sysconfig.get_path("stdlib"))
_LONGEST = 400  # characters of a message that we have not written
_OF_WORKER = "Traceback (most recent call last):\n"
_FRAME = re.compile(r'  File "(.+)", line (\d+), in (.+)\n(?: {4}(.*)\n)?')


class UsageError(Exception):
    """The command line asks for what cannot be; the message names the flag."""


class Frame(NamedTuple):
    """A place in the code that an exception has passed."""

    file: str
    line: int
    function: str
    code: str


class Failure(NamedTuple):
    """An exception in words.

    Attributes:
        frames: where it came from, the place that raised it last.
        kind: its type.
        message: what it says.
        lines: the two as Python prints them, with the line of a syntax error.
    """

    frames: list[Frame]
    kind: str
    message: str
    lines: list[str]

    @property
    def ours(self) -> bool:
        """Whether this package has raised it, and so has written its message."""
        return bool(self.frames) and (
            Path(self.frames[-1].file).is_relative_to(PACKAGE)
            # Else it is a slip: a key that is missing, an assertion.
            and self.frames[-1].code.startswith("raise")
        )

    def explained(self) -> str:
        """The message alone if it is ours; else type, place, traceback."""
        if self.ours:
            return self.message
        theirs = next((i for i, f in enumerate(self.frames) if _theirs(f)), None)
        if theirs is None:
            return self._headline()
        shown = self.frames[theirs:]
        lines = traceback.format_list(traceback.StackSummary.from_list(shown))
        return "".join([self._headline(), "\n", *lines, *self.lines]).rstrip()

    def _headline(self) -> str:
        message = " ".join(self.message.split())
        if len(message) > _LONGEST:
            message = f"{message[:_LONGEST]} ..."
        said = f"{self.kind}: {message}" if message else self.kind
        own = [frame for frame in self.frames if _theirs(frame)] or self.frames
        return f"{said} ({_place(own[-1])})" if own else said


def failure(error: BaseException) -> Failure:
    """What is known of an exception, also of one that a loading process sent."""
    text = str(error.args[0]) if error.args else ""
    if "in DataLoader worker process" in text and _OF_WORKER in text:
        return _sent(text)
    frames = [
        Frame(frame.filename, frame.lineno or 0, frame.name, frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    kind = type(error).__name__
    lines = traceback.format_exception_only(error)
    if isinstance(error, SyntaxError) and error.filename:
        frames = [Frame(error.filename, error.lineno or 0, "", error.text or "")]
        return Failure(frames, kind, error.msg, lines)
    message = text if isinstance(error, KeyError) else str(error)
    found = Failure(frames, kind, message, lines)
    if found.ours:
        return found
    # A bare key is no message: 'model', not model.
    return found._replace(message="; ".join([str(error), *_notes(error)]))


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@contextmanager
def refused_as(flag: str) -> Iterator[None]:
    """What this package refuses inside is the fault of a flag.

    Raises:
        UsageError: it was refused.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
        found = failure(error)
        if not found.ours:
            raise
        raise UsageError(f"argument {flag}: {found.message}") from error


def show(error: BaseException, command: str, whole: bool) -> None:
    """Tells of it on stderr; `whole` shows the whole traceback before."""
    if whole:
        traceback.print_exception(error)
    text = str(error) if isinstance(error, UsageError) else failure(error).explained()
    print(f"dai-plugin {command}: error: {text}", file=sys.stderr)


def _sent(text: str) -> Failure:
    """An exception of a loading process, which brings its traceback along as text."""
    last = text.rpartition(_OF_WORKER)[2]
    frames = [
        Frame(file, int(line), function, code.strip())
        for file, line, function, code in _FRAME.findall(last)
    ]
    # After the frames, and the marks below their lines, the first that is not indented.
    found = re.search(r"^(?! )([\w.]+)(?:: ([\s\S]*))?", last, flags=re.MULTILINE)
    said = last[found.start() :].strip() if found else last
    kind, _, message = said.partition(": ")
    return Failure(frames, kind.rpartition(".")[2], message, [said])


def _theirs(frame: Frame) -> bool:
    """Whether the code is that of whoever typed the command."""
    path = Path(frame.file)
    return not (
        frame.file.startswith("<")
        or _LIBRARIES.match(frame.file)
        or path.is_relative_to(PACKAGE)
        or path.is_relative_to(_STANDARD)
    )


def _place(frame: Frame) -> str:
    within = f", in {frame.function}" if frame.function else ""
    return f"{_LIBRARIES.sub('', frame.file)}:{frame.line}{within}"
