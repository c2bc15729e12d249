"""Fine-tuning: weights by name and from files, new heads, frozen parameters."""

import argparse
import random
import re

import pytest
import torch
import torchvision
from conftest import script
from launches import QUICK, picture_folder, read, weights

FIRST = (*QUICK, "--epochs", 1, "--output-dir")
HEAD = ["classifier.weight", "classifier.bias"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the ten digits."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        script(patch)(*FIRST, folder)
    return folder


@pytest.fixture
def two_classes(tmp_path):
    return "--dataset", "imagefolder", "--data-path", picture_folder(tmp_path / "two")


@pytest.fixture
def start(train, trained):
    """A network with the weights of a file, and what was said of it."""
    import weights as reference
    from flags import parse

    def start(path, num_classes, **options):
        import models

        args = parse(["--model", "allcnn", "--weights", str(path)])
        torch.manual_seed(7)
        model = models.build("allcnn", num_classes=num_classes, width=0.04, **options)
        fresh = {name: value.clone() for name, value in model.state_dict().items()}
        return model, fresh, reference.take(model, reference.read(args), num_classes)

    return start


@pytest.mark.parametrize("name", ["model.pth", "checkpoint.pth"])
@pytest.mark.parametrize("num_classes", [10, 3])
def test_files_of_the_script(start, trained, name, num_classes):
    """Every tensor is taken; with other classes the head, and it alone, is fresh."""
    model, fresh, told = start(trained / name, num_classes)
    saved = torch.load(trained / name, weights_only=True)["model"]
    new = [] if num_classes == 10 else HEAD
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key in new else saved[key]), key
    assert told.startswith(f"weights: {len(saved) - len(new)} of {len(saved)} tensors")
    ends = f"new, for 3 classes instead of 10: {', '.join(HEAD)}"
    assert told.endswith(ends if new else name)


@pytest.mark.parametrize("wrapped", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_files_of_other_loops(start, trained, tmp_path, wrapped, prefix):
    """A state dict alone or under a key, with or without a wrapper's names."""
    state = {f"{prefix}{key}": value for key, value in weights(trained).items()}
    others = {"epoch": 3, "args": argparse.Namespace(lr=0.1)}  # as torchvision's script
    torch.save({wrapped: state, **others} if wrapped else state, tmp_path / "w.pt")
    model, _, _ = start(tmp_path / "w.pt", 10)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[prefix + key])


def without(key):
    return lambda state: state.pop(key)


def with_more(state):
    state["strange"] = torch.zeros(2)


def wider(state):
    state["features.0.weight"] = torch.zeros(9, 3, 3, 3)


def deeper_head(state):
    state["classifier.weight"] = torch.zeros(10, 2, 1, 1)


def with_two_heads(state):
    state["classifier.bias"] = torch.zeros(4)
    state["classifier.weight"] = torch.zeros(5, 8, 1, 1)


DAMAGES = [
    (without("features.0.weight"), r"\(missing: features\.0\.weight\)"),
    (with_more, r"\(unexpected: strange\)"),
    (wider, r"another shape: features\.0\.weight \[9, 3, 3, 3\] for \[4, 3, 3, 3\]\)"),
    (deeper_head, r"another shape: classifier\.weight \[10, 2, 1, 1\] for \[3, "),
    (with_two_heads, r"another shape: classifier\.weight \[5, .* classifier\.bias"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_weights_of_another_network(start, trained, tmp_path, damage, message):
    """Every difference that is no head is listed, and nothing is taken."""
    state = dict(weights(trained))
    damage(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"those of another network.*{message}"):
        start(tmp_path / "other.pth", 3)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("resnet18", ["fc.weight", "fc.bias"]),
        ("squeezenet1_1", ["classifier.1.weight", "classifier.1.bias"]),
        ("vit_b_32", ["heads.head.weight", "heads.head.bias"]),
        (
            "googlenet",
            [
                *(f"aux{i}.fc2.{kind}" for i in (1, 2) for kind in ("weight", "bias")),
                "fc.weight",
                "fc.bias",
            ],
        ),
    ],
)
def test_the_head_is_found_in_any_network(train, name, heads):
    """Linear or convolution, one or several, whatever they are called."""
    import models
    import weights as reference

    with torch.device("meta"):
        options = models.arguments(name, 1000, 1.0)
        state = models.build(name, **options).state_dict()
        small = models.build(name, **{**options, "num_classes": 7})
    found = reference.Pretrained(state, "there")
    assert reference.take(small, found, 7).endswith(", ".join(heads))


