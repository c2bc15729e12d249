"""Corrupted sets that others stored, in the layout of CIFAR-10-C."""

import numpy as np
import pytest
import torch

from dai_plugin.measures.stored import stored, stored_names


def write(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, images):
    write(tmp_path, fog=images, snow=images[::-1], labels=np.arange(20, dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize("severity", range(1, 6))
def test_a_severity_is_a_fifth_of_the_file(folder, images, severity):
    read, labels = stored(folder, "fog", severity)
    part = slice(4 * severity - 4, 4 * severity)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(images[part].transpose(0, 3, 1, 2)))
    assert torch.equal(labels, torch.arange(20)[part])


def test_the_file_stays_as_it_is(folder, images):
    stored(str(folder), "fog", 2)[0].zero_()
    assert np.array_equal(np.load(folder / "fog.npy"), images)


def test_names_are_those_of_the_files(folder, tmp_path):
    assert stored_names(folder) == ["fog", "snow"]
    assert stored_names(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("severity", [0, 6, True, 2.0, "1"])
def test_other_severities_are_refused(folder, severity):
    with pytest.raises(ValueError, match="take a whole number from 1 to 5"):
        stored(folder, "fog", severity)


def test_missing_files_are_named_with_those_that_are_there(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"rain\.npy; corruptions there: fog, s"
    ):
        stored(folder, "rain", 1)
    with pytest.raises(FileNotFoundError, match=r"fog\.npy; corruptions there: none"):
        stored(tmp_path / "elsewhere", "fog", 1)
    (folder / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*labels\.npy"):
        stored(folder, "fog", 1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"fog": np.zeros((20, 8, 6, 3))}, r"fog\.npy holds torch\.float64 \(20, 8, 6"),
        (
            {"fog": np.zeros((20, 3, 8, 6), np.uint8)},
            r"uint8 \[5 \* N, H, W, 3\] is ne",
        ),
        ({"fog": np.zeros((20, 8), np.uint8)}, r"uint8 \[5 \* N, H, W, 3\] is needed"),
        (
            {"fog": np.zeros((18, 8, 6, 3), np.uint8)},
            "18 images and labels.npy 20 label",
        ),
        ({"labels": np.zeros(4, np.uint8)}, "20 images and labels.npy 4 labels"),
        ({"labels": np.zeros(20)}, r"labels\.npy holds torch\.float64 \(20,\); whole"),
        ({"labels": np.zeros((20, 2), int)}, r"whole numbers \[5 \* N\] are needed"),
        ({"fog": np.array(["a"])}, "is no array of numbers"),
        ({"fog": np.array([None])}, "is no array of numbers"),
    ],
)
def test_other_contents_are_refused(folder, files, message):
    write(folder, **files)
    with pytest.raises(ValueError, match=message):
        stored(folder, "fog", 1)


def test_a_file_that_is_no_array_is_refused(folder):
    (folder / "fog.npy").write_text("not an array")
    with pytest.raises(ValueError, match="is no array of numbers"):
        stored(folder, "fog", 1)
