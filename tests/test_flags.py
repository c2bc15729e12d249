"""Flags of the training script: what each does, and what it refuses."""

import pytest
import torch
from launches import QUICK, read


@pytest.fixture
def parse(train, monkeypatch):
    """The script's command line alone."""
    from flags import parse

    return lambda *arguments: parse([str(a) for a in arguments])


def test_recipes_are_defaults(parse):
    """A flag beats the recipe, the recipe beats the script's default."""
    args = parse("--recipe", "allcnn-cifar10", "--lr_gamma", 0.3)
    assert (args.model, args.num_views, args.epochs) == ("allcnn", 8, 350)
    assert (args.lr_scheduler, args.lr_milestones) == ("multisteplr", [300, 325])
    assert args.lr_gamma == 0.3
    assert parse().model == "resnet18"


def test_keep_rows_needs_rows(parse):
    """A recipe counts images already, and says how many rows they are."""
    recipe = ("--recipe", "allcnn-cifar10", "--keep-rows")
    message = r"counts images already \(16 x 8 views = 128 rows\): leave --keep-rows"
    with pytest.raises(ValueError, match=message):
        parse(*recipe, "--num-views", 4)
    assert parse(*recipe, "--num-views", 4, "--batch-size", 128).batch_size == 32
    assert parse(*recipe, "-b", 16).batch_size == 2
    assert parse("--keep-rows").batch_size == 16


def test_keep_rows_divides_the_batch(parse):
    """128 rows are 16 images in 8 views."""
    assert parse("--keep-rows", "-b", 128, "--num-views", 8).batch_size == 16
    with pytest.raises(
        ValueError, match=r"100 rows .* no multiple of --num-views 8; 96"
    ):
        parse("--keep-rows", "-b", 100, "--num-views", 8)


def test_the_first_view_is_alike_in_all_steps(parse):
    """Augmented unless told, and clean where some steps make no views."""
    assert parse().first_view == "augmented"
    assert parse("--every", 2).first_view == "clean"
    assert parse("--first-view", "clean").first_view == "clean"
    recipe = ("--recipe", "allcnn-cifar10", "--every", 2, "--first-view", "clean")
    assert parse(*recipe).first_view == "clean"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mixup-alpha", 0.2, "--beta", 0.1), "--beta 0.1 needs images of one class"),
        (("--lr-scheduler", "multisteplr"), "needs --lr-milestones"),
        (("--sync", "--beta", 0.1), "--beta 0.1 compares .* --sync brings no classes"),
        (("--every", 2, "--first-view", "augmented"), "add --first-view clean"),
        (("--every", 3, "--recipe", "allcnn-cifar10"), "--every 3 leaves the images"),
        (("--alpha-warmup-epochs", -1), "--alpha-warmup-epochs -1 must be a number"),
        (("--gradient-accumulation-steps", 0), "--gradient-accumulation-steps 0 must"),
    ],
)
def test_flags_that_make_no_sense(parse, flags, message):
    """Named before anything is loaded."""
    with pytest.raises(ValueError, match=message):
        parse(*flags)


def test_a_refusal_is_one_line(parse, capsys):
    """And the script's status is 1."""
    from faults import guarded

    assert guarded(lambda: parse("--sync", "--beta", 0.1)) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("train.py: error: --beta 0.1 compares images")
    assert printed.err.count("\n") == 1


def test_alpha_rises_over_its_first_epochs(train, tmp_path, capsys):
    """Step by step, 5 of them an epoch; a resumed run goes on where it was."""
    flags = (*QUICK, "--alpha", 0.5, "--alpha-warmup-epochs", 2, "--output-dir")
    train(*flags, tmp_path, "--epochs", 1)
    assert "alpha 0.200" in capsys.readouterr().out  # its last step is number 4 of 10
    train(*flags, tmp_path, "--epochs", 3, "--resume", tmp_path)
    printed = capsys.readouterr().out
    alphas = [x.split()[-1] for x in printed.splitlines() if x.startswith("inv[")]
    assert alphas == ["0.450", "0.500"]


