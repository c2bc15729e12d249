"""FSDP2 through accelerate's configuration: what it takes, and what it cannot do.

The network is sharded in place, so that the attachment stays as it is.
"""

import argparse
import os
import warnings
from typing import Any

from accelerate import Accelerator, DistributedType
from accelerate.utils import convert_outputs_to_fp32
from torch import nn


def check(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Refuses what would go wrong later, or be left out without a word.

    Raises:
        ValueError: accelerate does not shard here, FSDP1, or `--model-ema`.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "accelerate's configuration asks for FSDP, and accelerate shards nothing "
            f"in {accelerator.num_processes} process(es) on the "
            f"{accelerator.device.type}: take GPUs, or torchrun without that "
            "configuration, where each process has the whole network"
        )
    if not accelerator.is_fsdp2:
        raise ValueError(
            "accelerate's configuration asks for FSDP1, which takes the parameters "
            "away from the layers; write fsdp_version: 2 into its fsdp_config, as "
            "reference/configs/fsdp2.yaml does"
        )
    if args.model_ema:
        raise ValueError(
            "--model-ema averages whole networks, and FSDP leaves each process a part "
            "of one: leave the flag out, or launch without FSDP (--multi_gpu)"
        )


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, testing: Any
) -> tuple[nn.Module, Any, Any]:
    """What `accelerator.prepare` returns; with FSDP2 in a form that fits our networks.

    There, network and optimizer have to come in one call.
    """
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        # Every process has built the same network. accelerate's way of sending it
        # around fails on the buffers of batch norm (1.15).
        plugin.cpu_ram_efficient_loading = False
        # FSDP's own mixed precision rounds the images, of which the views are made
        # afterwards, and the weights of batch norm. Autocast does neither.
        plugin.mixed_precision_policy = None
        # The attachment returns rows of the output: nobody changes them in place here.
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view")
        if accelerator.native_amp:
            forward = accelerator.autocast()(model.forward)
            model.forward = convert_outputs_to_fp32(forward)
    return accelerator.prepare(model, optimizer, testing)