def test_fine_tuning_on_other_classes(train, trained, two_classes, tmp_path, capsys):
    """A real run from the digits' weights: what was frozen is as it was, to the bit."""
    capsys.readouterr()
    out = tmp_path / "second"
    flags = (
        "--model", "allcnn", "--width", "0.04", "--epochs", 2, "--batch-size", 4,
        "--workers", 0, "--train-crop-size", 16, "--output-dir", out,
        "--weights", trained / "model.pth", "--freeze", "features.0.*", "features.1.*",
    )  # fmt: skip
    train(*two_classes, *flags)
    printed = capsys.readouterr().out
    assert f"tensors from {trained / 'model.pth'}; new, for 2 classes" in printed
    assert "--freeze: 3 parameters stay" in printed
    before, after = weights(trained), weights(out)
    frozen = ("features.0.weight", "features.1.weight", "features.1.bias")
    for key, value in after.items():
        if value.is_floating_point() and "running" not in key:
            same = value.shape == before[key].shape and torch.equal(value, before[key])
            assert same == (key in frozen), key
    # The normalisation is the one that the network knows.
    saved = torch.load(out / "model.pth", weights_only=True)
    assert saved["mean"] == [0.5, 0.5, 0.5]
    assert len(read(out)) == 2
    # And goes on as a run of its own.
    train(*two_classes, *flags, "--epochs", 3, "--resume", out)
    assert torch.equal(weights(out)["features.0.weight"], before["features.0.weight"])


def test_testing_weights(train, trained, capsys):
    """--test-only with --weights scores them as the run that made them did."""
    train(*QUICK, "--test-only", "--weights", trained / "model.pth")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x[:5] == "Test:"]
    assert f"Acc@1 {float(read(trained)[0]['acc1']):.3f} " in line


def test_damaged_files(start, trained, tmp_path):
    """Cut or overwritten anywhere: one error that names the file, or its weights."""
    whole, chance = (trained / "model.pth").read_bytes(), random.Random(0)
    path, told = tmp_path / "damaged.pth", []
    for i in range(60):
        damaged = bytearray(whole)
        if i % 2:
            del damaged[chance.randrange(len(whole)) :]
        for _ in range(40):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            start(path, 10)
        except ValueError as error:
            told.append(str(error))
    assert len(told) > 40
    assert all(f"{path} " in message for message in told)


NAMES = [
    ("resnet18", "IMAGENET1K_V7", "torchvision has DEFAULT, IMAGENET1K_V1; or give a"),
    ("resnet18", "ResNet50_Weights.DEFAULT", "neither a file nor the name of weights"),
    ("allcnn", "DEFAULT", "of --model allcnn: torchvision has none; or give a file"),
    ("resnet99", "DEFAULT", "no model 'resnet99'; there are allcnn, "),
    ("resnet18", "nowhere/model.pth", "nowhere/model.pth is neither a file nor"),
]


@pytest.mark.parametrize(("model", "name", "message"), NAMES)
def test_names_of_no_weights(train, tmp_path, model, name, message):
    """Those that there are stand in the message."""
    with pytest.raises(ValueError, match=re.escape(message)):
        train(*FIRST, tmp_path, "--width", 1, "--model", model, "--weights", name)


@pytest.fixture
def downloaded(train, monkeypatch, tmp_path):
    """As if torchvision's server had sent the weights of another initialisation."""
    from torchvision.models import _api

    sent = {}

    def send(url, *args, **kwargs):
        return sent[url.rpartition("/")[2].partition("-")[0]]

    torch.manual_seed(3)
    for name in ("resnet18", "googlenet"):
        options = {} if name == "resnet18" else {"init_weights": False}
        sent[name] = torchvision.models.get_model(name, **options).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", send)
    return sent


def test_weights_by_name(downloaded, tmp_path, capsys, train):
    """Torchvision's, with the normalisation that they were trained with."""
    train(
        *QUICK, "--width", 1, "--model", "resnet18", "--weights", "DEFAULT", "--lr", 0,
        "--train-images", 32, "--epochs", 1, "--output-dir", tmp_path,
    )  # fmt: skip
    assert "120 of 122 tensors from torchvision's ResNet18_" in capsys.readouterr().out
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        assert torch.equal(saved["model"][name], downloaded["resnet18"][name])
    assert saved["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_names_of_weights(downloaded, name):
    """With or without the name of their list, as torchvision takes them."""
    import weights as reference
    from flags import parse

    found = reference.read(parse(["--model", "resnet18", "--weights", name]))
    assert found.source == "torchvision's ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.filterwarnings("ignore:auxiliary heads in the pretrained googlenet")
def test_what_the_builder_sets_with_the_weights(downloaded):
    """GoogLeNet's were trained on other pixels, which the network converts."""
    import weights as reference
    from flags import parse

    args = parse(["--model", "googlenet", "--weights", "DEFAULT"])
    assert reference.read(args).options == {"transform_input": True}


def test_no_network_for_weights(train, tmp_path, monkeypatch):
    """The address stands in the message, to be fetched elsewhere."""
    from urllib.error import URLError

    from torchvision.models import _api

    def refuse(url, *args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(_api, "load_state_dict_from_url", refuse)
    message = r"cannot be downloaded from https://.*resnet18-\w+\.pth \(.*no route"
    with pytest.raises(OSError, match=message):
        train(*FIRST, tmp_path, "--width", 1, "--model", "resnet18", "--weights",
              "DEFAULT")  # fmt: skip
