"""Measures as a table, and in a file: all of them, or none."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import dai_plugin
from dai_plugin import Measures, measure
from dai_plugin.measures.results import FILE, hash_of_weights

PIXELS = {"mean": 0.0, "std": 1.0}


@pytest.fixture
def found(net):
    images = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    names = [f"cat/{i}.png" for i in range(6)]
    parts = [slice(0, 4), slice(4, 6)]
    data = [(images[part], labels[part], names[part]) for part in parts]
    return measure(net, data, name="mine", **PIXELS)


def test_what_was_run_is_told(net, found):
    """Model, weights, data, scheme, seed, versions; names and labels of the images."""
    assert found.names == [f"cat/{i}.png" for i in range(6)]
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    about = found.about
    assert (about["name"], about["model"]) == ("mine", "SmallNet")
    assert about["missing"] == []
    assert about["weights"] == hash_of_weights(net)
    assert about["images"] == 6
    assert about["size"] == [3, 12, 12]
    assert "rotation +- 11.25 deg" in about["scheme"]
    assert (about["num_transforms"], about["units"], about["seed"]) == (5, 256, 0)
    assert about["versions"]["dai_plugin"] == dai_plugin.__version__
    other = measure(net, torch.rand(3, 3, 12, 12), measures="output", **PIXELS)
    assert other.names is other.labels is None
    assert other.about["name"] == "SmallNet"
    with pytest.raises(KeyError, match="were not measured, only output"):
        _ = other.scores


def test_the_digest_tells_images_apart(net):
    """One grey level of one pixel is other data; other batches are not."""
    images = torch.randint(255, (6, 3, 12, 12), dtype=torch.uint8)

    def digest(data):
        return measure(net, data, measures="output", **PIXELS).about["data"]

    first = digest(images)
    assert len(first) == 16
    assert digest(images.split(4)) == first
    images[3, 1, 5, 5] += 1
    assert digest(images) != first


def test_the_hash_tells_weights_apart(net):
    """One number of one weight, or the type, is another network; a copy is none."""
    first = hash_of_weights(net)
    assert first == hash_of_weights(net)
    with torch.no_grad():
        net.classifier.bias[0] += 1e-6
    assert hash_of_weights(net) != first
    assert hash_of_weights(nn.Linear(2, 2).half()) != hash_of_weights(nn.Linear(2, 2))


def test_the_table_has_the_mean_of_each_measure(found):
    """NaN left out; predictions are no measures."""
    frame = found.frame().set_index(["measure", "place"])
    scores = found.scores["features.4"]
    row = frame.loc["score", "features.4"]
    assert row["depth"] == 2
    assert row["count"] == scores.numel()
    assert row["mean"] == pytest.approx(scores.mean().item())
    assert row["median"] == pytest.approx(np.median(scores.numpy()))
    right = found.tables["output"]["accuracy"]["output"].float().mean().item()
    assert frame.loc["accuracy", "output"]["mean"] == pytest.approx(right)
    assert "predictions" not in frame.index.get_level_values(0)
    some = torch.tensor([1.0, torch.nan, 3.0])
    tables = {"layers": {"x": {"a": some, "b": some * torch.nan}}}
    first, second = Measures(tables, {}).rows()
    assert (first["mean"], first["count"]) == (2.0, 2)
    assert np.isnan(second["mean"])


def test_the_table_needs_pandas(found, monkeypatch):
    """Said with what to do."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RuntimeError, match=r"needs pandas .* rows\(\) has the same"):
        found.frame()


def test_what_was_saved_is_loaded(found, tmp_path):
    """Every table to the bit, in its order, with its type; the rest, too."""
    assert found.save(tmp_path / "new") == tmp_path / "new" / FILE
    again = Measures.load(tmp_path / "new")
    assert again.about == found.about
    assert again.names == found.names
    assert torch.equal(again.labels, found.labels)
    assert list(again.scores) == list(found.scores)
    for group, tables in found.tables.items():
        assert list(again.tables[group]) == list(tables)
        for name, places in tables.items():
            for place, table in places.items():
                other = again.tables[group][name][place]
                assert other.dtype == table.dtype
                assert torch.equal(other.nan_to_num(9.0), table.nan_to_num(9.0))


def test_a_file_is_written_as_a_whole(found, tmp_path, monkeypatch):
    """What ends in between leaves the old file, and nothing beside it."""
    found.save(tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def fails(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fails)
    with pytest.raises(OSError, match="no space left"):
        found.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).read_bytes() == before


def test_files_that_hold_no_measures_are_named(found, tmp_path):
    """Missing, cut off, of another format."""
    with pytest.raises(FileNotFoundError, match=r"no measures\.npz in"):
        Measures.load(tmp_path)
    path = found.save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"measures\.npz holds no measures"):
        Measures.load(tmp_path)
    told = {"format": 99, "places": [], "about": {}, "names": None}
    np.savez(path, **{"about.json": np.array(json.dumps(told))})
    with pytest.raises(ValueError, match="has the format 99, but this package reads 2"):
        Measures.load(tmp_path)