def test_sync_bn_needs_gpus(train, tmp_path):
    """SyncBatchNorm of torch has no CPU form."""
    with pytest.raises(ValueError, match="SyncBatchNorm runs on GPUs alone"):
        train(*QUICK, "--sync-bn", "--output-dir", tmp_path)


def test_the_start_states_the_effective_batch(train, tmp_path, capsys):
    """Images and rows of an optimizer step, views, learning rate, processes."""
    train(*QUICK, "--epochs", 1, "--gradient-accumulation-steps", 2, "--output-dir",
          tmp_path)  # fmt: skip
    printed = capsys.readouterr().out
    assert "an optimizer step: 64 images, 128 rows" in printed
    assert "(1 process(es) x 2 accumulation step(s)), learning rate 0.1" in printed
    assert "several come from torchrun" in printed
    assert "of the epoch's time was waiting" in printed


def test_milestones_and_warm_up(train, tmp_path):
    """The milestones are epochs of the run, a warm-up among them."""
    train(
        *QUICK, "--epochs", 4, "--lr-scheduler", "multisteplr", "--lr-milestones", 2, 3,
        "--lr-warmup-epochs", 1, "--lr-warmup-decay", 0.5, "--output-dir", tmp_path,
    )  # fmt: skip
    rates = [float(row["lr"]) for row in read(tmp_path)]
    assert rates == pytest.approx([0.05, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    "flags",
    [
        ("--mixup-alpha", 0.2, "--label-smoothing", 0.1),
        ("--channels-last", "--clip-grad-norm", 0.1),
        ("--keep-rows", "--translation", 0, "--mixed-precision", "bf16"),
    ],
    ids=["mixup", "channels-last and clipping", "rows and bf16"],
)
def test_a_run_with(train, tmp_path, flags):
    """Trains, tests and saves; the invariance losses are there."""
    train(*QUICK, "--epochs", 1, *flags, "--output-dir", tmp_path)
    (row,) = read(tmp_path)
    assert 0 < float(row["layer:features.23"]) < 2


@pytest.mark.all
def test_a_compiled_run_is_the_same(train, tmp_path):
    """To rounding, which two steps do not blow up yet; model.pth has stock names."""
    two = (*QUICK, "--epochs", 1, "--train-images", 64)
    for name, flags in (("stock", ()), ("compiled", ("--compile",))):
        train(*two, *flags, "--output-dir", tmp_path / name)
    stock, compiled = (
        torch.load(tmp_path / name / "model.pth", weights_only=True)["model"]
        for name in ("stock", "compiled")
    )
    for name, value in stock.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)


def test_the_average_is_tested_and_kept(train, tmp_path):
    """With decay 0 it is a copy of the weights, with much decay it lags behind."""
    common = (*QUICK, "--epochs", 1, "--model-ema", "--model-ema-steps", 1)
    for decay in (0.0, 0.999):
        folder = tmp_path / str(decay)
        train(*common, "--model-ema-decay", decay, "--output-dir", folder)
        saved = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
        kept = torch.load(folder / "model.pth", weights_only=True)["model"]
        same = all(torch.equal(saved[name], value) for name, value in kept.items())
        assert same == (decay == 0)


def test_the_average_is_asked_for_again(train, tmp_path):
    """A checkpoint with it is no checkpoint without it."""
    train(*QUICK, "--epochs", 1, "--model-ema", "--output-dir", tmp_path)
    with pytest.raises(ValueError, match="--model-ema was True, is False"):
        train(*QUICK, "--resume", tmp_path, "--output-dir", tmp_path)


