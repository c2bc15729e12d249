"""Files of weights tell when a single byte of them is another."""

import argparse
import importlib
import random

import pytest
import torch
from conftest import REFERENCE


@pytest.fixture
def files(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    return importlib.import_module("files")


@pytest.fixture
def path(files, tmp_path):
    content = {"model": {"weight": torch.rand(7, 3)}, "progress": {"epoch": 3}}
    files.write_sealed(tmp_path / "checkpoint.pth", content)
    return tmp_path / "checkpoint.pth"


def test_what_was_written_is_read(files, path):
    """By torch alone, too: it is one of its files."""
    content, own = files.read_sealed(path), torch.load(path, weights_only=True)
    assert content["progress"] == own["progress"] == {"epoch": 3}
    assert torch.equal(content["model"]["weight"], own["model"]["weight"])


@pytest.mark.parametrize("seed", range(3))
def test_any_changed_byte_is_found(files, path, seed):
    """Wherever it is: among weights, names, padding, or in the checksum."""
    whole, draw = path.read_bytes(), random.Random(seed)
    for _ in range(100):
        place, change = draw.randrange(len(whole)), draw.randrange(1, 256)
        changed = bytearray(whole)
        changed[place] ^= change
        path.write_bytes(changed)
        assert files.damage(path), (place, change)
        with pytest.raises(ValueError, match=r"no file of|its end|its bytes"):
            files.read_sealed(path)
    path.write_bytes(whole)
    assert not files.damage(path)


def test_a_file_that_is_too_short_or_too_long(files, path):
    """Cut anywhere, or with something behind its end."""
    whole, draw = path.read_bytes(), random.Random(0)
    lengths = [1, files.SEAL, len(whole) - files.SEAL, len(whole) - 1]
    for length in lengths + [draw.randrange(1, len(whole)) for _ in range(50)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"no file of torch.save|its end"):
            files.read_sealed(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(ValueError, match="its end, with the checksum, is missing"):
        files.read_sealed(path)


def test_other_files(files, tmp_path):
    """Empty, a text, a picture's bytes, a folder, none, and one that torch wrote."""
    path = tmp_path / "other"
    for content, told in (
        (b"", "it is empty"),
        (b"hello\n", "it is no file of torch.save"),
        (b"\x89PNG" + bytes(500), "it is no file of torch.save"),
    ):
        path.write_bytes(content)
        assert files.damage(path) == told
    torch.save({"model": {}}, path)
    assert "the checksum, is missing" in files.damage(path)
    assert "Is a directory" in files.damage(tmp_path)
    assert "No such file" in files.damage(tmp_path / "none")
    files.write_sealed(path, [1, 2])
    with pytest.raises(ValueError, match="it holds a list"):
        files.read_sealed(path)
    files.write_sealed(path, {"model": argparse.Namespace()})
    with pytest.raises(ValueError, match="Weights only load failed"):
        files.read_sealed(path)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_kept_under_a_second_name(files, path, monkeypatch, links):
    """It stays what it was when another takes the first; without links, as a copy."""

    def refuse(*_):
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(files.os, "link", refuse)
    before = path.read_bytes()
    for _ in range(2):  # the second time there is an older one
        files.keep_as(path, "previous.pth")
    files.write_sealed(path, {"progress": {"epoch": 4}})
    assert (path.parent / "previous.pth").read_bytes() == before
    assert files.read_sealed(path) == {"progress": {"epoch": 4}}
    assert len(list(path.parent.iterdir())) == 2


def test_a_write_that_fails_leaves_what_was_there(files, path):
    """And nothing beside it."""
    before = path.read_bytes()

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match=r"cannot be written .no space left.; what was"):
        files.write(path, fail)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
