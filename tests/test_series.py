"""Along an axis each version is measured for itself; an interrupt keeps the rest."""

import random

import oracle_measures as literal
import pytest
import torch
from test_measures import ALL, PIXELS, Case, close
from torch import nn

from dai_plugin import Attacks, Corruptions, Measures, Similarity, Strength, measure
from dai_plugin.measures.output_measures import calibration_error
from dai_plugin.measures.results import Axis, Pictures
from dai_plugin.measures.series import Series
from dai_plugin.measures.versions import Transformations


class Drawn:
    """Series whose versions are those of `measure` itself: both must agree."""

    def __init__(self, case, names=("drawn",), interrupt=None):
        self.case, self.names, self.interrupt = case, names, interrupt

    def series(self, model, seed):
        points = tuple(float(k) for k in range(self.case.transforms))
        axis = Axis("number", "", points)
        return [Series(f"test:{name}", axis, self.source(name)) for name in self.names]

    def source(self, name):
        source = Transformations(self.case.scheme, self.case.transforms, 0)
        if name != self.interrupt:
            return source

        class Interrupted:
            def check(self, batch):
                pass

            def versions(self, batch, known):
                for version in source.versions(batch, known):
                    yield version
                    raise KeyboardInterrupt

        return Interrupted()


@pytest.mark.parametrize("seed", range(6))
def test_each_point_is_measured_for_itself(seed):
    """As the one version of its own measurement, whatever the batches are."""
    case = Case(seed)
    if case.transforms == 1:
        case.transforms = 2
    tables = case.measured(measures=["layers", "output", Drawn(case)])
    drawn, layers, output = (tables[g] for g in ("test:drawn", "layers", "output"))
    shown = case.activations()
    for name in layers["score"]:
        for measured in ("score", "cosine", "equivariance"):
            expected = layers[measured][name].nanmean(0)
            close(drawn[measured][name], expected, 1e-6)
        for k in range(case.transforms):
            versions = shown[name][[0, k + 1]]
            expected = literal.normalized_variance(versions)
            close(drawn["normalized_variance"][name][k], expected, 1e-4)
            close(drawn["firing"][name][k], literal.firing(versions))
    same = ("predictions", "confidences", "consistency", "effective_invariance")
    for measured in (*same, "retrieval", "accuracy_transformed"):
        expected = output[measured]["output"]
        assert torch.equal(drawn[measured]["output"], expected)
    errors = drawn["calibration_error_transformed"]["output"]
    pairs = (output[m]["output"].T for m in ("confidences", "accuracy_transformed"))
    expected = [calibration_error(*pair) for pair in zip(*pairs, strict=True)]
    assert errors.tolist() == torch.stack(expected).tolist()


def test_a_series_takes_the_groups_beside_it():
    """Both, if none is asked for; memory in images is the output's alone."""
    case = Case(0)
    alone = case.measured(measures=Drawn(case))
    assert list(alone) == ["test:drawn"]
    assert {"score", "consistency"} <= set(alone["test:drawn"])
    output = case.measured(measures=["output", Drawn(case)])["test:drawn"]
    assert "score" not in output
    layers = case.measured(measures=["layers", Drawn(case)])["test:drawn"]
    assert "consistency" not in layers
    sizes = {tuple(t.shape) for places in layers.values() for t in places.values()}
    assert sizes == {(case.transforms,)}


def test_every_group_is_measured_together():
    """Names stand for defaults; each series has its axis; pictures of the versions."""
    case = Case(4)
    case.images = torch.rand(case.count, case.channels, 16, 17)
    case.sides = 16, 17
    asked = [
        "layers",
        "output",
        Strength({"rotation": (0, 20), "flip": (0, 1)}),
        Corruptions(["fog"], (1, 5)),
        Attacks(["fgsm"], eps=(0.0, 0.1)),
        "similarity",
    ]
    data = [(case.images, case.labels)]
    found = measure(case.net, data, measures=asked, num_transforms=2, **PIXELS)
    series = [
        "strength:rotation",
        "strength:flip",
        "corruptions:fog",
        "attacks:fgsm",
    ]
    assert list(found.tables) == ["layers", "output", *series, "similarity"]
    assert list(found.axes) == series
    assert found.about["settings"] == {
        "corruptions:fog": "constants by size",
        "attacks:fgsm": "linf, ce",
        "similarity": "correlation",
    }
    for name in series:
        points = len(found.axes[name].values)
        hits = found.tables[name]["accuracy_transformed"]["output"]
        assert hits.shape == (case.count, points)
        assert found.tables[name]["score"]["input"].shape == (points,)
    still = found.tables["strength:rotation"]
    assert still["consistency"]["output"][:, 0].all()
    assert all(table[0] == 1 for table in still["score"].values())
    layers = list(found.tables["layers"]["score"])
    assert list(found.tables["similarity"]["dissimilarity"]) == layers
    for shown in found.pictures.values():
        assert len(shown.words) == len(shown.images) == min(24, case.count)


