"""Terms: each loss is its formula, and arrives in the objective with its weight."""

import random

import oracle
import pytest
import torch
from conftest import Plain, SmallNet
from torch import nn
from torch.nn import functional as F

from dai_plugin import DataAugmentationInvariance, Settings, Term, attach, check
from dai_plugin.losses.consistency import cosine_distance, jensen_shannon, vicreg
from dai_plugin.losses.terms import NAMES

FUNCTIONS = {
    "jsd": (jensen_shannon, oracle.jensen_shannon),
    "cosine": (cosine_distance, oracle.cosine_distance),
    "vicreg": (vicreg, oracle.vicreg),
}
OPTIONS = {"mean": 0.0, "std": 1.0, "seed": 3}
TWO = ["features.2", "classifier"]


def random_views(seed, dense=True):
    """`[M, B, ...]` with more or fewer features than images."""
    choose = random.Random(seed)
    views, images = choose.randint(2, 5), choose.randint(2, 6)
    shape = choose.choice([(3,), (9,), (2, 3, 2), (4, 1, 3)] if dense else [(3,), (9,)])
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(1, images, *shape, generator=generator)
    noise = torch.randn(views, images, *shape, generator=generator)
    return base + choose.choice([1e-3, 0.5, 3.0]) * noise


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(8))
def test_a_term_is_its_formula(name, seed):
    """Of float32 views, with the gradient, in any autocast."""
    fast, literal = FUNCTIONS[name]
    views = random_views(seed).requires_grad_()
    exact = views.detach().double().requires_grad_()
    with torch.autocast("cpu", enabled=bool(seed % 2)):
        found = fast(views)
    expected = literal(exact)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=3e-7)
    (got,) = torch.autograd.grad(found, views)
    (wanted,) = torch.autograd.grad(expected, exact)
    scale = wanted.abs().max().item()
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_terms(name):
    """By finite differences."""
    views = random_views(5).double().requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name][0], views)


@pytest.mark.parametrize("name", ["jsd", "cosine"])
def test_equal_views_cost_nothing(name):
    """A loss of zero, and no gradient that would move them apart."""
    views = random_views(2)[:1].repeat(3, *[1] * (random_views(2).dim() - 1))
    views.requires_grad_()
    loss = FUNCTIONS[name][0](views)
    loss.backward()
    assert loss.abs() < 1e-6
    assert views.grad.abs().max() < 1e-6


def test_predictions_of_one_logit_are_those_of_a_sigmoid():
    """A binary classifier's single logit, with or without its dimension."""
    logits = random_views(3, dense=False)[:, :, :1]
    two = torch.cat([logits, torch.zeros_like(logits)], 2)
    expected = oracle.jensen_shannon(two)
    torch.testing.assert_close(jensen_shannon(logits).double(), expected)
    torch.testing.assert_close(jensen_shannon(logits[:, :, 0]).double(), expected)


def test_the_divergence_of_opposite_predictions_is_the_largest():
    """Certain and different: the logarithm of the number of views; -inf is allowed."""
    logits = torch.full((3, 2, 3), -torch.inf)
    for view in range(3):
        logits[view, :, view] = 0
    logits.requires_grad_()
    loss = jensen_shannon(logits)
    torch.testing.assert_close(loss, torch.tensor(3.0).log())
    loss.backward()
    assert logits.grad.isfinite().all()


def test_vicreg_takes_the_smaller_matrix():
    """Features beside images in either proportion: no large matrix."""
    for shape in ((2, 40, 3), (2, 3, 40)):
        views = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(vicreg(views).double(), oracle.vicreg(views))
    assert vicreg(
        torch.randn(2, 4, 10**6)
    ).isfinite()  # a square of 10^12 would not fit


def own(activations, targets):
    """A term as users write it."""
    assert targets is None or len(targets) == activations.shape[1]
    away = activations - activations.mean(0)
    return away.square().mean()


def literal_term(name, activation, labels, views):
    images = len(activation) // views
    if name == "ratio":
        return oracle.invariance_loss(activation, views)
    if name == "class":
        return oracle.class_invariance_loss(activation, labels.repeat(views))
    stacked = activation.unflatten(0, (views, images))
    return own(stacked, labels) if name == "own" else FUNCTIONS[name][1](stacked)


