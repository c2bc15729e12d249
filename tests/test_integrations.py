"""timm's networks and Lightning's Trainer: the real packages.

Optional: `pip install --group integrations`; `make test-all` and CI have them. Other
trainers have a file `test_trainers_*.py` each.
"""

import pytest
import torch
from test_any_network import one_step
from test_trainers_loop import OPTIONS, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dai_plugin import attach, attached

timm = pytest.importorskip("timm", reason="needs pip install --group integrations")
timm_loss, timm_utils = (pytest.importorskip(f"timm.{n}") for n in ("loss", "utils"))
lightning = pytest.importorskip("lightning", reason="needs --group integrations")

pytestmark = [
    # These packages warn of their own dependencies; that is not what is tested here.
    pytest.mark.filterwarnings("default"),
]

FAMILIES = [
    "resnet18", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224",
    "mixer_s32_224", "densenet121", "mobilenetv3_small_050",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_families(name):
    """One step with "auto" layers, at the size that the network was made for."""
    size = 224 if "224" in name else 64
    one_step(timm.create_model(name, num_classes=5), size)


def test_timm_configuration_and_ema(batch):
    """Its own mean and std are taken; its EMA and its mixup loss work beside it."""
    images, targets = batch
    net = timm.create_model("resnet10t", num_classes=5)
    criterion = timm_loss.SoftTargetCrossEntropy()
    attachment = attach(net, criterion, num_views=2, alpha=0.4)
    ema = timm_utils.ModelEmaV3(net, decay=0.5)
    mean, std = (
        torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std")
    )
    images = (images - mean) / std
    soft = nn.functional.one_hot(targets, 5).float()
    criterion(net(images), soft).backward()
    ema.update(net)
    assert attachment.state_dict()["mean"] == list(net.pretrained_cfg["mean"])
    assert attached(ema.module) is None
    assert attachment.stats()["missed"] == 0


class Lit(lightning.LightningModule):
    """A module whose network is attached to, as its users do in __init__."""

    def __init__(self, net):
        super().__init__()
        self.net, self.criterion = net, nn.CrossEntropyLoss()

    def training_step(self, batch, _):
        images, targets = batch
        output = self.net(images)
        assert len(output) == len(targets)
        return self.criterion(output, targets)

    def validation_step(self, batch, _):
        self.log("val", self.criterion(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trainer(net, loader, tmp_path, precision):
    """Training, validation and a checkpoint of stock keys."""
    module = Lit(net)
    keys = list(module.state_dict())
    attachment = attach(module.net, module.criterion, **OPTIONS)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", precision=precision, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=2, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader, DataLoader(TensorDataset(*next(iter(loader)))))
    trained(attachment, 6)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert list(saved["state_dict"]) == keys
