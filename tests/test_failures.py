"""What a command says when it fails: ours in a line, others with their place."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from commands import NETWORKS, arguments, draw_pictures
from torch.utils.data import DataLoader, Dataset

from dai_plugin import Term
from dai_plugin.cli.failures import failure, refused_as
from dai_plugin.cli.main import main
from dai_plugin.losses.ratio import invariance_loss


@pytest.fixture
def pictures(tmp_path):
    return draw_pictures(tmp_path / "pictures", count=6)


@pytest.fixture
def file(tmp_path):
    """A user's file; a test writes its end."""
    (tmp_path / "own.py").write_text(NETWORKS)
    return tmp_path / "own.py"


def caught(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any is described)
        function()
    return failure(caught.value)


def test_what_the_package_raises_is_its_message_alone():
    """No type, no place: it is written for who reads it."""
    found = caught(lambda: invariance_loss(torch.rand(3, 4), num_views=2))
    assert found.ours
    assert found.explained() == found.message
    assert "Error" not in found.explained()
    assert caught(lambda: Term("nothing")).ours


class Sent(Dataset):
    """A loading process fails."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.fail()


def refused():
    return invariance_loss(torch.rand(3, 4), num_views=2)


def missing_key():
    return {}["model"]


def several_lines():
    raise OSError("first\nsecond: third")


@pytest.mark.parametrize("fail", [refused, missing_key, several_lines])
def test_a_loading_process_says_the_same_as_this_one(fail):
    """Its traceback comes as text, and is read."""
    here = caught(fail)
    sent = caught(lambda: list(DataLoader(Sent(fail), num_workers=1)))
    assert (sent.kind, sent.message, sent.ours) == (here.kind, here.message, here.ours)
    assert sent.frames[-1] == here.frames[-1]
    if not here.ours:
        assert sent.explained().splitlines()[0] == here.explained().splitlines()[0]


# What a user's file may do while its function builds, what is said of it, and the line
# of the file where it happens.
SLIPS = {
    "key": ("{}['model']", "KeyError: 'model'"),
    "index": ("[][101]", "IndexError: list index out of range"),
    "number": ("raise KeyError(101)", "KeyError: 101"),
    "nothing": ("assert not True", "AssertionError"),
    "attribute": ("torch.no_such_thing", "AttributeError: module 'torch' has no"),
    "library": ("nn.Conv2d(3, 4, 3)(torch.rand(2))", "RuntimeError: Expected 3D"),
    "import": ("import no_such_package", "ModuleNotFoundError: No module named 'no_s"),
    "end": ("raise SystemExit(7)", "SystemExit: 7"),
    "recursion": ("build()", "RecursionError: maximum recursion"),
}


@pytest.mark.parametrize("kind", SLIPS)
def test_slips_in_a_users_file_are_shown_with_their_place(kind, file, capsys):
    """Type, message, file and line first; then the traceback from the file on."""
    code, said = SLIPS[kind]
    file.write_text(f"import torch\nfrom torch import nn\n\ndef build():\n    {code}\n")
    assert main(["layers", "--model", f"{file}:build"]) == 1
    first, *others = capsys.readouterr().err.strip().splitlines()
    assert first.startswith(f"dai-plugin layers: error: {said}")
    assert first.endswith(f"({file}:5, in build)")
    assert others[0] == f'  File "{file}", line 5, in build'
    assert not any("dai_plugin/cli" in line for line in others)


@pytest.mark.parametrize(
    ("head", "words", "said"),
    [
        ("seed=0", ["width=1"], "unexpected keyword argument 'width'"),
        ("seed", [], "missing a required argument: 'seed'"),
        ("a, b=2", ["b=1"], "with the arguments b (missing a required argument: 'a')"),
        ("", ["x=1"], "build() cannot be called with the arguments x ("),
    ],
)
def test_arguments_that_a_function_does_not_take(file, head, words, said, capsys):
    """In a line, with those that it takes; no place of ours."""
    file.write_text(f"def build({head}):\n    raise AssertionError\n")
    flags = ["--model-args", *words] if words else []
    assert main(["layers", "--model", f"{file}:build", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"own.py:build({head}) cannot be called" in line
    assert said in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_fails_by_an_interrupt_is_interrupted(file, number, capsys):
    """Python may drop the interrupt itself (while a process is started, say)."""
    file.write_text(
        "import os\ndef build():\n"
        f"    try:\n        os.kill(os.getpid(), {int(number)})\n"
        "    except KeyboardInterrupt:\n        raise RuntimeError('a process died')\n"
    )
    assert main(["layers", "--model", f"{file}:build"]) == 130
    assert capsys.readouterr().err == "dai-plugin layers: interrupted\n"


def test_a_syntax_error_names_file_and_line(file, capsys):
    """And shows the line."""
    file.write_text("import torch\ndef f(:\n")
    assert main(["layers", "--model", f"{file}:f"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dai-plugin layers: error: SyntaxError: invalid syntax")
    assert f"({file}:2)" in error.splitlines()[0]
    assert "def f(:" in error


def test_a_network_that_fails_as_it_runs(file, pictures, tmp_path, capsys):
    """The line of its forward is shown, not ours around it."""
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.act(self.conv(x)).view(7, 7, 7)\n"
        "def build():\n"
        "    return Net()\n"
    )
    assert main(arguments("measure", file, pictures, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert f"({file}:7, in forward)" in error
    assert "view(7, 7, 7)" in error
    assert not (tmp_path / "out").exists()


def test_a_network_that_does_not_run_on_images_of_that_size(file, pictures, capsys):
    """The size is told, and what sets it."""
    words = arguments("measure", file, pictures, file.with_name("out"))
    words[words.index("--crop") + 1] = "3"
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Kernel size can't be greater" in line
    assert "; tried on images [2, 3, 3, 3]; --resize and --crop set their size" in line


def test_a_scheme_that_fails_as_it_runs(file, pictures, tmp_path, capsys):
    """As a network."""
    with file.open("a") as opened:
        opened.write("def darker(images):\n    return images * {}['strength']\n")
    scheme = ("--scheme", f"{file}:darker")
    assert main(arguments("measure", file, pictures, tmp_path / "out", *scheme)) == 1
    assert "KeyError: 'strength'" in capsys.readouterr().err


def test_the_traceback_when_asked_for(capsys):
    """Of errors of ours, too, before their line."""
    words = ["layers", "--model", "resnt18"]
    for more in ([], ["--traceback", *words], [*words, "--traceback"]):
        assert main(more or words) == 1
        error = capsys.readouterr().err
        assert ("Traceback (most recent call last)" in error) == bool(more)
        assert "error: no model 'resnt18'" in error.splitlines()[-1]


def test_a_library_that_fails_is_named():
    """Where no user's code is between, type and place stand in one line."""
    found = caught(lambda: torch.nn.Conv2d(3, 4, 3)(torch.rand(1, 5, 8, 8)))
    own = found._replace(frames=[f for f in found.frames if "torch" in f.file])
    (line,) = own.explained().splitlines()
    assert line.startswith("RuntimeError: Given groups=1")
    assert "(torch/nn/modules/conv.py:" in line


def test_what_a_flag_asks_for_is_refused_as_the_flags():
    """Only what the package refuses; a slip stays one."""
    with (
        pytest.raises(Exception, match="argument --x: "),
        refused_as("--x"),
    ):
        refused()
    with pytest.raises(KeyError, match="model"), refused_as("--x"):
        missing_key()


def test_who_reads_no_further_is_not_told():
    """`dai-plugin layers | head -1`: no traceback, the status of a closed pipe."""
    command = [sys.executable, "-m", "dai_plugin", "layers", "--model", "resnet18"]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert ended.stderr == b""
    assert ended.returncode == 141
