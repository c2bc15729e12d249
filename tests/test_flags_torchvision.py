"""The script takes torchvision's command lines: every flag, its default, its words."""

import re
import shlex

import pytest
from conftest import REFERENCE

# Of references/classification/train.py, torchvision 0.26 to 0.29: flag, default.
FLAGS = {
    "--data-path": "/datasets01/imagenet_full_size/061417/",
    "--model": "resnet18",
    "--device": "cuda",
    "--batch-size": 32,
    "--epochs": 90,
    "--workers": 16,
    "--opt": "sgd",
    "--lr": 0.1,
    "--momentum": 0.9,
    "--weight-decay": 1e-4,
    "--norm-weight-decay": None,
    "--bias-weight-decay": None,
    "--transformer-embedding-decay": None,
    "--label-smoothing": 0.0,
    "--mixup-alpha": 0.0,
    "--cutmix-alpha": 0.0,
    "--lr-scheduler": "steplr",
    "--lr-warmup-epochs": 0,
    "--lr-warmup-method": "constant",
    "--lr-warmup-decay": 0.01,
    "--lr-step-size": 30,
    "--lr-gamma": 0.1,
    "--lr-min": 0.0,
    "--print-freq": 10,
    "--output-dir": ".",
    "--resume": "",
    "--start-epoch": 0,
    "--cache-dataset": False,
    "--sync-bn": False,
    "--test-only": False,
    "--auto-augment": None,
    "--ra-magnitude": 9,
    "--augmix-severity": 3,
    "--random-erase": 0.0,
    "--amp": False,
    "--world-size": 1,
    "--dist-url": "env://",
    "--model-ema": False,
    "--model-ema-steps": 32,
    "--model-ema-decay": 0.99998,
    "--use-deterministic-algorithms": False,
    "--interpolation": "bilinear",
    "--val-resize-size": 256,
    "--val-crop-size": 224,
    "--train-crop-size": 224,
    "--clip-grad-norm": None,
    "--ra-sampler": False,
    "--ra-reps": 3,
    "--weights": None,
    "--backend": "PIL",
    "--use-v2": False,
}
# The data set's own, which for photos are the same.
OPEN = {"--data-path", "--val-resize-size", "--val-crop-size", "--train-crop-size"}
OPEN |= {"--backend"}  # any of them gives the same images
# Commands of its README, without the launcher.
COMMANDS = [
    "--model googlenet --test-only --weights DEFAULT",
    "--model inception_v3 --test-only --weights Inception_V3_Weights.IMAGENET1K_V1",
    "--model resnext50_32x4d --epochs 100",
    "--model mobilenet_v2 --epochs 300 --lr 0.045 --wd 0.00004 --lr-step-size 1 "
    "--lr-gamma 0.98",
    "--model mobilenet_v3_large --epochs 600 --opt rmsprop --batch-size 128 --lr 0.064 "
    "--wd 0.00001 --lr-step-size 2 --lr-gamma 0.973 --auto-augment imagenet "
    "--random-erase 0.2",
    "--model vit_b_16 --epochs 300 --batch-size 512 --opt adamw --lr 0.003 --wd 0.3 "
    "--lr-scheduler cosineannealinglr --lr-warmup-method linear --lr-warmup-epochs 30 "
    "--lr-warmup-decay 0.033 --amp --label-smoothing 0.11 --mixup-alpha 0.2 "
    "--auto-augment ra --clip-grad-norm 1 --ra-sampler --cutmix-alpha 1.0 --model-ema",
    "--model convnext_tiny --batch-size 128 --opt adamw --lr 1e-3 --lr-scheduler "
    "cosineannealinglr --lr-warmup-epochs 5 --lr-warmup-method linear --auto-augment "
    "ta_wide --epochs 600 --random-erase 0.1 --label-smoothing 0.1 --mixup-alpha 0.2 "
    "--cutmix-alpha 1.0 --weight-decay 0.05 --norm-weight-decay 0.0 --train-crop-size "
    "176 --model-ema --val-resize-size 232 --ra-sampler --ra-reps 4",
    "--model swin_t --epochs 300 --batch-size 128 --opt adamw --lr 0.001 "
    "--weight-decay 0.05 --norm-weight-decay 0.0 --bias-weight-decay 0.0 "
    "--transformer-embedding-decay 0.0 --lr-scheduler cosineannealinglr --lr-min "
    "0.00001 --lr-warmup-method linear --lr-warmup-epochs 20 --lr-warmup-decay 0.01 "
    "--amp --label-smoothing 0.1 --mixup-alpha 0.8 --clip-grad-norm 5.0 --cutmix-alpha "
    "1.0 --random-erase 0.25 --interpolation bicubic --auto-augment ta_wide "
    "--model-ema --ra-sampler --ra-reps 4  --val-resize-size 224",
    "--model efficientnet_v2_s --batch-size 128 --lr 0.5 --lr-scheduler "
    "cosineannealinglr --lr-warmup-epochs 5 --lr-warmup-method linear --auto-augment "
    "ta_wide --epochs 600 --random-erase 0.1 --label-smoothing 0.1 --mixup-alpha 0.2 "
    "--cutmix-alpha 1.0 --weight-decay 0.00002 --norm-weight-decay 0.0 "
    "--train-crop-size 300 --model-ema --val-crop-size 384 --val-resize-size 384 "
    "--ra-sampler --ra-reps 4",
    "--model regnet_x_400mf --opt sgd_nesterov --use-v2 --backend tensor",
]


