"""Every keyword: one list of names, checked once, JSON both ways."""

import dataclasses
import inspect
import json
import random
import typing

import pytest
import torch
from torch import nn

from dai_plugin import (
    DataAugmentationInvariance,
    Scheme,
    Settings,
    attach,
    check,
    schedules,
)
from dai_plugin.settings import Keywords

FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
HERE = inspect.Parameter.KEYWORD_ONLY


def test_the_keywords_are_the_fields():
    """Editors and type checkers see the same names and types."""
    assert typing.get_type_hints(Keywords) == typing.get_type_hints(Settings)


@pytest.mark.parametrize("function", [attach, check, DataAugmentationInvariance])
def test_signatures_show_every_keyword(function):
    """With its default; the explicit form's first view is another."""
    shown = inspect.signature(function).parameters
    assert [n for n, p in shown.items() if p.kind is HERE] == list(FIELDS)
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    for name, field in FIELDS.items():
        explicit = name == "first_view" and function is DataAugmentationInvariance
        assert shown[name].default == ("augmented" if explicit else field.default)


def test_every_field_is_described():
    """In the one docstring of them."""
    described = inspect.getdoc(Settings)
    assert all(f"\n    {name}: " in described or name == "std" for name in FIELDS)
    assert "std: " in described


def random_settings(rng):
    """Plain values of every kind that a keyword takes."""
    alpha = round(rng.random(), 3)
    triple = [round(rng.random(), 3) for _ in range(3)]
    given = {
        "num_views": rng.randint(1, 16),
        "every": rng.randint(1, 9),
        "share": rng.choice([1.0, 0.25, 1 - rng.random()]),
        "alpha": alpha,
        "beta": round(rng.random() * (1 - alpha), 3),
        "layers": rng.choice(["auto", "features.*", ["a", "b.c"]]),
        "layer_weights": rng.choice(
            ["exponential", "linear", "uniform", [1, 2.5], {"a": 0.5, "b.c": 1}]
        ),
        "last_to_first": rng.choice([1.0, 10.0, 0.5]),
        "scheme": rng.choice(
            ["light", "photometric", Scheme.halved(), Scheme(rotation=0.25)]
        ),
        "mean": rng.choice([0.5, triple]),
        "std": rng.choice([0.5, [0.2, 0.3, 0.4]]),
        "correction": rng.choice([0, 1]),
        "alpha_schedule": rng.choice(
            [
                schedules.linear_warmup(rng.randint(1, 99)),
                schedules.cosine(rng.randint(1, 99)),
                schedules.milestones((rng.randint(1, 9), 20), 0.5),
            ]
        ),
        "when": rng.choice(["training", "grad"]),
        "seed": rng.randint(0, 2**40),
        "strict": rng.random() < 0.5,
        "loss": rng.choice(["loss", "total", 0, 2]),
        "targets": rng.choice(["mask", "heatmap", "boxes", "keypoints"]),
        "ignore_index": rng.choice([255, 0, -100]),
    }
    given = {name: value for name, value in given.items() if rng.random() < 0.6}
    first = ["clean", "augmented"] if given.get("every", 1) == 1 else ["clean"]
    return {**given, "first_view": rng.choice(first)}


@pytest.mark.parametrize("seed", range(40))
def test_json_brings_every_setting_back(seed):
    """Through text, tuples as lists; what is left out keeps its default."""
    given = random_settings(random.Random(seed))
    settings = Settings(**given)
    text = json.dumps(settings.to_json(), allow_nan=False)
    restored = Settings.from_json(json.loads(text))
    assert json.dumps(restored.to_json()) == text
    for name in FIELDS:
        expected = given.get(name, FIELDS[name].default)
        found = getattr(restored, name)
        if name == "alpha_schedule" and found is not None:
            steps = range(0, 200, 7)
            assert [found(s) for s in steps] == [expected(s) for s in steps]
        else:
            assert found == expected


def test_tensors_and_arrays_become_numbers():
    """A mean that the loop holds as a tensor."""
    mean, std = torch.tensor([0.25, 0.5, 0.75]), torch.ones(3).numpy()
    plain = Settings(mean=mean, std=std).to_json()
    assert (plain["mean"], plain["std"]) == ([0.25, 0.5, 0.75], [1.0, 1.0, 1.0])
    json.dumps(plain)


CALLABLES = {
    "layers": [lambda name, module: True, nn.ReLU, (nn.ReLU, nn.GELU)],
    "scheme": [lambda images: images, nn.Identity()],
    "alpha_schedule": [lambda step: 1.0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in CALLABLES.items() for v in values]
)
def test_callables_are_refused_by_name(name, value):
    """They are good settings, but no text."""
    settings = Settings(**{name: value})
    with pytest.raises(TypeError, match=f"^{name}=.*is no plain value"):
        settings.to_json()


WRONG = {
    "views": ({"num_views": 2.0}, TypeError, "num_views must be an int, got 2.0"),
    "bool views": ({"num_views": True}, TypeError, "num_views must be an int"),
    "no views": ({"num_views": 0}, ValueError, "at least 1, got 0"),
    "alpha": ({"alpha": 1.1}, ValueError, "alpha=1.1"),
    "negative": ({"beta": -0.1}, ValueError, "beta=-0.1"),
    "nan": ({"alpha": float("nan")}, ValueError, "alpha=nan"),
    "sum": ({"alpha": 0.6, "beta": 0.6}, ValueError, "so must their sum"),
    "correction": ({"correction": 2}, ValueError, "0 or 1, got 2"),
    "first view": ({"first_view": "plain"}, ValueError, "'clean' or 'augmented'"),
    "when": ({"when": "always"}, ValueError, "'training' or 'grad', got 'always'"),
    "sync": (
        {"sync": True, "beta": 0.1},
        ValueError,
        "leave it out .beta=0. or set sync=False",
    ),
    "loss": ({"loss": 1.0}, TypeError, "loss must be the attribute"),
    "bool loss": ({"loss": True}, TypeError, "loss must be the attribute"),
    "scheme": ({"scheme": "heavy"}, ValueError, "heavy"),
    "given now and then": (
        {"scheme": "given", "every": 2},
        ValueError,
        "every step; got every=2, share=1.0",
    ),
    "augmented now and then": (
        {"every": 2, "first_view": "augmented"},
        ValueError,
        'every=2 leaves.*set first_view="clean"',
    ),
    "given in part": ({"scheme": "given", "share": 0.5}, ValueError, "share=0.5"),
    "misspelt": ({"alfa": 0.1}, TypeError, "alfa"),
}


@pytest.mark.parametrize("form", [Settings, "attach", "explicit"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_settings_are_refused_alike_in_every_form(net, kind, form):
    """Before a hook is set; the message names what was received."""
    given, error, message = WRONG[kind]
    make = {
        Settings: lambda: Settings(**given),
        "attach": lambda: attach(net, nn.CrossEntropyLoss(), **given),
        "explicit": lambda: DataAugmentationInvariance(net, **given),
    }[form]
    with pytest.raises(error, match=message):
        make()
    assert not any(m._forward_hooks for m in net.modules())


def test_settings_do_not_change():
    """Frozen: a run has the settings that it began with."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().alpha = 0.5
