"""Which measured networks stand beside each other, and which are seeds of one."""

import dataclasses
import logging

import pytest
import torch
from measured import made_up

from dai_plugin.report.runs import COMPARED, other_classes, read_runs, tails


def saved(folder, seed=0, *, about=(), **kinds):
    found = made_up(seed, **kinds)
    found = dataclasses.replace(found, about={**found.about, **dict(about)})
    found.save(folder)
    return folder


def test_seeds_of_one_name_are_pooled_and_said(tmp_path, caplog):
    """In the order of the folders; the other network stays by itself."""
    folders = [
        saved(tmp_path / "a", 0, name="net"),
        saved(tmp_path / "b", 1, name="other"),
        saved(tmp_path / "c", 2, name="net"),
    ]
    with caplog.at_level(logging.WARNING):
        runs = read_runs(folders)
    assert [(run.name, run.folders) for run in runs] == [
        ("net", [folders[0], folders[2]]),
        ("other", [folders[1]]),
    ]
    assert torch.equal(runs[0].seeds[1].scores["input"], made_up(2).scores["input"])
    said = [record.message for record in caplog.records]
    assert said == [f"net: 2 seeds, pooled: {folders[0]}, {folders[2]}"]


CHANGES = {
    "data": "e" * 16,
    "images": 13,
    "size": [3, 8, 8],
    "scheme": "light",
    "num_transforms": 3,
    "seed": 7,
    "units": 10,
}


@pytest.mark.parametrize("key", COMPARED)
@pytest.mark.parametrize("name", ["net", "other"])
def test_what_was_measured_otherwise_is_not_compared(tmp_path, key, name):
    """Nor pooled; both values and both folders are named."""
    one = saved(tmp_path / "a")
    other = saved(tmp_path / "b", 1, name=name, about={key: CHANGES[key]})
    with pytest.raises(ValueError, match=f"their {key} differ") as error:
        read_runs([one, other])
    told = str(error.value)
    values = [repr(made_up().about[key]), repr(CHANGES[key])]
    assert all(word in told for word in (str(one), str(other), *values))


def test_networks_may_take_images_in_their_own_way_but_not_seeds_of_one(tmp_path):
    """The normalisation belongs to the network, not to the images."""
    changed = {"normalization": "mean 0.5, std 0.5"}
    one = saved(tmp_path / "a")
    other = saved(tmp_path / "b", 1, name="other", about=changed)
    seed = saved(tmp_path / "c", 2, about=changed)
    assert len(read_runs([one, other])) == 2
    with pytest.raises(ValueError, match="their normalization differ, 'mean 0, std 1'"):
        read_runs([one, seed])


def test_attacks_of_other_settings_are_not_compared(tmp_path):
    """What only one of them has is no reason."""
    pgd = {"attacks:pgd": "linf, ce, 10 steps", "similarity": "correlation"}
    one = saved(tmp_path / "a", about={"settings": pgd})
    more = {"attacks:pgd": "linf, ce, 40 steps"}
    other = saved(tmp_path / "b", 1, name="other", about={"settings": more})
    with pytest.raises(
        ValueError, match="settings of attacks:pgd differ, 'linf, ce, 1"
    ):
        read_runs([one, other])
    same = {"attacks:pgd": pgd["attacks:pgd"], "corruptions:fog": "by size"}
    third = saved(tmp_path / "c", 1, name="other", about={"settings": same})
    assert len(read_runs([one, third])) == 2


def test_other_values_along_an_axis_are_not_compared(tmp_path):
    found = made_up(1, name="other")
    axis = found.axes["strength:zoom"]
    axis = dataclasses.replace(axis, values=(0.5, 0.8, 1.0, 1.2))
    axes = {**found.axes, "strength:zoom": axis}
    dataclasses.replace(found, axes=axes).save(tmp_path / "b")
    with pytest.raises(ValueError, match=r"values of strength:zoom differ, \(0.6, 0.8"):
        read_runs([saved(tmp_path / "a"), tmp_path / "b"])


@pytest.mark.parametrize("seed", range(4))
def test_labels_may_be_numbered_otherwise_but_tell_the_same_classes_apart(seed):
    """Whatever bijection; one image in another class is refused, and named."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (40,), generator=draw)
    renamed = torch.randperm(9, generator=draw)[labels]
    assert other_classes(labels, renamed) is None
    assert other_classes(labels, None) is None
    moved = renamed.clone()
    moved[int(labels.argmin())] = 9
    told = other_classes(labels, moved)
    assert len(told) == 2
    assert {text.split()[-1] for text in told} == {"class", "two"}
    merged = renamed.clone()
    merged[renamed == renamed[0]] = renamed[renamed != renamed[0]][0]
    assert other_classes(labels, merged)


def test_other_labels_are_not_compared(tmp_path):
    """Nor a second and a third network of other labels beside one without."""
    found = made_up(1, name="b")
    wrong = (found.labels + (torch.arange(12) == 7)) % 3
    dataclasses.replace(found, labels=wrong).save(tmp_path / "b")
    with pytest.raises(ValueError, match=r"labels differ, 'images \d and 7 in"):
        read_runs([saved(tmp_path / "a"), tmp_path / "b"])
    without = saved(tmp_path / "c", 2, labels=False, name="c")
    with pytest.raises(ValueError, match="their labels differ"):
        read_runs([without, tmp_path / "a", tmp_path / "b"])


def test_nothing_counts_twice(tmp_path, monkeypatch):
    """Neither a folder by two paths, nor a copy of it; other names are other runs."""
    one, copy = saved(tmp_path / "a"), saved(tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="are one folder: give it once"):
        read_runs([one, "a"])
    with pytest.raises(ValueError, match=r"a and .*copy hold the same network, 'net'"):
        read_runs([one, copy])
    assert len(read_runs([one, saved(tmp_path / "b", name="again")])) == 2


def test_networks_of_one_name_with_other_layers_are_told_apart(tmp_path, caplog):
    """By their folders; those with the same layers stay seeds."""
    folders = [
        saved(tmp_path / "old" / "run", 0),
        saved(tmp_path / "new" / "run", 1, layers=["other"]),
        saved(tmp_path / "more", 2),
    ]
    with caplog.at_level(logging.WARNING):
        runs = read_runs(folders)
    assert [run.name for run in runs] == ["net (old/run)", "net (new/run)"]
    assert [len(run.seeds) for run in runs] == [2, 1]
    assert any("told apart by their folders" in r.message for r in caplog.records)


def test_folders_are_called_by_as_little_as_tells_them_apart(tmp_path):
    paths = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z"]
    assert tails(paths[::2]) == ["run", "z"]
    assert [t.split("/")[-2:] for t in tails(paths)][:2] == [["x", "run"], ["y", "run"]]
    assert len(set(tails(paths))) == 3


def test_folders_without_measures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no measures\.npz in .*nothing"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="no folders to report on"):
        read_runs([])