def test_one_view_is_the_plain_loop(train, tmp_path):
    """One step of a run on one clean view, against a step without any of it."""
    import data
    import models

    train(
        *QUICK, "--epochs", 1, "--train-images", 32, "--num-views", 1, "--first-view",
        "clean", "--wd", 0, "--momentum", 0, "--output-dir", tmp_path,
    )  # fmt: skip
    torch.manual_seed(0)
    model = models.build("allcnn", num_classes=10, width=0.04)
    part = data.load("digits", "", train_images=32)
    images = part.preset.normalize(part.train.images)
    torch.nn.functional.cross_entropy(model(images), part.train.targets).backward()
    saved = torch.load(tmp_path / "model.pth", weights_only=True)["model"]
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(saved[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("views", [1, 2])
def test_the_class_term_needs_no_second_view(train, tmp_path, views):
    """`--term class --alpha` is `--alpha 0 --beta`: images of a class are compared."""
    common = (*QUICK, "--epochs", 1, "--train-images", 64, "--num-views", views)
    for name, flags in (
        ("alpha", ("--term", "class", "--alpha", 0.2)),
        ("beta", ("--alpha", 0, "--beta", 0.2)),
        ("plain", ("--alpha", 0)),
    ):
        train(*common, *flags, "--output-dir", tmp_path / name)
    alpha, beta, plain = (
        torch.load(tmp_path / name / "model.pth", weights_only=True)["model"]
        for name in ("alpha", "beta", "plain")
    )
    for name, value in alpha.items():
        torch.testing.assert_close(value, beta[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(value, plain[name]) for name, value in alpha.items())


def test_a_later_start(train, tmp_path):
    """The epochs that are left, with their own order and learning rate."""
    flags = (*QUICK, "--epochs", 4, "--lr-scheduler", "cosineannealinglr",
             "--lr-warmup-epochs", 1, "--lr-warmup-decay", 0.5)  # fmt: skip
    train(*flags, "--output-dir", tmp_path / "whole")
    train(*flags, "--start-epoch", 2, "--output-dir", tmp_path / "late")
    whole, late = read(tmp_path / "whole"), read(tmp_path / "late")
    assert [row["epoch"] for row in late] == ["2", "3"]
    assert [row["lr"] for row in late] == [row["lr"] for row in whole[2:]]


@pytest.mark.parametrize(
    ("flags", "layer"),
    [
        (("--term", "jsd"), "output of the network"),
        (("--term", "cosine", "--layers", "last"), "features.23"),
        (("--layers", "penultimate"), "input of classifier"),
    ],
)
def test_terms_and_words_for_layers(train, tmp_path, flags, layer):
    """What `attach` takes, the script takes; its metrics are of the layer meant."""
    train(*QUICK, "--epochs", 1, *flags, "--output-dir", tmp_path)
    (row,) = read(tmp_path)
    assert [name for name in row if name.startswith("layer:")] == [f"layer:{layer}"]
    shown = 0.9 * float(row["task_loss"]) + 0.1 * float(row[f"layer:{layer}"])
    assert float(row["loss"]) == pytest.approx(shown, rel=1e-3)


def test_views_now_and_then_and_of_a_share(train, tmp_path, capsys):
    """What a step costs is said and counted as `attach` has it."""
    train(*QUICK, "--epochs", 1, "--every", 2, "--share", 0.5, "--output-dir", tmp_path)
    told = "32 images, 16 of them x 2 views = 48 rows a step and process, in one of 2"
    printed = capsys.readouterr().out
    assert f"{told} steps: 1.25 times the compute" in printed
    assert "an optimizer step: 32 images, 40 rows" in printed
    (row,) = read(tmp_path)
    assert (int(row["images"]), int(row["rows"])) == (150, 193)


@pytest.mark.parametrize("flags", [(), ("--every", 4), ("--every", 3, "--share", 0.3)])
def test_rows_are_counted(train, tmp_path, monkeypatch, flags):
    """Of every training forward, over two epochs whose last batches are smaller."""
    import models

    seen = []

    def count(module, args):
        if module.training and torch.is_grad_enabled():
            seen.append(len(args[0]))

    def build(*args, build=models.build, **options):
        net = build(*args, **options)
        next(net.children()).register_forward_pre_hook(count)
        return net

    monkeypatch.setattr(models, "build", build)
    train(*QUICK, *flags, "--output-dir", tmp_path)
    first, second = (int(row["rows"]) for row in read(tmp_path))
    assert len(seen) == 10
    assert (first, second) == (sum(seen[:5]), sum(seen))
