"""Hugging Face's Trainer, Lightning's Trainer, timm's networks: the real packages.

Optional: `pip install --group integrations`; `make test-all` and CI have them.
"""

import copy

import pytest
import torch
from test_any_network import one_step
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dai_plugin import attach, attached

timm = pytest.importorskip("timm", reason="needs pip install --group integrations")
timm_loss, timm_utils = (pytest.importorskip(f"timm.{n}") for n in ("loss", "utils"))
lightning = pytest.importorskip("lightning", reason="needs --group integrations")
transformers = pytest.importorskip("transformers", reason="needs --group integrations")

OPTIONS = {"num_views": 2, "alpha": 0.4, "seed": 7, "mean": 0.0, "std": 1.0}
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
    soft = nn.functional.one_hot(targets, 5).float()
    criterion(net(images), soft).backward()
    ema.update(net)
    assert attachment.state_dict()["mean"] == list(net.pretrained_cfg["mean"])
    assert attached(ema.module) is None
    assert attachment.stats()["missed"] == 0


def vit():
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, image_size=16, patch_size=4, num_labels=3,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


class Pictures(Dataset):
    """Noise with labels, as Hugging Face's collator takes it."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(12, 3, 16, 16, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": index % 3}


def hugging_face(net, tmp_path, accumulation, **options):
    """Three epochs of its Trainer; returns the mean losses that it logs."""
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, num_train_epochs=3, use_cpu=True,
        gradient_accumulation_steps=accumulation, report_to=[], logging_steps=1,
        save_strategy="no", seed=0, learning_rate=1e-3, disable_tqdm=True,
        max_grad_norm=0.0, **options,
    )  # fmt: skip
    trainer = transformers.Trainer(net, arguments, train_dataset=Pictures())
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_hugging_face_trainer(tmp_path, accumulation):
    """The model's own loss: every forward counted, layers trained, weights moved."""
    net = vit()
    before = copy.deepcopy(net.state_dict())
    attachment = attach(net, **OPTIONS)
    losses = hugging_face(net, tmp_path, accumulation)
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (18, 18, 0)
    assert len(stats["layers"]) == 3
    assert len(losses) == 18 / accumulation
    assert any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert list(net.state_dict()) == list(before)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_hugging_face_one_view_is_the_stock_run(tmp_path, accumulation):
    """num_views=1, alpha=0: its Trainer logs the same losses, to the bit."""
    stock, net = vit(), vit()
    attach(net, num_views=1, alpha=0.0, scheme=lambda x: x, mean=0.0, std=1.0)
    expected = hugging_face(stock, tmp_path / "stock", accumulation)
    assert hugging_face(net, tmp_path / "ours", accumulation) == expected


def test_hugging_face_accumulation_keeps_the_weight_of_the_terms(tmp_path):
    """With alpha = 1 the logged loss is a mean of ratios, however it is accumulated."""
    options = OPTIONS | {"alpha": 1.0}
    means = []
    for accumulation in (1, 3):
        net = vit()
        attach(net, **options)
        losses = hugging_face(net, tmp_path, accumulation, lr_scheduler_type="constant")
        means.append(losses[0])
    assert 0 < means[0] < 1
    assert means[1] == pytest.approx(means[0], rel=0.5)


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
    stats = attachment.stats()
    assert (stats["forwards"], stats["criterion_calls"], stats["missed"]) == (6, 6, 0)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert list(saved["state_dict"]) == keys