def test_what_does_not_suit_the_images_is_left_out_or_refused(caplog):
    """Before anything runs; one corruption of many alone is left out."""
    case = Case(1)
    runs = []
    case.net.register_forward_hook(lambda *_: runs.append(1))
    grey = torch.rand(5, 1, 16, 16)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3))
    asked = Corruptions(["saturate", "contrast"], (1,))
    found = measure(net, grey, measures=asked, **PIXELS)
    assert list(found.tables) == ["corruptions:contrast"]
    assert "corruptions:saturate is left out: saturate changes colours" in caplog.text
    assert found.about["missing"] == ["corruptions:saturate"]
    assert not found.about["interrupted"]
    with pytest.raises(ValueError, match="16 pixels a side"):
        case.measured(measures=["output", "corruptions"])
    assert not runs
    with pytest.raises(ValueError, match="rdm is of 4 images, but data holds"):
        case.measured(measures=["output", Similarity(rdm=1 - torch.eye(4))])
    assert len(runs) == -(-case.count // case.batch)  # the first look alone
    for twice in (["strength", Strength({"flip": (1,)})], ["similarity"] * 2):
        with pytest.raises(ValueError, match="is asked for twice"):
            case.measured(measures=twice)


def test_what_is_nan_is_said_once(caplog):
    """Not once more for each series."""
    case = Case(1)
    case.images = case.images[:1].repeat(case.count, 1, 1, 1)
    case.measured(measures=["layers", Drawn(case, ("one", "two"))])
    assert caplog.text.count("scores are NaN") == 1


def interrupted(case, at, asked=("layers", "output")):
    family = Drawn(case, ("one", "two", "three"), interrupt=at)
    data = [(case.images, case.labels)]
    given = {"scheme": case.scheme, "num_transforms": case.transforms, "units": ALL}
    return measure(case.net, data, measures=[*asked, family], **PIXELS, **given)


def test_an_interrupt_keeps_what_is_whole(caplog):
    """It is said what is missing; hooks and modes are as they were."""
    case = Case(3)
    case.net.train()
    found = interrupted(case, "two")
    assert list(found.tables) == ["layers", "output", "test:one"]
    assert list(found.axes) == ["test:one"]
    assert found.about["missing"] == ["test:two", "test:three"]
    assert found.about["interrupted"]
    assert "missing: test:two; test:three" in caplog.text
    assert case.net.training
    assert not any(m._forward_hooks for m in case.net.modules())
    with pytest.raises(KeyboardInterrupt):
        interrupted(case, "one", asked=())


def test_labels_that_fit_no_class_are_left_out(caplog):
    """With the numbers; what needs no labels is measured as without them."""
    case = Case(2)
    without = case.measured()
    for shift in (1, -1):
        case.labels = torch.arange(case.count) % case.classes + shift
        caplog.clear()
        found = case.measured()
        low, high = int(case.labels.min()), int(case.labels.max())
        said = f"labels from {low} to {high} do not fit the network's {case.classes} "
        assert said in caplog.text
        assert set(without["output"]) - set(found["output"]) == {
            name for name in without["output"] if name.startswith(("acc", "calib"))
        }
        assert "class_score" not in found["layers"]
        kept = "consistency"
        assert torch.equal(
            found["output"][kept]["output"], without["output"][kept]["output"]
        )
    case.labels = torch.arange(case.count) % case.classes + 1
    both = ["layers", Attacks(("fgsm",), (0.1,))]
    caplog.clear()
    assert list(case.measured(measures=both)) == ["layers", "attacks:fgsm"]
    assert f"do not fit the network's {case.classes} classes" in caplog.text
    assert "class_score" in case.measured(measures="layers")["layers"]


def test_series_are_a_row_a_point():
    """Each point of an axis has its own mean; matrices have none."""
    numbers = torch.tensor([[0.0, 1.0], [torch.nan, 3.0]])
    tables = {
        "test:x": {
            "score": {"a": torch.tensor([1.0, 2.0])},
            "hit": {"output": numbers},
        },
        "similarity": {"cka": {"layers": torch.eye(2)}, "rdm": {"a": torch.ones(3)}},
    }
    found = Measures(tables, {}, axes={"test:x": Axis("x", "", (0.0, 5.0))})
    rows = [(r["measure"], r["at"], r["mean"], r["count"]) for r in found.rows()]
    assert rows == [
        ("score", 0.0, 1.0, 1),
        ("score", 5.0, 2.0, 1),
        ("hit", 0.0, 0.0, 1),
        ("hit", 5.0, 2.0, 2),
        ("rdm", None, 1.0, 3),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_axes_and_pictures_survive_the_file(tmp_path, seed):
    draw = random.Random(seed)
    count = draw.randint(1, 5)
    values = tuple(draw.uniform(-1, 1) for _ in range(draw.randint(1, 4)))
    pixels = torch.randint(255, (count, 2, 3, 4, 5), dtype=torch.uint8)
    shown = Pictures(
        torch.arange(count), torch.arange(count) % 2, pixels, ["x < y"] * count
    )
    tables = {"a:b": {"score": {"output": torch.rand(3, len(values))}}}
    axes, pictures = {"a:b": Axis("b", "deg", values)}, {"breaks": shown}
    Measures(tables, {}, axes=axes, pictures=pictures).save(tmp_path)
    again = Measures.load(tmp_path)
    assert again.axes == axes
    other = again.pictures["breaks"]
    assert torch.equal(other.pixels, pixels)
    assert torch.equal(other.images, shown.images)
    assert torch.equal(other.versions, shown.versions)
    assert other.words == shown.words


def test_progress_is_told(capsys):
    """A bar for each pass, on stderr, and nothing unless it is asked for."""
    case = Case(1)
    case.measured(measures=["output", Drawn(case)], progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    for title in ("images", "output", "test:drawn"):
        assert f"{title}: 100%" in told.err or f"{title}: {case.count}image" in told.err
    case.measured(measures="output")
    assert capsys.readouterr().err == ""
