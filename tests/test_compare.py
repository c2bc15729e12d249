"""Comparisons fail where a network lost more than allowed, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from measured import made_up

from dai_plugin.report.bootstrap import difference
from dai_plugin.report.compare import compare
from dai_plugin.report.naming import names, quantity
from dai_plugin.report.quantities import values


def shifted(measures, group, measure, by, place="output"):
    """The same with a table moved by a number."""
    tables = {g: {m: dict(p) for m, p in t.items()} for g, t in measures.tables.items()}
    tables[group][measure][place] = tables[group][measure][place].float() + by
    return replace(measures, tables=tables)


def of(comparison, measure):
    return next(row for row in comparison.rows if row.measure == measure)


@pytest.mark.parametrize("seed", range(5))
def test_differences_are_those_of_the_tables(seed):
    """Means, the paired interval, the verdict: computed by hand."""
    old, new = made_up(seed), made_up(seed + 50)
    one, two = (
        m.tables["output"]["consistency"]["output"].double() for m in (old, new)
    )
    drop = (one.mean() - two.mean()).item()
    for allowed in (0.0, abs(drop), abs(drop) / 2):
        row = of(compare(old, new, {"consistency": allowed}), "consistency")
        assert row.old == pytest.approx(one.mean().item())
        assert row.new == pytest.approx(two.mean().item())
        assert row.failed == (drop > allowed + 1e-9)
        expected = difference(two.mean(1).numpy(), one.mean(1).numpy())
        found = (row.change.mean, row.change.low, row.change.high)
        assert found == pytest.approx(tuple(map(float, expected)))


def test_a_drop_of_as_much_as_allowed_passes():
    """0.90 - 0.88 is 0.02, whatever the last bit says."""
    old = made_up(images=100)
    hits = [torch.arange(100) < many for many in (90, 88, 87)]
    good, same, less = (
        replace(old, tables={"output": {"accuracy": {"output": hit}}}) for hit in hits
    )
    assert not compare(good, same, {"accuracy": 0.02}).failed
    assert compare(good, less, {"accuracy": 0.02}).failed
    assert not compare(less, good, {"accuracy": 0.0}).failed


def test_of_errors_a_rise_is_the_loss():
    """A lower calibration error passes, a higher one fails."""
    old = made_up()
    for by, failed in ((0.1, True), (-0.05, False), (0.04, False)):
        new = shifted(old, "output", "calibration_error", by)
        assert compare(old, new, {"calibration_error": 0.05}).failed == failed


def test_nan_fails():
    """In the new network; a value of the old one that is NaN is no limit either."""
    old = made_up()
    new = shifted(old, "output", "accuracy", torch.nan)
    found = compare(old, new, {"accuracy": 1.0})
    assert found.failed
    assert "failed: accuracy" in found.text()
    layer = shifted(old, "layers", "score", torch.nan, "relu2")
    assert compare(old, layer, {"score": 1.0}).failed
    assert not compare(old, layer, {"score:relu1": 1.0}).failed


@pytest.mark.parametrize("seed", range(4))
def test_images_that_are_nan_in_the_new_network_alone_fail(seed):
    """They are lost, however good the rest; those of neither are left out."""
    old = made_up(seed, images=40)
    table = old.tables["output"]["accuracy"]["output"].double()
    gone = torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.2
    both = shifted(old, "output", "accuracy", 0.0)
    both.tables["output"]["accuracy"]["output"][gone] = torch.nan
    new = shifted(both, "output", "accuracy", 0.5)
    row = of(compare(both, new, {"accuracy": 0}), "accuracy")
    assert row.old == pytest.approx(table[~gone].mean().item(), rel=1e-6)
    assert row.change.mean == pytest.approx(row.new - row.old) == pytest.approx(0.5)
    assert not row.failed
    assert compare(old, new, {"accuracy": 1.0}).failed
    assert not compare(new, old, {"accuracy": 1.0}).failed


def test_series_may_come_in_any_order():
    """The mean over them is the same."""
    old = made_up()
    tables = dict(reversed(old.tables.items()))
    new = replace(old, tables=tables)
    assert not compare(old, new, {"corruptions/accuracy_transformed": 0}).failed


def test_names_mean_what_they_say():
    """Each name against the tables themselves."""
    found = made_up(3)
    tables = found.tables
    kinds = [t["score"] for g, t in tables.items() if g.startswith("corruptions:")]
    layers = ("relu1", "relu2", "relu3")

    def mean(group, measure, place="output", at=slice(None)):
        return tables[group][measure][place][..., at].double().mean()

    expected = {
        "accuracy": mean("output", "accuracy"),
        "score": sum(mean("layers", "score", n) for n in layers) / 3,
        "score:input": mean("layers", "score", "input"),
        "strength:rotation/consistency": mean("strength:rotation", "consistency"),
        "strength:rotation/consistency@-20": mean(
            "strength:rotation", "consistency", at=1
        ),
        "strength:zoom/score:relu2": mean("strength:zoom", "score", "relu2"),
        "attacks:pgd/accuracy_transformed@8": mean(
            "attacks:pgd", "accuracy_transformed", at=2
        ),
        "corruptions/score": sum(t[n].mean() for t in kinds for n in layers) / 9,
    }
    for name, right in expected.items():
        got = values(found, quantity(name, found))
        assert np.mean(got) == pytest.approx(float(right), rel=1e-6), name
    for name in names(found):
        assert np.isfinite(values(found, quantity(name, found))).all()


UNKNOWN = [
    "consistenc",
    "predictions",
    "score:relu9",
    "strength:rotation/consistency@21",
    "strength:shear/consistency",
    "strength/consistency@0.8",
    "similarity/cka",
    "consistency@1",
    "/",
    "",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_names_list_what_there_is(name):
    """All measures and layers."""
    found = made_up()
    with pytest.raises(ValueError, match="no measure") as caught:
        compare(found, found, {name: 0.1})
    told = str(caught.value)
    for known in (repr(name), "consistency_all", "attacks:pgd", "relu3", "@VALUE"):
        assert known in told


def test_other_images_or_versions_are_refused():
    """Both are named, and what differs."""
    old, new = made_up(name="before"), made_up(1, name="after")
    for key, value in (("data", "e" * 16), ("scheme", "heavier"), ("seed", 1),
                       ("num_transforms", 7)):  # fmt: skip
        other = replace(new, about={**new.about, key: value})
        with pytest.raises(
            ValueError, match=rf"before \(old\) and after.*{key} differ"
        ):
            compare(old, other, {})
    with pytest.raises(ValueError, match="labels differ"):
        compare(old, replace(new, labels=torch.arange(12) // 6), {})
    axis = replace(new.axes["attacks:pgd"], values=(1.0, 2.0, 3.0))
    other = replace(new, axes={**new.axes, "attacks:pgd": axis})
    with pytest.raises(ValueError, match="values of attacks:pgd differ"):
        compare(old, other, {})


@pytest.mark.parametrize("limit", [-0.1, float("nan"), float("inf")])
def test_limits_are_numbers_of_0_or_more(limit):
    """Others are named."""
    found = made_up()
    with pytest.raises(ValueError, match=r"accuracy may lose .* 0 or more"):
        compare(found, found, {"accuracy": limit})


def test_means_over_other_series_are_refused():
    """A mean over three corruptions is none over two."""
    old, new = made_up(), made_up(corruptions=("fog", "snow"))
    with pytest.raises(ValueError, match="corruptions/score is the mean over"):
        compare(old, new, {"corruptions/score": 0.1})


def test_the_table_is_short_and_aligned():
    """A line a measure; without limits all of layers and output, and no verdict."""
    old, new = made_up(name="before"), made_up(1, name="after")
    lines = compare(old, new, {}).text().splitlines()
    assert lines[0] == "before -> after"
    assert [line.split()[0] for line in lines[2:-1]] == [
        n for n in names(old) if "/" not in n
    ]
    assert lines[-1] == "nothing was limited"
    told = compare(old, new, {"accuracy": 1, "consistency": 1}).text().splitlines()
    assert told[-1] == "passed: 2 of 2"
    assert [line.split()[-1] for line in told[2:4]] == ["ok", "ok"]
