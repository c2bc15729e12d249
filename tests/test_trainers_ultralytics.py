"""Ultralytics' classification trainer, attached to from one of its callbacks."""

import tempfile

import pytest
import torch
from PIL import Image
from test_trainers_loop import OPTIONS, trained

from dai_plugin import attach, attached

HOME = tempfile.TemporaryDirectory()  # for its settings file, else in the user's home
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("YOLO_CONFIG_DIR", HOME.name)
    patch.setenv("YOLO_OFFLINE", "true")
    classify = pytest.importorskip(
        "ultralytics.models.yolo.classify", reason="needs --group integrations"
    )

pytestmark = pytest.mark.filterwarnings("default")  # they warn of their own


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
    return tmp_path / "data"


@pytest.fixture
def trainer(folder, tmp_path):
    """Three epochs of three batches; no plots, which would ask for a font."""
    threads = torch.get_num_threads()
    yield classify.ClassificationTrainer(
        overrides={
            "model": "yolo11n-cls.yaml", "data": str(folder), "epochs": 3, "batch": 4,
            "imgsz": 32, "device": "cpu", "workers": 0, "amp": False, "plots": False,
            "project": str(tmp_path / "runs"), "pretrained": False, "verbose": False,
            "optimizer": "SGD", "nbs": 4,
        }
    )  # fmt: skip
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_ultralytics_classification(trainer):
    """loss=0: the model called with its batch returns a pair, the loss first."""
    losses = []
    trainer.add_callback(
        "on_pretrain_routine_end", lambda its: attach(its.model, loss=0, **OPTIONS)
    )
    trainer.add_callback(
        "on_train_batch_end", lambda its: losses.append(its.loss.item())
    )
    trainer.train()
    stats = trained(attached(trainer.model), 9)
    assert losses[-1] == pytest.approx(stats["total_loss"])
    assert attached(trainer.ema.ema) is None
    saved = torch.load(trainer.last, weights_only=False)
    assert list(saved["model"].state_dict()) == list(trainer.model.state_dict())
    assert attached(saved["model"]) is None
