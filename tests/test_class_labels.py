"""Labels of folders on networks with other classes: never a wrong accuracy."""

import random

import pytest
import torch
from commands import NETWORKS, arguments
from PIL import Image

import dai_plugin
from dai_plugin.cli.datasets import Collection
from dai_plugin.cli.images import ImageSet
from dai_plugin.cli.labels import fit_labels
from dai_plugin.cli.main import main


def image_set(classes, labels):
    items = [torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()] * len(labels)
    names = [str(i) for i in range(len(labels))]
    return ImageSet(Collection(items, names, labels, classes), 8, 8, 3)


def labels_of(images):
    return [images[i][1] for i in range(len(images))] if images.classes else None


@pytest.mark.parametrize("seed", range(40))
def test_labels_are_places_in_the_output_or_are_left_out(seed, caplog):
    """By name where all are known, by number where the outputs have none."""
    draw = random.Random(seed)
    outputs = draw.randint(2, 9)
    words = [f"kind_{i} of it" for i in range(outputs)]
    names = draw.sample(words, outputs)
    classes = sorted(draw.sample(words, draw.randint(2, outputs)))
    labels = [draw.randrange(len(classes)) for _ in range(6)]
    images = image_set(classes, labels)
    shown = [name.replace("_", " ").title() for name in names]
    found = labels_of(fit_labels(images, shown, outputs))
    assert [names[label] for label in found] == [classes[label] for label in labels]
    # Names that are unknown or no names of one output alone tell nothing.
    others = draw.choice(
        [None, [f"{name} too" for name in shown], [shown[0]] * outputs]
    )
    found = labels_of(fit_labels(images, others, outputs))
    assert found == (labels if len(classes) == outputs else None)
    assert ("what needs labels is left out" in caplog.text) == (found is None)
    assert labels_of(images) == labels  # those that were given stay
    assert labels_of(fit_labels(images, shown, None)) == labels


@pytest.fixture
def place(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    for i in range(8):
        folder = tmp_path / "pictures" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (24, 24, 3)).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("measures", ["layers", "output", "layers,output", "attacks"])
def test_two_folders_on_five_classes_have_no_accuracy(place, measures, capfd, caplog):
    """It is said, and all else is measured; on two classes there is an accuracy."""
    for classes in (2, 5):
        caplog.clear()
        words = arguments(
            "measure", place / "nets.py", place / "pictures", place / str(classes),
            "--model-args", f"classes={classes}", "--measures", measures,
        )  # fmt: skip
        assert main(words) == 0
        found = dai_plugin.Measures.load(place / str(classes))
        names = {name for tables in found.tables.values() for name in tables}
        told = any(name.startswith("accuracy") for name in names)
        assert told == (classes == 2 and measures != "layers")
        # That of a class needs no outputs: it says which images are alike.
        assert (found.labels is None) == (classes == 5 and measures != "layers")
        text = "the images have 2 classes (cat, dog) and the network tells 5 apart"
        assert (text in caplog.text) == (found.labels is None)