@pytest.mark.parametrize("name", [*NAMES, "own"])
@pytest.mark.parametrize("where", ["features", "penultimate", "output"])
@pytest.mark.parametrize("form", ["attach", "explicit", "compiled"])
def test_every_term_arrives_in_the_gradient(name, where, form, batch):
    """At a layer and at the output, in both forms: the literal objective's gradient."""
    (images, labels), net, views = batch, Plain().double(), 3
    images = images[:, :, :4, :4].double()
    term = Term(own if name == "own" else name, 0.7, layers=where)
    criterion = nn.CrossEntropyLoss()
    if form == "explicit":
        dai = DataAugmentationInvariance(net, num_views=views, term=term, **OPTIONS)
        rows, targets = dai.views(images, labels)
        loss = dai.loss(criterion(net(rows), targets))
    else:
        attach(net, criterion, num_views=views, term=term, **OPTIONS)
        model = torch.compile(net, backend="aot_eager") if form == "compiled" else net
        loss = criterion(model(images), labels)
        targets = labels.repeat(views)
    loss.backward(retain_graph=True)
    got = [p.grad.clone() for p in net.parameters()]
    activation, logits = net.seen
    net.zero_grad()
    places = {
        "features": activation,
        "penultimate": activation.mean((2, 3)),
        "output": logits,
    }
    place = places[where]
    task = F.cross_entropy(logits, targets)
    expected = task + 0.7 * literal_term(name, place, labels, views)
    grads = torch.autograd.grad(expected, list(net.parameters()), retain_graph=True)
    torch.testing.assert_close(loss, expected)
    for grad, wanted in zip(got, grads, strict=True):
        torch.testing.assert_close(grad, wanted)


def test_a_named_term_is_weighed_by_alpha(batch):
    """attach(term="cosine", alpha=.3): .7 of the task loss and .3 of the term."""
    images, labels = batch
    net = Plain()
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), term="cosine", alpha=0.3, layers="features",
        **OPTIONS,
    )  # fmt: skip
    loss = criterion(net(images), labels)
    activation, logits = net.seen
    task = F.cross_entropy(logits, labels.repeat(2)).double()
    expected = 0.7 * task + 0.3 * oracle.cosine_distance(
        activation.unflatten(0, (2, 4))
    )
    torch.testing.assert_close(loss.double(), expected)


