"""Ultralytics' classification trainer, attached to from one of its callbacks.

In a process of its own: on import ultralytics exchanges functions of PIL and torch.
"""

import importlib.util
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from PIL import Image
from test_trainers_loop import OPTIONS, trained

from dai_plugin import attach, attached

if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("needs --group integrations", allow_module_level=True)


@pytest.fixture
def folder(tmp_path):
    """Four pictures of noise of each of three classes, to train and to validate."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for index in range(12):
            place = tmp_path / "data" / split / f"class{index % 3}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (32, 32, 3), generator=generator)
            picture = Image.fromarray(pixels.to(torch.uint8).numpy())
            picture.save(place / f"{index}.png")
    return tmp_path


def train(folder):
    """Three epochs of three batches; no plots, which would ask for a font.

    Returns:
        The attachment's `stats()`, the losses that the trainer saw, whether its average
        and its saved network are free of the plugin, and both networks' keys.
    """
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    from ultralytics.models.yolo.classify import ClassificationTrainer

    trainer = ClassificationTrainer(
        overrides={
            "model": "yolo11n-cls.yaml", "data": str(folder / "data"), "epochs": 3,
            "batch": 4, "imgsz": 32, "device": "cpu", "workers": 0, "amp": False,
            "plots": False, "project": str(folder / "runs"), "pretrained": False,
            "verbose": False, "optimizer": "SGD", "nbs": 4,
        }
    )  # fmt: skip
    losses = []
    trainer.add_callback(
        "on_pretrain_routine_end", lambda its: attach(its.model, loss=0, **OPTIONS)
    )
    trainer.add_callback(
        "on_train_batch_end", lambda its: losses.append(its.loss.item())
    )
    trainer.train()
    stats = trained(attached(trainer.model), 9)
    saved = torch.load(trainer.last, weights_only=False)["model"]
    free = attached(trainer.ema.ema) is None and attached(saved) is None
    return (
        stats,
        losses,
        free,
        list(saved.state_dict()),
        list(trainer.model.state_dict()),
    )


def test_ultralytics_classification(folder):
    """loss=0: the model called with its batch returns a pair, the loss first."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        stats, losses, free, saved, keys = pool.submit(train, folder).result()
    assert losses[-1] == pytest.approx(stats["total_loss"])
    assert free
    assert saved == keys
