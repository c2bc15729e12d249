"""Hugging Face's Trainer with a transformer and a convolutional network.

The one divides its loss by the count of images over all accumulated batches, which its
Trainer hands to both; the other takes the mean whatever it is given.
"""

import copy

import pytest
import torch
from test_trainers_loop import OPTIONS, trained
from torch.utils.data import Dataset

from dai_plugin import attach, attached, check

transformers = pytest.importorskip("transformers", reason="needs --group integrations")
pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


def vit():
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=32, image_size=16, patch_size=4, num_labels=3,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def resnet():
    torch.manual_seed(0)
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], num_labels=3,
            layer_type="basic",
        )
    )  # fmt: skip


NETWORKS = {"vit": vit, "resnet": resnet}


class Pictures(Dataset):
    """Images with labels, as its collator takes them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def noise():
    generator = torch.Generator().manual_seed(0)
    return Pictures(
        torch.rand(12, 3, 16, 16, generator=generator), torch.arange(12) % 3
    )


def run(net, folder, pictures, accumulation, batch_size=2, epochs=3, **options):
    """Its Trainer, images in order; returns the losses that it logs."""
    arguments = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=batch_size, num_train_epochs=epochs,
        gradient_accumulation_steps=accumulation, report_to=[], logging_steps=1,
        save_strategy="no", seed=0, learning_rate=1e-2, disable_tqdm=True,
        use_cpu=True, train_sampling_strategy="sequential", **options,
    )  # fmt: skip
    trainer = transformers.Trainer(net, arguments, train_dataset=pictures)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_hugging_face_trainer(tmp_path, name, accumulation):
    """The model's own loss, the terms in it with their full weight, weights moved."""
    net = NETWORKS[name]()
    before = copy.deepcopy(net.state_dict())
    attachment = attach(net, **OPTIONS)
    losses = run(net, tmp_path, noise(), accumulation)
    shared = accumulation if name == "vit" else 1
    stats = trained(attachment, 18, scale=1 / shared)
    assert len(losses) == 18 / accumulation
    if accumulation == 1:
        assert losses[-1] == pytest.approx(stats["total_loss"], abs=1e-4)
    assert any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert list(net.state_dict()) == list(before)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("share", "count"), [(1.0, 6), (0.5, 4)])
def test_hugging_face_without_terms_is_stock_on_the_rows(
    tmp_path, name, accumulation, share, count
):
    """alpha=0: the run is the stock Trainer's on the very rows, losses and weights."""
    net, images, labels = NETWORKS[name](), [], []
    attach(net, **OPTIONS | {"alpha": 0.0, "num_views": 3, "share": share})

    def keep(_, args, kwargs):
        if torch.is_grad_enabled():  # else a look at sizes, which trains nothing
            images.append(kwargs["pixel_values"].clone())
            labels.append(kwargs["labels"].clone())

    net.register_forward_pre_hook(keep, with_kwargs=True)
    losses = run(net, tmp_path / "ours", noise(), accumulation)
    assert {len(rows) for rows in (*images, *labels)} == {count}
    assert len(images) == attached(net).stats()["criterion_calls"] == 18
    assert attached(net).stats()["missed"] == 0
    rows, stock = Pictures(torch.cat(images), torch.cat(labels)), NETWORKS[name]()
    expected = run(stock, tmp_path / "stock", rows, accumulation, count, epochs=1)
    assert losses == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for ours, theirs in zip(net.parameters(), stock.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_hugging_face_one_view_is_the_stock_run(tmp_path, name, accumulation):
    """num_views=1, alpha=0: its Trainer logs the same losses, to the bit."""
    stock, net = NETWORKS[name](), NETWORKS[name]()
    attach(net, num_views=1, alpha=0.0, scheme=lambda x: x, mean=0.0, std=1.0)
    expected = run(stock, tmp_path / "stock", noise(), accumulation)
    assert run(net, tmp_path / "ours", noise(), accumulation) == expected


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_hugging_face_steps_without_views_are_the_stock_run(
    tmp_path, name, accumulation
):
    """every=k, before views are due: the same losses, to the bit."""
    stock, net = NETWORKS[name](), NETWORKS[name]()
    attachment = attach(net, **OPTIONS | {"every": 100})
    attachment.load_state_dict({**attachment.state_dict(), "step": 1})
    expected = run(stock, tmp_path / "stock", noise(), accumulation)
    assert run(net, tmp_path / "ours", noise(), accumulation) == expected
    assert attachment.stats()["stock"] == 18


def test_hugging_face_accumulation_keeps_the_weight_of_the_terms(tmp_path):
    """With alpha = 1 the logged loss is a mean of ratios, however it is accumulated."""
    means = []
    for accumulation in (1, 3):
        net = vit()
        attach(net, **OPTIONS | {"alpha": 1.0})
        options = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        losses = run(net, tmp_path, noise(), accumulation, **options)
        means.append(losses[0])
    assert 0 < means[0] < 1
    assert means[1] == pytest.approx(means[0], rel=0.5)


def test_hugging_face_checkpointing_keeps_the_run(tmp_path):
    """Blocks recomputed in the backward: the same losses, the same weights."""
    found = []
    for checkpointing in (False, True):
        net = vit()
        attachment = attach(net, **OPTIONS)
        options = {"gradient_checkpointing": checkpointing}
        losses = run(net, tmp_path, noise(), 1, **options)
        trained(attachment, 18)
        found.append((losses, [p.detach() for p in net.parameters()]))
    (kept, weights), (recomputed, others) = found
    assert recomputed == pytest.approx(kept, rel=1e-3, abs=1e-4)
    for ours, theirs in zip(weights, others, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_hugging_face_tuples(tmp_path):
    """loss=0: a model that returns tuples has its loss first."""
    net = resnet()
    net.config.return_dict = False
    attachment = attach(net, loss=0, **OPTIONS)
    losses = run(net, tmp_path, noise(), 1)
    assert losses[-1] == pytest.approx(trained(attachment, 18)["total_loss"], abs=1e-4)


def test_hugging_face_label_smoothing_is_told(tmp_path):
    """Its Trainer takes that loss itself, outside of the model: the message says so."""
    net = vit()
    attach(net, **OPTIONS)
    with pytest.raises(TypeError, match="labels"):
        run(net, tmp_path, noise(), 1, label_smoothing_factor=0.1)


def test_hugging_face_segmentation():
    """SegFormer's own loss ignores 255, which its labels hold outside the image."""
    torch.manual_seed(0)
    net = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            num_encoder_blocks=2, depths=[1, 1], sr_ratios=[1, 1], hidden_sizes=[8, 16],
            patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2],
            mlp_ratios=[2, 2], decoder_hidden_size=8, num_labels=3,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            classifier_dropout_prob=0.0, drop_path_rate=0.0,
        )
    )  # fmt: skip
    batch = {
        "pixel_values": torch.rand(4, 3, 16, 16),
        "labels": torch.randint(3, (4, 16, 16)),
    }
    found = check(net, None, batch, **OPTIONS)
    assert found.ok, str(found)
    assert "255 outside the image" in found.targets["labels"]
