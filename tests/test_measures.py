"""Every measure agrees with its formula written out, and depends on nothing else."""

import random
import weakref

import oracle
import oracle_measures as literal
import pytest
import torch
from torch import nn

import dai_plugin
from dai_plugin import Attacks, Scheme, measure
from dai_plugin.measures.data import Batch
from dai_plugin.measures.units import Thinned, choose
from dai_plugin.measures.versions import Transformations
from dai_plugin.views.normalization import Normalization

PIXELS = {"mean": 0.0, "std": 1.0}
ALL = 10**6  # units


class Case:
    """A random network on random images, and what it does with their versions."""

    def __init__(self, seed, scheme=None):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.channels, self.classes = draw.choice([1, 3]), draw.randint(2, 6)
        self.sides = draw.randint(6, 9), draw.randint(6, 9)
        self.count, self.batch = draw.randint(5, 20), draw.randint(1, 9)
        self.transforms = draw.randint(1, 4)
        blocks, width = [], self.channels
        for _ in range(draw.randint(1, 3)):
            wider, act = draw.randint(2, 5), draw.choice([nn.ReLU, nn.Tanh, nn.GELU])
            stride = draw.choice([1, 1, 2])
            conv = nn.Conv2d(width, wider, 3, stride, padding=1)
            blocks += [conv, act(inplace=True) if act is nn.ReLU else act()]
            width = wider
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, self.classes)]
        self.net = nn.Sequential(*blocks, *head).eval()
        nn.init.normal_(self.net[-1].weight, std=4.0)  # predictions that differ
        self.depth = len(blocks)
        self.images = torch.rand(self.count, self.channels, *self.sides)
        self.labels = torch.randint(self.classes, (self.count,))
        self.scheme = scheme or draw.choice([Scheme.halved(), Scheme.heavier()])

    def measured(self, batch=None, **options):
        pairs = zip(
            self.images.split(batch or self.batch),
            self.labels.split(batch or self.batch),
            strict=True,
        )
        given = {"scheme": self.scheme, "num_transforms": self.transforms, **PIXELS}
        found = measure(self.net, list(pairs), **{"units": ALL, **given, **options})
        return found.tables

    def versions(self):
        """Images and their versions `[1 + T, N, ...]`, and the parameters of each."""
        source = Transformations(self.scheme, self.transforms, 0)
        batch = Batch(0, self.images, self.images, None)
        found = list(source.versions(batch, Normalization.given(0.0, 1.0)))
        shown = torch.stack([self.images, *(version.images for version in found)])
        return shown, [version.drawn for version in found]

    @torch.no_grad()
    def activations(self):
        """By layer, the pixels first; then what enters the classifier, then logits."""
        shown, _ = self.versions()
        found, x = {"input": shown}, shown.flatten(0, 1)
        for i, module in enumerate(self.net):
            x = module(x.clone())
            found[str(i)] = x.unflatten(0, shown.shape[:2])
        return found


def close(got, expected, tolerance=2e-5):
    expected = torch.as_tensor(expected).double()
    torch.testing.assert_close(
        got.double(), expected, atol=tolerance, rtol=tolerance, equal_nan=True
    )