def test_several_terms_at_several_layers(net, batch):
    """Each with its weight and its law; stats show every one of them."""
    images, labels = batch
    attachment = attach(
        net, nn.CrossEntropyLoss(),
        term=[
            Term("ratio", 0.2),
            Term("jsd", 5.0),
            Term("ratio", 0.3, layers=TWO, layer_weights=[3, 1]),
            Term(own, 0.1, layers="penultimate"),
        ],
        **OPTIONS,
    )  # fmt: skip
    loss = attachment.criterion(net(images), labels)
    stats = attachment.stats()
    terms = stats["terms"]
    assert list(terms) == ["ratio", "jsd", "ratio 2", "own"]
    assert stats["layers"] == terms["ratio"]
    assert list(terms["own"]) == ["input of classifier"]
    assert list(terms["jsd"]) == ["output of the network"]
    first, last = terms["ratio"].values()
    expected = (
        stats["task_loss"]
        + 0.2 * (first + 10 * last) / 11
        + 5 * terms["jsd"]["output of the network"]
        + 0.3
        * (
            0.75 * terms["ratio 2"]["features.2"]
            + 0.25 * terms["ratio 2"]["classifier"]
        )
        + 0.1 * terms["own"]["input of classifier"]
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert attachment.layers == [
        "features.2", "features.4", "input of classifier", "classifier",
        "output of the network",
    ]  # fmt: skip
    loss.backward()


def test_layers_by_a_word(net, batch):
    """The last activation, the pooled features, the predictions: what they are."""
    images, labels = batch
    seen = {}
    net.features[4].register_forward_hook(lambda *a: seen.update(last=a[2].clone()))
    net.classifier.register_forward_hook(
        lambda _, a, out: seen.update(penultimate=a[0], output=out)
    )
    for word in ("last", "penultimate", "output"):
        with attach(net, nn.CrossEntropyLoss(), layers=word, **OPTIONS) as attachment:
            attachment.criterion(net(images), labels).backward()
            (found,) = attachment.stats()["layers"].values()
        expected = oracle.invariance_loss(seen[word], 2).item()
        assert found == pytest.approx(expected, rel=1e-4), word


def test_a_module_of_that_name_goes_before_the_word(batch):
    """A network whose head is called `output`."""
    net = SmallNet()
    net.output, net.classifier = net.classifier, nn.Identity()
    net.forward = lambda x: net.output(net.features(x).flatten(1))
    with attach(net, nn.CrossEntropyLoss(), layers="output", **OPTIONS) as attachment:
        assert attachment.layers == ["output"]


def test_terms_of_the_whole_batch_under_checkpointing(batch):
    """What is recomputed in the backward saves what it saved: gradients as without."""
    images, labels = batch

    def gradients(checkpointed):
        torch.manual_seed(0)
        net = SmallNet().double()
        net.features[2].inplace = net.features[4].inplace = False
        if checkpointed:
            whole = net.features.forward
            net.features.forward = lambda x: torch.utils.checkpoint.checkpoint(
                whole, x, use_reentrant=False
            )
        _, criterion = attach(
            net, nn.CrossEntropyLoss(),
            term=[Term("ratio", 0.5, layers="features.2"),
                  Term("cosine", 0.5, layers=["features.2", "features.4"]),
                  Term("vicreg", 0.1, layers="penultimate")],
            **OPTIONS,
        )  # fmt: skip
        criterion(net(images.double()), labels).backward()
        return [p.grad for p in net.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)


def test_settings_with_terms_in_json():
    """Names, weights, layers and options come back; a callable cannot be held."""
    settings = Settings(
        term=[Term("vicreg", 0.5, layers="last", gamma=2.0), Term("ratio", 0.1)]
    )
    again = Settings.from_json(settings.to_json())
    assert again.terms == settings.terms
    with pytest.raises(TypeError, match="no plain value"):
        Settings(term=Term(own)).to_json()


def test_check_knows_the_terms(net, batch, capsys):
    """The dry run compares with the literal terms, and shows their layers."""
    term = [Term("ratio", 0.2), Term("jsd", 5.0), Term("cosine", 1.0, layers="last"),
            Term("vicreg", 0.1, layers="penultimate"), Term("class", 0.1)]  # fmt: skip
    found = check(net, nn.CrossEntropyLoss(), batch, term=term, **OPTIONS)
    assert found.ok, found
    assert found.gradient_error is not None
    assert found.layers["output of the network"] == 5.0


def wrong_shape(activations, targets):
    return activations.mean((0, 2, 3))


def wrong_type(activations, targets):
    return activations.mean().item()


def detached(activations, targets):
    return activations.detach().mean()


def not_a_number(activations, targets):
    return (activations.sum() * 0 - 1).sqrt()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"term": "ration"}, ValueError, "take one of ratio, class, jsd"),
        ({"term": 3}, TypeError, "got 3"),
        ({"term": []}, ValueError, "empty list"),
        ({"term": ["ratio"]}, TypeError, "a list of Terms"),
        ({"term": Term("jsd"), "alpha": 0.3}, ValueError, "got alpha=0.3 beside"),
        ({"term": Term("jsd"), "beta": 0.3}, ValueError, "beside Terms"),
        ({"term": Term("jsd"), "layers": ["features.2"]}, ValueError,
         r"got layers=\['features.2'\] beside Terms"),
        ({"term": [Term("jsd")], "layer_weights": "uniform", "last_to_first": 2.0},
         ValueError, "got layer_weights=uniform, last_to_first=2.0 beside Terms"),
        ({"term": "vicreg", "sync": True}, ValueError, "vicreg"),
        ({"term": own, "sync": True}, ValueError, "own"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(net, settings, kind, message):
    """Said at once, with what there is."""
    with pytest.raises(kind, match=message):
        attach(net, nn.CrossEntropyLoss(), **settings)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        (("jsd", "12"), {}, TypeError, "must be a number, got '12' for 'jsd'"),
        (("jsd", -1.0), {}, ValueError, "number from 0 up, got -1.0"),
        (
            ("vicreg", 1.0),
            {"sigma": 2},
            TypeError,
            "no keyword sigma; it has invariance",
        ),
        (("ratio", 1.0), {"gamma": 2}, TypeError, "no keyword gamma; it has none"),
    ],
)
def test_terms_that_cannot_be(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        Term(*arguments, **options)


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (wrong_shape, TypeError, r"'wrong_shape' at the layer 'features.2' returned a "
         r"Tensor of shape \[4, 12\]"),
        (wrong_type, TypeError, "returned a float; it must return a scalar tensor"),
        (detached, RuntimeError, "without a gradient"),
        (not_a_number, RuntimeError, "nan for finite activations"),
    ],
)  # fmt: skip
def test_terms_that_train_nothing_are_named(net, batch, function, kind, message):
    """A term of one's own that returns no scalar, no gradient or NaN."""
    images, labels = batch
    _, criterion = attach(
        net, nn.CrossEntropyLoss(), term=function, layers=["features.2"], **OPTIONS
    )
    with pytest.raises(kind, match=message):
        criterion(net(images), labels)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["cosine", "class", "own"])
