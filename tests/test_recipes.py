"""The recipes are the paper's: rows a step, schedules, and networks that run."""

import pytest
import torch
from conftest import REFERENCE

import dai_plugin

# Of the paper: rows N in a step, views M, epochs, first learning rate, factor, its
# epochs, and the layers of the network.
PAPER = {
    "allcnn-cifar10": (128, 8, 350, 0.01, 0.1, [300, 325], 8),
    "wrn-cifar10": (128, 8, 200, 0.1, 0.2, [60, 120, 160], 12),
    "densenet-cifar10": (64, 8, 300, 0.1, 0.1, [150, 225], 4),
    "allcnn-tinyimagenet": (128, 8, 150, 0.01, 0.1, [100, 125], 11),
    "wrn-tinyimagenet": (32, 4, 50, 0.01, 0.2, [30, 40], 12),
}
WITHOUT = {"allcnn-cifar10-invariance"}  # of which the paper has no accuracy
COMING = {"lr_milestones", "translation"}  # flags that the script may not have yet


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import recipes

    return recipes


@pytest.mark.parametrize(("name", "paper"), PAPER.items(), ids=PAPER)
def test_numbers_of_the_paper(recipes, name, paper):
    """N = images x views is kept; schedule and optimiser are those of the paper."""
    flags = recipes.recipe(name)
    assert paper[:6] == (
        flags["batch_size"] * flags["num_views"],
        flags["num_views"],
        flags["epochs"],
        flags["lr"],
        flags["lr_gamma"],
        flags["lr_milestones"],
    )
    common = ("sgd-nesterov", 0.9, 0.0, 0.1, "exponential", 10.0, "heavier")
    assert common == tuple(
        flags[name]
        for name in (
            "opt", "momentum", "weight_decay", "alpha", "layer_weights",
            "last_to_first", "scheme",
        )
    )  # fmt: skip
    assert flags["first_view"] == "augmented"
    assert flags.get("translation") == (0.0 if "tiny" in name else None)


@pytest.mark.parametrize("name", PAPER)
def test_the_network_of_a_recipe_runs(recipes, name):
    """Views of two images through a narrow network, with a loss at each layer."""
    import models
    from presets import PRESETS

    flags = recipes.recipe(name)
    preset = PRESETS[flags["dataset"]]
    classes = {"cifar10": 10, "tinyimagenet": 200}[flags["dataset"]]
    torch.manual_seed(0)
    options = models.arguments(flags["model"], classes, 0.05)
    changes = {k: flags[k] for k in ("translation",) if k in flags}
    model, criterion = dai_plugin.attach(
        models.build(flags["model"], **options),
        torch.nn.CrossEntropyLoss(),
        num_views=flags["num_views"],
        alpha=flags["alpha"],
        layers=flags["layers"][0],
        scheme=dai_plugin.Scheme.heavier(**changes),
        first_view=flags["first_view"],
        mean=preset.mean,
        std=preset.std,
    )
    pixels = torch.randint(256, (2, 3, preset.crop, preset.crop), dtype=torch.uint8)
    outputs = model(preset.normalize(pixels))
    criterion(outputs, torch.tensor([0, classes - 1])).backward()
    assert outputs.shape == (2, classes)
    assert len(dai_plugin.attached(model).stats()["layers"]) == PAPER[name][6]


def test_every_recipe_is_in_the_table(recipes):
    """No recipe without the paper's numbers beside it."""
    assert set(recipes.RECIPES) == set(PAPER) | WITHOUT


def test_invariance_alone_is_the_papers_recipe_but_for_alpha(recipes):
    """No weight is left for the task loss; the rest is the paper's."""
    plain, alone = map(recipes.recipe, ("allcnn-cifar10", "allcnn-cifar10-invariance"))
    assert alone.pop("alpha") + alone["beta"] == 1
    assert alone.pop("watch") > 1
    assert plain.pop("alpha") == 0.1
    assert alone == plain


@pytest.mark.parametrize("name", [*PAPER, *WITHOUT])
def test_recipes_set_flags_of_the_script(recipes, name):
    """A misspelt flag would be a default that nobody reads."""
    import train

    known = vars(train.parse([]))
    for flag, value in recipes.recipe(name).items():
        assert flag in known.keys() | COMING
        assert known.get(flag) is None or isinstance(value, type(known[flag]))


def test_a_recipe_is_a_copy(recipes):
    """Changing one run's flags leaves the table as it is."""
    recipes.recipe("wrn-cifar10")["lr_milestones"].append(180)
    assert recipes.recipe("wrn-cifar10")["lr_milestones"] == [60, 120, 160]


def test_no_such_recipe(recipes):
    """The recipes there are stand in the message."""
    with pytest.raises(ValueError, match=r"no recipe 'wrn'; there are allcnn-cifar10,"):
        recipes.recipe("wrn")