@pytest.mark.parametrize("seed", range(8))
def test_layers_agree_with_the_formulas(seed):
    """Random networks, sizes, batches and schemes; pairs and units one by one."""
    case = Case(seed)
    tables = case.measured(measures="layers")["layers"]
    _, drawn = case.versions()
    shown = case.activations()
    assert next(iter(tables["score"])) == "input"
    for name in tables["score"]:
        versions = shown[name]
        clean = versions[0]
        for k, version in enumerate(versions[1:]):
            expected = oracle.invariance_scores(clean, version)
            close(tables["score"][name][:, k], expected)
            moved = literal.follow(clean, drawn[k], *case.sides)
            expected = literal.equivariance(clean, moved, version)
            close(tables["equivariance"][name][:, k], expected, 1e-4)
        close(tables["cosine"][name], literal.cosines(versions))
        expected = literal.class_scores(clean, case.labels)
        close(tables["class_score"][name], expected)
        expected = literal.normalized_variance(versions)
        close(tables["normalized_variance"][name], expected, 1e-4)
        close(tables["firing"][name], literal.firing(versions))
        share, rank = literal.spectrum(clean)
        close(tables["first_component"][name], share)
        close(tables["effective_rank"][name], rank, 1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_output_agrees_with_the_formulas(seed):
    """Accuracy, consistency, invariance, calibration, retrieval; one by one."""
    case = Case(seed)
    found = {name: table["output"] for name, table in case.measured()["output"].items()}
    shown = case.activations()
    logits = shown[str(len(case.net) - 1)].double()
    chances = logits.softmax(-1)
    predicted = chances.argmax(-1)
    right = predicted == case.labels
    assert torch.equal(found["prediction"], predicted[0])
    assert torch.equal(found["predictions"], predicted[1:].T)
    assert torch.equal(found["accuracy"], right[0])
    assert torch.equal(found["accuracy_transformed"], right[1:].T)
    assert torch.equal(found["accuracy_worst"], right[1:].all(0))
    of_mean = chances[1:].mean(0).argmax(1) == case.labels
    assert torch.equal(found["accuracy_of_mean"], of_mean)
    same = (predicted[1:] == predicted[0]).T
    assert torch.equal(found["consistency"], same)
    assert torch.equal(found["consistency_all"], same.all(1))
    for k, version in enumerate(chances[1:]):
        expected = literal.effective_invariance(chances[0], version)
        close(found["effective_invariance"][:, k], expected)
        features = shown[str(len(case.net) - 2)]
        expected = literal.retrieval(features[0], features[k + 1])
        assert torch.equal(found["retrieval"][:, k], expected)
    top = chances.amax(-1)
    error = literal.calibration_error(top[0], right[0])
    close(found["calibration_error"], error)
    sure, hits = top[1:].T.flatten(), right[1:].T.flatten()
    error = literal.calibration_error(sure, hits)
    close(found["calibration_error_transformed"], error)


@pytest.mark.parametrize("seed", [3, 4])
def test_batches_change_nothing(seed):
    """One image at a time, or all at once."""
    case = Case(seed)
    one, other = case.measured(batch=1), case.measured(batch=case.count)
    for group, tables in one.items():
        for name, places in tables.items():
            for place, table in places.items():
                close(table, other[group][name][place], 1e-4)


def test_a_sample_of_the_units_is_exact_for_them():
    """More features than `units`: the same formulas, of those that were drawn."""
    case = Case(1)
    tables = case.measured(measures="layers", units=7)["layers"]
    for name, versions in case.activations().items():
        if name not in tables["score"]:
            continue
        chosen = choose(versions[0, 0].numel(), 7, seed=0)
        some = versions.flatten(2)[:, :, chosen]
        assert len(chosen.unique()) == 7
        close(tables["firing"][name], literal.firing(some))
        close(tables["effective_rank"][name], literal.spectrum(some[0])[1], 1e-4)
        expected = literal.class_scores(some[0], case.labels)
        close(tables["class_score"][name], expected)


def test_only_what_is_asked_for(net):
    """One group, and no labels: what needs none is there."""
    images = torch.rand(6, 3, 12, 12)
    output = measure(net, images, measures="output", **PIXELS).tables
    assert list(output) == ["output"]
    assert not [name for name in output["output"] if name.startswith(("acc", "cal"))]
    assert "consistency" in output["output"]
    layers = measure(net, images, measures=["layers"], **PIXELS).tables
    assert list(layers) == ["layers"]
    assert "class_score" not in layers["layers"]


def test_scores_are_those_of_invariance_scores(net):
    """To the bit."""
    images = torch.rand(9, 3, 12, 12)
    scores = dai_plugin.invariance_scores(net, images, **PIXELS)
    found = measure(net, images, **PIXELS).scores
    assert list(found) == list(scores)
    assert all(torch.equal(found[name], table) for name, table in scores.items())


def test_an_equivariant_network_is_found_to_be_one():
    """Mirrored images: pointwise convolutions follow, positions of their own do not."""
    pointwise = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    flips = Scheme.light(flip=1.0, translation=0.0)
    images = torch.rand(6, 3, 8, 10)
    options = {"scheme": flips, "measures": "layers", "layers": ["1"], **PIXELS}
    found = measure(pointwise, images, **options).tables["layers"]
    assert found["equivariance"]["1"].min() > 0.9999
    assert found["score"]["1"].mean() < 0.5


def test_equivariance_is_taken_where_there_are_maps_that_can_be_moved():
    """Vectors, maps with their channels last and other schemes have none."""

    class ChannelsLast(nn.Module):
        def forward(self, x):
            return x.movedim(1, 3)

    net = nn.Sequential(
        nn.Conv2d(3, 30, 3, 2), nn.ReLU(), ChannelsLast(), nn.Flatten(), nn.ReLU()
    )
    images = torch.rand(4, 3, 12, 12)
    options = {"measures": "layers", "layers": ["1", "2", "3"], **PIXELS}
    found = measure(net, images, **options).tables["layers"]
    assert list(found["equivariance"]) == ["input", "1"]
    other = measure(net, images, scheme=lambda x: x.flip(3), **options).tables
    assert "equivariance" not in other["layers"]


def test_maps_of_some_images_are_moved_where_there_are_many(monkeypatch):
    """Blocks in the order of the data, whatever the batches; the rest is NaN."""
    from dai_plugin.measures import layer_measures

    case = Case(2)
    whole = case.measured(measures="layers")["layers"]["equivariance"]
    monkeypatch.setattr(layer_measures, "MAPS", case.count // 3)
    monkeypatch.setattr(layer_measures, "_BLOCK", 2)
    for batch in (1, 4, case.count):
        some = case.measured(batch, measures="layers")["layers"]["equivariance"]
        step = -(-case.count // (case.count // 3))
        for name, table in some.items():
            taken = torch.arange(case.count) // 2 % step == 0
            assert torch.equal(table.isnan().any(1), ~taken)
            close(table[taken], whole[name][taken], 1e-4)


def test_a_collapsed_layer_is_seen():
    """One direction for all images: the first component has everything, rank 1."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 1), nn.Linear(1, 9))
    images = torch.rand(12, 3, 4, 4)
    options = {"measures": "layers", "layers": ["2"], **PIXELS}
    found = measure(net, images, **options).tables["layers"]
    close(found["first_component"]["2"], 1.0)
    close(found["effective_rank"]["2"], 1.0, 1e-3)
    nn.init.zeros_(net[2].weight)
    dead = measure(net, images, **options).tables["layers"]
    nn.init.constant_(net[2].weight, torch.nan)
    lost = measure(net, images, **options).tables["layers"]
    for name in ("score", "first_component", "normalized_variance", "firing"):
        assert dead[name]["2"].isnan().all()
        assert lost[name]["2"].isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_activations_that_differ_by_rounding_alone_are_the_same(seed):
    """Batches of several sizes round differently; that is no spread of images."""
    case = Case(seed)
    case.images = case.images[:1].repeat(case.count, 1, 1, 1)
    case.labels = torch.zeros_like(case.labels)
    pairs = [(case.images[:1], case.labels[:1]), (case.images[1:], case.labels[1:])]
    found = measure(case.net, pairs, measures="layers", scheme="halved", **PIXELS)
    for name in set(found.tables["layers"]) - {"cosine", "normalized_variance"}:
        for layer, table in found.tables["layers"][name].items():
            assert table.isnan().all(), (name, layer)


class Restive(nn.Module):
    """A network whose forward writes to its buffers, and exchanges one."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(400, 5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("none", None)

    def forward(self, x):
        self.features[1].train()  # whatever mode the network is in
        self.count = self.count + 1
        return self.head(self.features(x))


@pytest.mark.parametrize("measures", ["layers", Attacks(("fgsm",)), "similarity"])
def test_buffers_are_put_back(measures):
    """Also where the forward writes to them in evaluation mode."""
    net, images = Restive(), torch.rand(6, 3, 12, 12)
    net(images).sum().backward()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    held = [id(buffer) for buffer in net.buffers()]
    found = [measure(net, images, measures=measures, **PIXELS) for _ in range(2)]
    assert [id(buffer) for buffer in net.buffers()] == held
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert found[0].about["weights"] == found[1].about["weights"]
    assert net.features[1].training


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_network_is_not_compiled_anew(net, in_place):
    """What was compiled stays in use afterwards, and the numbers are the same."""
    graphs, images = [], torch.rand(6, 3, 12, 12)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    options = {"measures": ["layers", Attacks(("fgsm",))], **PIXELS}
    expected = measure(net.eval(), images, **options).scores
    if in_place:
        net.compile(backend=backend)
    compiled = net if in_place else torch.compile(net, backend=backend)
    with torch.no_grad():
        compiled(images)
        before = len(graphs)
        found = measure(compiled, images, **options).scores
        compiled(images)
    assert before
    assert len(graphs) == before
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("form", ["logits", "probabilities", "logarithms"])
def test_the_output_may_be_probabilities(form):
    """The same measures, whatever the network ends with."""
    case = Case(5)
    expected = case.measured(measures="output")["output"]
    if form != "logits":
        last = nn.Softmax(1) if form == "probabilities" else nn.LogSoftmax(1)
        case.net.append(last)
    found = case.measured(measures="output")["output"]
    for name, places in expected.items():
        close(found[name]["output"], places["output"])


def test_calibration_agrees_with_torchmetrics():
    """Random confidences, those at the ends of bins, too."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    from dai_plugin.measures.output_measures import calibration_error

    torch.manual_seed(0)
    chances = (3 * torch.randn(500, 7)).softmax(1)
    labels = torch.randint(7, (500,))
    top = chances.max(1)
    expected = multiclass_calibration_error(chances, labels, 7, n_bins=15)
    close(calibration_error(top.values, top.indices == labels), expected)


def test_the_network_is_left_as_it_was(net):
    """Mode, hooks and weights."""
    before = {key: value.clone() for key, value in net.state_dict().items()}
    measure(net, torch.rand(5, 3, 12, 12), **PIXELS)
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_cannot_be_measured_is_said(net):
    """What was received, and what to do."""
    images, labels = torch.rand(6, 3, 12, 12), torch.arange(6) % 5
    cases = [
        (images[:1], {}, "data holds one image"),
        (images[:0], {}, "data holds no images"),
        (images, {"measures": ["layers", "speed"]}, r"got \['speed'\]"),
        (images, {"measures": []}, r"some of layers, output, strength, .*; got \[\]"),
        (images, {"num_transforms": 0}, "at least 1, got 0"),
        (images, {"units": 0}, "units must be at least 1, got 0"),
        (images, {"scheme": "given"}, "views of a training batch"),
        ([(images, labels), images], {}, "1 of 2 batches hold labels"),
    ]
    for data, options, message in cases:
        with pytest.raises(ValueError, match=message):
            measure(net, data, **PIXELS, **options)
    maps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with pytest.raises(
        ValueError, match=r"returns \[6, 2, 10, 10\]; ask for \"layers\""
    ):
        measure(maps, images, **PIXELS)
    alone = measure(maps, images, measures="similarity", **PIXELS).tables
    assert list(alone) == ["similarity"]
    with pytest.raises(TypeError, match="one-shot"):
        measure(net, iter([images]), **PIXELS)


class Restless:
    """Other images, or other many, each time."""

    def __init__(self, images, change):
        self.images, self.change, self.passes = images, change, 0

    def __iter__(self):
        images = self.change(self.images) if self.passes else self.images
        self.passes += 1
        yield from images.split(4)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.flip(0),
        lambda x: torch.cat([x[:7], x[7:].flip(3)]),
        lambda x: x + 0.01 * torch.rand_like(x),
        lambda x: x.roll(1, 3),
        lambda x: x[:6],
        lambda x: torch.cat([x, x]),
    ],
    ids=["order", "mirrored", "noise", "shifted", "fewer", "more"],
)
def test_data_that_changes_between_the_passes_is_found_out(net, change):
    """An augmenting or shuffling loader would compare images with others."""
    images = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    measure(net, Restless(images, lambda x: x.clone()), **PIXELS)
    with pytest.raises(ValueError, match=r"in a later (pass|one)"):
        measure(net, Restless(images, change), **PIXELS)


def test_names_of_places_are_those_of_the_layers(net):
    """Depth follows the network, pixels first."""
    found = measure(net, torch.rand(7, 3, 12, 12), **PIXELS)
    assert [row["depth"] for row in found.rows()][:3] == [0, 1, 2]
    assert {row["place"] for row in found.rows()} == {
        "input", "features.2", "features.4", "output"
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_rows_are_thinned_evenly(batch):
    """Every 2^k-th of all, whatever the batches are."""
    rows = torch.arange(50.0)[:, None]
    thinned = Thinned(most=8)
    for part in rows.split(batch):
        thinned.update(part)
    assert torch.equal(thinned.rows(), rows[::8])


def test_memory_of_the_layers_does_not_grow_with_the_images(net):
    """What is kept for each image is its numbers."""

    class Long:
        def __init__(self):
            self.alive = []

        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            for _ in range(20):
                images = torch.rand(4, 3, 12, 12, generator=generator)
                self.alive.append(weakref.ref(images))
                yield images

    data = Long()
    measure(net, data, measures="layers", num_transforms=1, **PIXELS)
    assert len(data.alive) == 40
    assert sum(ref() is not None for ref in data.alive) <= 1
