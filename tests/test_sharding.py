"""FSDP2 through accelerate's configuration, on two CPU processes.

accelerate itself shards on GPUs alone: `sharded.py` has it shard here too.
"""

import os
from pathlib import Path

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.utils.launch import prepare_multi_gpu_env
from conftest import REFERENCE
from launches import QUICK, assert_same_end, finish, launch, start, wait_for, weights

SHARDED = Path(__file__).with_name("sharded.py")
EVERYTHING = (
    *QUICK, "--batch-size", 16, "--gradient-accumulation-steps", 2,
    "--clip-grad-norm", 0.5, "--lr-scheduler", "multisteplr", "--lr-milestones", 1,
)  # fmt: skip
# The second is what accelerate sets for a configuration that says nothing of it.
LAYERWISE = {
    "FSDP_MIN_NUM_PARAMS": "500",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
FSDP1 = {
    "FSDP_VERSION": "1",
    "FSDP_RESHARD_AFTER_FORWARD": "FULL_SHARD",
    "FSDP_SYNC_MODULE_STATES": "false",  # needs a GPU
}


def settings(**changes):
    """What `accelerate launch` sets for reference/configs/fsdp2.yaml."""
    parser = accelerate_launch.launch_command_parser()
    file = str(REFERENCE / "configs" / "fsdp2.yaml")
    args = parser.parse_args(["--config_file", file, "--main_process_port", "0", "t"])
    args, *_ = accelerate_launch._validate_launch_command(args)
    found = prepare_multi_gpu_env(args)
    own = {k: v for k, v in found.items() if k.startswith(("FSDP_", "ACCELERATE_"))}
    return {**own, "ACCELERATE_MIXED_PRECISION": "no", **changes}


def sharded(*arguments, **changes):
    result = launch(
        *arguments, processes=2, script=SHARDED, environment=settings(**changes)
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Warning" not in result.stderr
    return result


@pytest.mark.all
def test_a_sharded_run_ends_where_one_of_whole_copies_does(tmp_path):
    """Accumulation, clipping, batch norm: the same weights and the same metrics."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = (*EVERYTHING, "--epochs", 1, "--output-dir")
    result = launch(*common, whole, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    sharded(*common, parts)
    assert_same_end(parts, whole, tolerance=1e-5)


@pytest.mark.all
@pytest.mark.parametrize("stop", ["after an epoch", "in mid-epoch"])
def test_a_resumed_sharded_run_is_the_uninterrupted_one(tmp_path, stop):
    """With mixup, AdamW's state, and layers of 500 parameters sharded by themselves."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = (*EVERYTHING, "--mixup-alpha", 0.3, "--opt", "adamw", "--lr", 0.001)
    sharded(*more, "--output-dir", whole, **LAYERWISE)
    if stop == "after an epoch":
        sharded(*more, "--epochs", 1, "--output-dir", parts, **LAYERWISE)
    else:
        interrupted(*more, folder=parts)
    again = ("--output-dir", parts, "--resume", "auto")
    result = sharded(*more, *again, **LAYERWISE)
    assert "goes on in epoch" in result.stdout
    assert_same_end(parts, whole, tolerance=1e-6)


def interrupted(*arguments, folder):
    """The launcher gets SIGTERM once there is a checkpoint of the first epoch."""
    process = start(
        *arguments, "--checkpoint-freq", 1, "--output-dir", folder, processes=2,
        script=SHARDED, environment=settings(**LAYERWISE),
    )  # fmt: skip
    wait_for(folder / "checkpoint.pth", process)
    process.terminate()
    assert "train.py: SIGTERM: saved in epoch 0, batch " in finish(process).stdout


@pytest.mark.all
def test_mixed_precision_leaves_weights_and_statistics_whole(tmp_path):
    """Autocast instead of FSDP's own: batch norm stays in float32."""
    common = (*QUICK, "--epochs", 1, "--batch-size", 16, "--output-dir")
    result = launch(
        *common, tmp_path / "whole", "--mixed-precision", "bf16", processes=2
    )
    assert result.returncode == 0, result.stderr[-3000:]
    result = sharded(*common, tmp_path / "parts", ACCELERATE_MIXED_PRECISION="bf16")
    assert "mixed precision bf16" in result.stdout
    expected = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "parts").items():
        assert value.dtype == expected[name].dtype
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-3)


@pytest.mark.all
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_of_a_sharded_network(tmp_path):
    """Every process runs it, one draws."""
    pytest.importorskip("tensorboard")
    sharded(*QUICK, "--epochs", 1, "--report-to", "tensorboard", "--output-dir",
            tmp_path)  # fmt: skip
    assert (tmp_path / "invariance.png").is_file()


@pytest.mark.all
@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        (("--model-ema",), {}, "--model-ema averages whole networks, and FSDP"),
        ((), FSDP1, "asks for FSDP1"),
    ],
)  # fmt: skip
def test_what_fsdp_cannot_do_is_refused(tmp_path, flags, changes, message):
    """In one line, before training."""
    result = launch(
        *QUICK, *flags, "--output-dir", tmp_path, processes=2, script=SHARDED,
        environment=settings(**changes),
    )  # fmt: skip
    assert result.returncode != 0
    told = [x for x in result.stderr.splitlines() if x.startswith("train.py: error")]
    assert message in told[0]


def test_fsdp_on_the_cpu_is_refused(train, tmp_path, monkeypatch):
    """Accelerate would train whole copies without a word."""
    for name, value in settings().items():
        monkeypatch.setitem(os.environ, name, value)
    with pytest.raises(ValueError, match=r"shards nothing in 1 process\(es\) on the c"):
        train(*QUICK, "--output-dir", tmp_path)
