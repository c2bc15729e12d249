"""`FILE.py:FUNCTION`: schemes and networks in a file of the user's."""

import kornia.augmentation as K
import pandas as pd
import pytest
import torch
from launches import QUICK, read
from PIL import Image
from torch import nn

from dai_plugin import AugMix, RandAugment, Scheme, SimCLR
from dai_plugin.cli.main import main
from dai_plugin.cli.sources import load_scheme, with_values

CODE = """
import kornia.augmentation as K
import torch
from dai_plugin import AugMix, Scheme

def darker(images):
    return images * torch.rand(len(images), 1, 1, 1)

pipeline = K.AugmentationSequential(K.RandomAffine(15.0, p=1.0))
mine = Scheme.heavier(flip=0.0) + K.RandomErasing()
mixing = K.RandomMixUpV2()
number = 3
class_of_ours = AugMix
class Other:
    def __call__(self, images):
        return images
def factory():
    return AugMix()
word = "heavier"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "own.py").write_text(CODE)
    return tmp_path / "own.py"


def test_a_function_a_pipeline_or_a_scheme(file):
    """What attach takes, under its name in the file."""
    darker = load_scheme(f"{file}:darker")
    assert darker(torch.ones(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    assert isinstance(load_scheme(f"{file}:pipeline"), K.AugmentationSequential)
    first, second = load_scheme(f"{file}:mine").parts
    assert first == Scheme.heavier(flip=0.0)
    assert isinstance(second, K.RandomErasing)
    assert load_scheme(f"{file}:class_of_ours") == AugMix()


@pytest.mark.parametrize("name", ["heavier", "randaugment", "simclr"])
def test_a_name_stays_a_name(name):
    """As in attach."""
    assert str(load_scheme(name))


WRONG = {
    "file": ("{folder}/none.py:f", ValueError, "none.py does not exist"),
    "name": (
        "{file}:lighter", ValueError, "own.py has no function 'lighter', it holds "
        "darker, Other, factory; give FILE.py:FUNCTION, a function on float"),
    "no name": ("{file}", ValueError, "has no function ''"),
    "number": ("{file}:number", TypeError, "own.py:number: scheme must be a name, a"),
    "word": ("{file}:word", TypeError, "is the text 'heavier'; it must be a function"),
    "class": ("{file}:Other", TypeError, r"Other: scheme is the class Other, .*Other"),
    "factory": ("{file}:factory", TypeError, "factory.*called with a batch of images"),
    "mixing": ("{file}:mixing", ValueError, "own.py:mixing: the scheme holds Random"),
    "given": ("given", ValueError, 'the scheme "given" takes views from a loader'),
    "unknown": ("heavy", ValueError, "unknown scheme 'heavy'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_errors_name_the_file_and_what_is_needed(file, kind):
    """And what it holds."""
    source, error, message = WRONG[kind]
    with pytest.raises(error, match=message):
        load_scheme(source.format(file=file, folder=file.parent))


def test_single_values_are_changed():
    """Of schemes that have them; None leaves them."""
    assert with_values(Scheme.light(), flip=0.0, translation=None).flip == 0.0
    assert with_values(SimCLR(), flip=0.25) == SimCLR(flip=0.25)
    scheme = Scheme.light() + K.RandomErasing()
    assert with_values(scheme, flip=None) is scheme


@pytest.mark.parametrize(
    "scheme", [RandAugment(), nn.Identity(), Scheme() + nn.Identity()]
)
def test_a_value_that_a_scheme_has_not_is_refused(scheme):
    """By name."""
    with pytest.raises(ValueError, match="has no flip to change"):
        with_values(scheme, flip=0.0)


@pytest.fixture
def pictures(tmp_path):
    for i in range(3):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        pixels = torch.randint(256, (24, 24, 3)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("scheme", ["{file}:pipeline", "augmix"])
def test_the_command_scores_under_it(file, pictures, tmp_path, scheme, net, capsys):
    """Of a file or a name."""
    torch.save(net, tmp_path / "net.pt")
    assert not main(
        ["score", "--model", str(tmp_path / "net.pt"), "--data", str(pictures),
         "--resize", "24", "--crop", "24", "--workers", "0", "--output",
         str(tmp_path / "out"), "--trust", "--scheme", scheme.format(file=file)]
    )  # fmt: skip
    assert "scheme: " in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert frame["score"].notna().all()


@pytest.mark.parametrize("scheme", ["{file}:darker", "randaugment"])
def test_the_training_script_trains_under_it(train, file, tmp_path, scheme):
    """An epoch, with the accuracy on images that it transforms."""
    # The digits' script takes no flip where the scheme has none.
    quick = [x for i, x in enumerate(QUICK) if "--flip" not in (x, QUICK[i - 1])]
    train(*quick, "--epochs", 1, "--scheme", scheme.format(file=file), "--output-dir",
          tmp_path / "run")  # fmt: skip
    (row,) = read(tmp_path / "run")
    assert 0 < float(row["layer:features.23"]) < 1
    assert 0 <= float(row["acc1_augmented"]) <= 100
