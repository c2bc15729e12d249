"""The command line on real files: layers, score, report, and its errors."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SmallNet
from PIL import Image

from dai_plugin.cli.main import main

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture
def pictures(tmp_path):
    """Six images in two folders, one of them grey, of two sizes."""
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        folder = tmp_path / "pictures" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        size = (40, 30 + i, 3) if i else (40, 30)
        pixels = torch.randint(256, size, generator=generator).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def saved(tmp_path):
    """A whole network in a file, as torch.save writes it."""
    torch.manual_seed(0)
    torch.save(SmallNet(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def score(model, pictures, output, *more):
    return main(
        ["score", "--model", str(model), "--trust", "--data", str(pictures),
         "--crop", "24",
         "--workers", "0", "--output", str(output), *more]
    )  # fmt: skip


def test_layers_with_shapes(capsys):
    """Every layer of "auto" with its class and shape, first to last."""
    assert main(["layers", "--model", "resnet18"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 layers of resnet18 for images [3, 224, 224]")
    assert lines[1].split() == ["depth", "layer", "module", "shape"]
    assert lines[2].split() == [
        "1",
        "layer1.0",
        "BasicBlock",
        "64",
        "x",
        "56",
        "x",
        "56",
    ]
    assert lines[9].split()[-1] == "7"


def test_module_and_console_script_are_the_same():
    """`python -m dai_plugin` runs the installed command."""
    script = Path(sys.executable).with_name("dai-plugin")
    outputs = [
        subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True
        )
        for command in ([sys.executable, "-m", "dai_plugin"], [str(script)])
    ]
    assert outputs[0].stdout == outputs[1].stdout != ""


def test_score_writes_table_summary_and_picture(saved, pictures, tmp_path, capsys):
    """scores.csv in long form, a summary, and a PNG."""
    assert score(saved, pictures, tmp_path / "out", "--name", "mine") == 0
    frame = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert list(frame) == ["model", "layer", "depth", "image", "transform", "score"]
    assert len(frame) == 3 * 6 * 5
    assert set(frame["model"]) == {"mine"}
    assert frame.loc[frame["depth"] == 0, "layer"].unique().tolist() == ["input"]
    assert frame["score"].le(1).all()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["mine"]) == ["input", "features.2", "features.4"]
    with Image.open(tmp_path / "out" / "invariance.png") as picture:
        assert picture.format == "PNG"
    assert "features.4" in capsys.readouterr().out


def test_a_function_in_a_file_with_weights(pictures, tmp_path):
    """FILE.py:FUNCTION, arguments, and a checkpoint that remembers them."""
    sys.path.insert(0, str(REFERENCE))
    import models

    net = models.build("allcnn", num_classes=3, width=0.05)
    content = {
        "model": net.state_dict(),
        "model_args": {"num_classes": 3, "width": 0.05},
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    source = f"{REFERENCE / 'models.py'}:allcnn"
    arguments = ["--model-args", "width=0.05", "num_classes=3"]
    for name, more in (("checkpoint", []), ("bare", arguments)):
        weights = str(tmp_path / f"{name}.pth")
        assert (
            score(source, pictures, tmp_path / name, "--weights", weights, *more) == 0
        )
    first, second = (
        pd.read_csv(tmp_path / name / "scores.csv")["score"]
        for name in ("checkpoint", "bare")
    )
    assert first.equals(second)


def test_report_puts_models_side_by_side(saved, pictures, tmp_path, capsys):
    """Scores of both models in one table; dynamics where runs left their metrics."""
    for name in ("one", "two"):
        score(saved, pictures, tmp_path / name, "--name", name)
        metrics = pd.DataFrame({"epoch": [0, 1], "acc1": [50.0, 60.0]})
        metrics["layer:features.2"] = [0.5, 0.4]
        metrics.to_csv(tmp_path / name / "metrics.csv", index=False)
    capsys.readouterr()
    folders = [str(tmp_path / name) for name in ("one", "two")]
    assert main(["report", *folders, "--output", str(tmp_path / "both")]) == 0
    frame = pd.read_csv(tmp_path / "both" / "scores.csv")
    assert frame["model"].unique().tolist() == ["one", "two"]
    with Image.open(tmp_path / "both" / "dynamics.png") as picture:
        assert picture.width > picture.height
    printed = capsys.readouterr().out
    assert "60.00" in printed
    assert "features.4" in printed


RESNET = ["layers", "--model", "resnet18"]
SCORE = ["score", "--model", "resnet18", "--output", "out", "--data"]
WRONG = {
    "model": (["layers", "--model", "resnt18"], "no model 'resnt18'"),
    "python file": (
        ["layers", "--model", "no.py:net"],
        "the file no.py does not exist",
    ),
    "function": (["layers", "--model", f"{REFERENCE}/models.py:net"], "function 'net'"),
    "weights": ([*RESNET, "--weights", "no.pth"], "no.pth does not exist"),
    "folder": ([*SCORE, "nowhere"], "the data folder nowhere does not exist"),
    "empty folder": ([*SCORE, str(REFERENCE)], "no images below the data folder"),
    "report": (["report", str(REFERENCE), "--output", "out"], "no measures.npz in"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_errors_are_one_line(arguments, message, capsys):
    """A message and a status, no traceback."""
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]


def test_weights_of_another_network(saved, tmp_path, capsys):
    """What is missing and what is too much is named."""
    torch.save(SmallNet(classes=7).state_dict(), tmp_path / "seven.pth")
    arguments = [
        "layers",
        "--model",
        str(saved),
        "--trust",
        "--weights",
        str(tmp_path / "seven.pth"),
    ]
    assert main(arguments) == 1
    assert "holds the weights of another network" in capsys.readouterr().err


def test_a_file_that_holds_no_network(tmp_path, capsys):
    """A state_dict given as --model says where it belongs."""
    torch.save(SmallNet().state_dict(), tmp_path / "state.pth")
    assert main(["layers", "--model", str(tmp_path / "state.pth")]) == 1
    assert "give it to --weights" in capsys.readouterr().err


def test_a_broken_image_is_named(saved, pictures, tmp_path, capsys):
    """The file that cannot be read is in the message."""
    (pictures / "class0" / "broken.png").write_bytes(b"no image")
    assert score(saved, pictures, tmp_path / "out") == 1
    assert "broken.png" in capsys.readouterr().err


def test_sizes_must_fit(saved, pictures, tmp_path, capsys):
    """A crop larger than the image would be padded with black."""
    assert score(saved, pictures, tmp_path / "out", "--resize", "20") == 2
    assert "--crop 24 is larger than --resize 20" in capsys.readouterr().err


def test_one_image_has_nothing_to_be_compared_with(saved, pictures, tmp_path, capsys):
    """No picture of nothing."""
    (alone := tmp_path / "alone").mkdir()
    (pictures / "class0" / "0.png").rename(alone / "0.png")
    assert score(saved, alone, tmp_path / "out") == 1
    assert "data holds one image" in capsys.readouterr().err


def test_a_report_does_not_write_into_its_sources(saved, pictures, tmp_path, capsys):
    """Its scores.csv would take the place of one of them."""
    score(saved, pictures, tmp_path / "one")
    one = str(tmp_path / "one")
    assert main(["report", one, "--output", one]) == 2
    assert "is one of the folders to report on" in capsys.readouterr().err


def test_checkpoints_of_torchvisions_script(saved, tmp_path, capsys):
    """They hold an argparse.Namespace beside the weights."""
    content = {"model": SmallNet().state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "checkpoint.pth")
    arguments = ["layers", "--model", str(saved), "--trust", "--crop", "12"]
    arguments += ["--weights"]
    assert main([*arguments, str(tmp_path / "checkpoint.pth")]) == 0
    (tmp_path / "text.pth").write_text("no weights")
    assert main([*arguments, str(tmp_path / "text.pth")]) == 1
    assert "holds no weights" in capsys.readouterr().err
