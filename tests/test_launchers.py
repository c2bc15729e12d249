"""The training script on every launcher that a machine without GPUs runs for real."""

import socket

import pytest
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from conftest import REFERENCE
from launches import QUICK, finish, launch, read, start

SHORT = (*QUICK, "--epochs", "1", "--train-images", "64", "--test-images", "16")
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu")
ONE = ("--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no")
CONFIGS = {
    "one_gpu": (DistributedType.NO, 1, 1),
    "multi_gpu": (DistributedType.MULTI_GPU, 8, 1),
    "fsdp2": (DistributedType.FSDP, 8, 1),
    "two_machines": (DistributedType.MULTI_GPU, 16, 2),
}


def check(result, folder, processes):
    """It ended well, said how many processes it had, and only one of them spoke."""
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count(f"{processes} process(es) on cpu") == 1
    assert result.stdout.count("Epoch: [0] Total time") == 1
    assert result.stdout.count("Test:  Acc@1") == 1
    check_files(folder)


def check_files(folder):
    assert len(read(folder)) == 1
    names = {file.name for file in folder.iterdir()}
    weights = {"checkpoint.pth", "model.pth", "best.pth"}
    assert names == {"run.json", "metrics.csv", ".lock", *weights}


@pytest.mark.all
def test_plain_python(tmp_path):
    """One process, which says where several come from."""
    result = launch(*SHORT, "--output-dir", tmp_path)
    check(result, tmp_path, 1)
    assert "(several come from torchrun --nproc_per_node N)" in result.stdout


@pytest.mark.all
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_launch(tmp_path, precision):
    """The launcher's precision holds where the script has no flag."""
    launcher = (*ACCELERATE, *ONE, "--mixed_precision", precision)
    result = launch(*SHORT, "--output-dir", tmp_path, launcher=launcher)
    check(result, tmp_path, 1)
    assert f"mixed precision {precision}" in result.stdout


def test_accelerate_launch_starts_one_process_on_the_cpu(tmp_path):
    """Whatever --num_processes says (1.15): the script's line is the one to look at."""
    launcher = (*ACCELERATE, *ONE, "--num_processes", "2", "--mixed_precision", "bf16")
    result = launch(*SHORT, "--output-dir", tmp_path, launcher=launcher)
    check(result, tmp_path, 1)
    assert "mixed precision bf16" in result.stdout


def test_torchrun_with_the_losses_of_all_processes(tmp_path):
    """Two processes, one of which prints; --sync is told."""
    result = launch(*SHORT, "--sync", "--output-dir", tmp_path, processes=2)
    check(result, tmp_path, 2)
    assert "statistics are those of all 2 ranks together" in result.stdout
    assert "an optimizer step: 64 images, 128 rows (2 process(es) x 1" in result.stdout


def test_two_machines(tmp_path):
    """Two launchers that meet at an address, one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for number in range(2):
        address = ("--master_addr", "127.0.0.1", "--master_port", port)
        size = ("--nnodes", 2, "--nproc_per_node", 1, "--node_rank", number)
        launcher = ("-m", "torch.distributed.run", *size, *address)
        machines.append(start(*SHORT, "--output-dir", tmp_path, launcher=launcher))
    first, second = (finish(machine, timeout=120) for machine in machines)
    check(first, tmp_path, 2)
    assert second.returncode == 0, second.stderr[-3000:]
    assert second.stdout == ""


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name):
    """Accelerate reads them, and they say what their names do."""
    config = load_config_from_file(str(REFERENCE / "configs" / f"{name}.yaml"))
    found = (config.distributed_type, config.num_processes, config.num_machines)
    assert found == CONFIGS[name]
    assert config.mixed_precision == "bf16"


def test_every_configuration_is_read():
    """None lies there untested."""
    files = (REFERENCE / "configs").glob("*.yaml")
    assert {file.stem for file in files} == set(CONFIGS)
