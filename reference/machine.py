"""Device, precision and processes: what accelerate does for torchvision's flags."""

import argparse
import os
from collections.abc import Iterator
from datetime import timedelta

import recording
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from faults import rejoin


def prepare(args: argparse.Namespace) -> Accelerator:
    """The accelerator of this process, together with all others.

    Raises:
        ValueError: the processes are not as the flags have them, or accelerate cannot
            do what is asked of it on this device.
    """
    device = torch.device(args.device)
    on_cpu = device.type == "cpu" or (
        device.type == "cuda" and not torch.cuda.is_available()
    )
    if device.index is not None and device.type == "cuda":
        _choose(device)
    if args.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(args.use_deterministic_algorithms)
    timeout = timedelta(seconds=args.timeout)
    backend = "nccl" if device.type == "cuda" and not on_cpu else "gloo"
    rejoin(backend, timeout)
    _meet(args.dist_url, backend, timeout)
    amp = "bf16" if on_cpu else "fp16"
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=amp if args.amp else args.mixed_precision,
        log_with=recording.trackers(args.report_to),
        project_dir=args.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )
    if args.world_size not in (1, accelerator.num_processes):
        raise ValueError(
            f"--world-size {args.world_size}, and {accelerator.num_processes} "
            "process(es) were launched: leave the flag out, or start so many with "
            f"torchrun --nproc_per_node {args.world_size}"
        )
    return accelerator


def mapped(args: argparse.Namespace, accelerator: Accelerator) -> Iterator[str]:
    """What becomes of flags that mean something else here, a line each."""
    if args.amp:
        yield f"--amp: as --mixed-precision {accelerator.mixed_precision}"
    if args.world_size != 1:
        yield f"--world-size: the launcher's {accelerator.num_processes} process(es)"
    if args.backend:
        yield (
            f"--backend {args.backend}: PIL decodes and auto-augments, tensors are "
            "resized, whatever it says"
        )
    if args.use_v2:
        yield "--use-v2: transforms are torchvision's v2 in any case"
    if args.cache_dataset:
        yield "--cache-dataset: every image is decoded once and held in memory"


def _choose(device: torch.device) -> None:
    """Makes that GPU the one that accelerate finds."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            f"--device {device} is one GPU, and each of several processes has its own: "
            "give --device cuda"
        )
    torch.cuda.set_device(device)


def _meet(url: str, backend: str, timeout: timedelta) -> None:
    """The process group, at a place other than the launcher's own."""
    if url == "env://" or dist.is_initialized():
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"--dist-url {url} is where several processes meet, and this one has no "
            "RANK and WORLD_SIZE from a launcher: start it with torchrun, or leave the "
            "flag out"
        )
    dist.init_process_group(
        backend,
        init_method=url,
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=timeout,
    )