@pytest.fixture
def parse(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    from flags import parse

    return parse


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_its_documentation(parse, command):
    """Taken as they stand there."""
    assert parse(command.split()).model == command.split()[1]


def documented():
    """Command lines of reference/README.md, with what the shell puts into them."""
    text = (REFERENCE / "README.md").read_text()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        common = re.search(r'^common="(.*)"$', block, flags=re.MULTILINE)
        for found in re.findall(r"reference/train\.py (.*)$", block, re.MULTILINE):
            command = found.replace("$common", common[1]) if common else found
            yield command.replace("$alpha", "0.1")


@pytest.mark.parametrize("command", list(documented()))
def test_commands_of_our_documentation(parse, command):
    """Every flag in them exists."""
    assert parse(shlex.split(command.replace("$seed", "1"))).epochs < 400


def test_every_flag_is_in_the_help(parse, capsys):
    """By the name that torchvision has for it."""
    with pytest.raises(SystemExit):
        parse(["--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(FLAGS) - set(words) == set()


@pytest.mark.parametrize("flag", sorted(FLAGS.keys() - OPEN))
def test_defaults_are_the_same(parse, flag):
    """What a command line leaves out means the same here."""
    assert getattr(parse([]), flag[2:].replace("-", "_")) == FLAGS[flag]


def test_spellings(parse):
    """Words of torchvision, in its cases."""
    args = parse(["--opt", "SGD_Nesterov", "--auto-augment", "TA_wide", "--backend",
                  "PIL", "--lr-scheduler", "CosineAnnealingLR"])  # fmt: skip
    assert args.opt == "sgd-nesterov"
    assert args.auto_augment == "ta_wide"
    assert (args.backend, args.lr_scheduler) == ("pil", "cosineannealinglr")


REFUSED = [
    ("--print-freq 0", "--print-freq 0 must be a number of at least 1"),
    ("--label-smoothing 1.5", "--label-smoothing 1.5 must lie between 0 and 1"),
    ("--lr nan", "--lr nan must be a number of at least 0"),
    ("--lr inf", "--lr inf must be a number of at least 0"),
    ("--workers -1", "--workers -1 must be"),
    ("--mixup-alpha -1", "--mixup-alpha -1.0 must be"),
    ("--ra-magnitude 31", "--ra-magnitude 31 must lie between 0 and 30"),
    ("--seed -5", "--seed -5 must lie between 0 and 4294967295"),
    ("--train-crop-size 0", "--train-crop-size 0 must be"),
    ("--cutmix-alpha 1 --beta 0.1", "--beta 0.1 needs images of one class each"),
    ("--mixup-alpha 1 --term class", "--term class needs images of one class each"),
    ("--sync --term class", "--term class compares images of one class, and --sync"),
    ("--amp --mixed-precision bf16", "say the same thing: leave one of the two out"),
    ("--start-epoch 5 --epochs 5", "--start-epoch 5 leaves nothing of --epochs 5"),
    ("--device tpu0", "--device tpu0 is no device: give cpu"),
    ("--device meta", "--device meta is not there: give cpu"),
    ("--device cuda:99", "--device cuda:99 is not there: give cpu"),
    (
        "--auto-augment augmix --interpolation bicubic",
        "--interpolation nearest or bilinear alone, not bicubic",
    ),
]


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_refused_before_anything_is_loaded(parse, command, message):
    """What was given, and what may be."""
    with pytest.raises(ValueError, match=message):
        parse(command.split())


def test_a_device_that_this_machine_lacks(parse, monkeypatch):
    """Apple's, where there is none; `cuda` alone is the default and means the CPU."""
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("mps", "cuda:0"):
        with pytest.raises(ValueError, match=f"--device {name} is not there: give cpu"):
            parse(["--device", name])
    assert parse(["--device", "cuda"]).device == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parse(["--device", "cuda:1"]).device == "cuda:1"
    with pytest.raises(ValueError, match="give cpu or cuda:0 or cuda:1"):
        parse(["--device", "cuda:2"])


def test_every_number_has_a_range(parse):
    """All but those that `attach` or the network checks itself."""
    from flag_checks import RANGES

    numbers = {k for k, v in vars(parse([])).items() if type(v) in (int, float)}
    unbounded = numbers - RANGES.keys()
    assert unbounded <= {"alpha", "beta", "share", "width", "last_to_first"}
