"""Files are written whole or not at all, also several of one run."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dai_plugin.files import together, write


class Full(Exception):
    """The writer gives up."""


def fill(path, error=None):
    """Writes a little, then fails."""

    def put(file):
        file.write(b"new")
        if error:
            raise error

    write(path, put)


@pytest.mark.parametrize("error", [OSError("full"), Full(), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, error):
    """Whatever ends the writing; nothing is left beside it."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        fill(path, error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
    fill(path)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError("full"), Full(), KeyboardInterrupt()])
def test_files_take_their_places_together(tmp_path, error):
    """Or none of them does; those of an earlier run stay until then."""
    earlier = {"a": "old", "gone": "old", "last": "old", "other": "not ours"}
    for name, text in earlier.items():
        (tmp_path / name).write_text(text)

    def run(error=None):
        with together(tmp_path, "last", ["a", "b", "gone"]) as folder:
            for name in ("a", "b", "last"):
                (folder / name).write_text("new")
            if error:
                raise error

    with pytest.raises(type(error)):
        run(error)
    assert contents(tmp_path) == earlier
    run()
    new = {"a": "new", "b": "new", "last": "new", "other": "not ours"}
    assert contents(tmp_path) == new


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """Here: a file may have 4 KiB at most."""
    (tmp_path / "last").write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        with together(tmp_path, "last") as folder:
            (folder / "first").write_text("new")
            (folder / "last").write_text("new" * 4096)

    try:
        with pytest.raises(OSError, match="File too large"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert contents(tmp_path) == {"last": "old"}


KILLED = """
import os, sys
from pathlib import Path
from dai_plugin import files
names, kill = sys.argv[2].split(","), int(sys.argv[3])
steps = iter(range(1000))
def count(call):
    def counted(*args, **kwargs):
        if next(steps) == kill:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return counted
os.replace, os.fsync = count(os.replace), count(os.fsync)
Path.unlink = count(Path.unlink)
with files.together(Path(sys.argv[1]), "last", names) as folder:
    for name in names:
        (folder / name).write_text("new")
"""


def test_whoever_is_killed_while_writing_leaves_no_mixture(tmp_path):
    """At every step: with its last file a folder holds one run, without it none."""
    names = ["a", "b", "last"]
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("import os, sys", LIGHT, 1))
    states = []
    for kill in range(12):
        (folder := tmp_path / str(kill)).mkdir()
        for name in names:
            (folder / name).write_text("old")
        ended = subprocess.run(
            [sys.executable, script, folder, ",".join(names), str(kill)]
        )
        found = {n: (folder / n).read_text() for n in names if (folder / n).exists()}
        if "last" in found:
            assert len(set(found.values())) == 1
            assert len(found) == len(names)
        states.append(found.get("last"))
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        with together(folder, "last", names) as beside:  # the next run
            (beside / "last").write_text("again")
        assert contents(folder) == {"last": "again"}
    assert states[0] == "old"
    assert states[-1] == "new"
    assert None in states


# The file alone, without the package and torch around it.
LIGHT = f"""
import importlib.util, os, sys, types
sys.modules["dai_plugin"] = types.ModuleType("dai_plugin")
spec = importlib.util.spec_from_file_location(
    "dai_plugin.files", {str(Path(write.__code__.co_filename))!r})
files = importlib.util.module_from_spec(spec)
sys.modules["dai_plugin"].files = files
spec.loader.exec_module(files)
"""