def test_compiled_kept_activations_are_those_of_the_layer(batch, name, backend):
    """Although the next module writes into their memory."""
    images, labels = batch
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(400, 5),
    )  # fmt: skip
    seen = []
    net[1].register_forward_hook(lambda *a: seen.append(a[2].clone()))
    criterion = nn.CrossEntropyLoss()
    term = Term(own if name == "own" else name, 1.0, layers=["1"])
    attachment = attach(net, criterion, term=term, **OPTIONS)
    criterion(torch.compile(net, backend=backend)(images), labels)
    (found,) = attachment.stats()["layers"].values()
    expected = literal_term(name, seen[0].detach(), labels, 2)
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=3e-7)


class Returning(nn.Module):
    """A network that returns its features and predictions in some form."""

    def __init__(self, form):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head, self.form, self.logits = nn.Linear(4, 5), form, None

    def forward(self, x, labels=None):
        features = self.features(x).mean((2, 3))
        logits = 40 * self.head(features)
        if torch.is_grad_enabled():
            self.logits = logits
        loss = None if labels is None else F.cross_entropy(
            logits, labels, reduction="none" if "rows" in self.form else "mean"
        )  # fmt: skip
        return {
            "rows": {"loss": loss, "logits": logits},
            "rows and scores": {"loss": loss, "scores": logits},
            "names": {"loss": loss, "features": features, "logits": logits},
            "classes": {"preds": logits.argmax(1), "loss": loss, "out": logits},
            "pair": (logits, features),
            "unnamed": {"loss": loss, "a": features, "b": logits},
            "classes alone": {"loss": loss, "preds": logits.argmax(1)},
        }[self.form]


@pytest.mark.parametrize("form", ["rows", "rows and scores", "names", "classes"])
def test_predictions_of_a_network_with_its_own_loss(batch, form):
    """Neither the loss of each row, nor features, nor classes stand for them."""
    images, labels = batch
    net = Returning(form)
    attachment = attach(net, term=Term("jsd", 1.0), **OPTIONS)
    net(images, labels=labels)["loss"].mean().backward()
    (found,) = attachment.stats()["layers"].values()
    expected = oracle.jensen_shannon(net.logits.detach().unflatten(0, (2, 4)))
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=3e-7)


@pytest.mark.parametrize("form", ["names", "classes", "pair"])
@pytest.mark.parametrize("explicit", [False, True])
def test_predictions_for_a_criterion(batch, form, explicit):
    """By name, or the first of a pair, which the criterion gets."""
    images, labels = batch
    net = Returning(form)

    def criterion(output, target):
        if isinstance(output, tuple):
            return F.cross_entropy(output[0], target)
        logits = output.get("logits", output.get("out"))
        return F.cross_entropy(logits, target) + 0 * logits.sum()

    if explicit and form == "pair":
        dai = DataAugmentationInvariance(net, term="jsd", **OPTIONS)
        rows, targets = dai.views(images, labels)
        with pytest.raises(RuntimeError, match="several may be"):
            dai.loss(criterion(net(rows), targets))
        return
    if explicit:
        dai = DataAugmentationInvariance(net, term="jsd", **OPTIONS)
        rows, targets = dai.views(images, labels)
        dai.loss(criterion(net(rows), targets)).backward()
    else:
        dai = attach(net, criterion, term="jsd", **OPTIONS)
        dai.criterion(net(images), labels).backward()
    (found,) = dai.stats()["layers"].values()
    expected = oracle.jensen_shannon(net.logits.detach().unflatten(0, (2, 4)))
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=3e-7)


@pytest.mark.parametrize(
    ("form", "message"),
    [("unnamed", "several may be; return them under the name"),
     ("classes alone", "none of floating point has as many")],
)  # fmt: skip
def test_predictions_that_nothing_tells(batch, form, message):
    """Refused, with what was returned."""
    images, labels = batch
    net = Returning(form)
    attach(net, term=Term("jsd", 1.0), **OPTIONS)
    with pytest.raises(RuntimeError, match=message):
        net(images, labels=labels)


@pytest.mark.parametrize("name", ["ratio", "jsd", "cosine", "class"])
def test_a_criterion_may_change_the_output_in_place(batch, name):
    """A term at the output has measured what the network returned."""
    images, labels = batch

    def criterion(output, target):
        return F.cross_entropy(output.mul_(2), target)

    net = Plain()
    attachment = attach(
        net, criterion, term=Term(name, 1.0, layers="output"), **OPTIONS
    )
    attachment.criterion(net(images), labels).backward()
    activation, _ = net.seen
    logits = net.head(activation.mean((2, 3))).detach()
    (found,) = attachment.stats()["layers"].values()
    expected = literal_term(name, logits, labels, 2)
    assert found == pytest.approx(expected.item(), rel=1e-4, abs=3e-7)
