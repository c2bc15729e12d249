"""train.py on FSDP2 and CPU processes, as accelerate runs it on GPUs.

accelerate 1.15 shards on accelerators alone. Here its state is told otherwise; all that
follows (preparation, `fully_shard`, clipping, checkpoints) is the real thing.
"""

import sys

from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState
from conftest import REFERENCE

sys.path.insert(0, str(REFERENCE))

import train
from faults import guarded
from torch.distributed.tensor import DTensor

import dai_plugin

_initialise, _assemble = AcceleratorState.__init__, train.assemble


def initialise(self, *args, fsdp_plugin=None, **kwargs):
    """As accelerate does it for several GPUs."""
    _initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is None:
        return
    self.fsdp_plugin = fsdp_plugin
    if self.mixed_precision != "no":
        fsdp_plugin.set_mixed_precision(self.mixed_precision)
    self.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def main():
    """The script's own, with a look at what it trained."""
    runs = []
    train.assemble = lambda *args: runs.append(_assemble(*args)) or runs[0]
    train.main(train.parse(sys.argv[1:]))
    (run,) = runs
    (group,) = run.optimizer.param_groups
    assert all(isinstance(p, DTensor) for p in group["params"])
    assert dai_plugin.attached(run.model) is run.attachment
    stats = run.attachment.stats()
    assert stats["forwards"] == stats["criterion_calls"] > 0
    assert stats["missed"] == 0


if __name__ == "__main__":
    AcceleratorState.__init__ = initialise
    sys.exit(guarded(main))
