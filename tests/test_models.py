"""--model and --weights: every form in which a network comes, and every refusal."""

import argparse
import json
import sys
import warnings
import zipfile

import pytest
import torch
import torchvision
from conftest import SmallNet
from torch import nn

from dai_plugin.cli.models import load_model

TEN = {"num_classes": 10}


def same(model, other):
    theirs = other.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in model.state_dict().items())


@pytest.fixture
def python_file(tmp_path):
    """Writes a file with a function `net`; gives FILE.py:net."""

    def write(code):
        path = tmp_path / "nets.py"
        imports = "import torch, torchvision\nfrom torch import nn\n"
        path.write_text(f"{imports}def net(**options): {code}\n")
        return f"{path}:net"

    return write


@pytest.fixture
def resnet(tmp_path):
    """A ResNet-18 of ten classes, and a folder to put it into."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(**TEN)


def test_names_of_torchvision_in_any_capitals():
    """With the sizes of the weights that are taken or would be."""
    loaded = load_model("ResNet18", options=TEN)
    assert type(loaded.model).__name__ == "ResNet"
    assert (loaded.name, loaded.trained) == ("resnet18", False)
    assert (loaded.resize, loaded.crop) == (256, 224)
    assert loaded.normalization.mean == pytest.approx((0.485, 0.456, 0.406))
    assert load_model("efficientnet_b1", options=TEN).crop == 240


def test_a_checkpoint_brings_arguments_sizes_and_statistics(tmp_path):
    """As the training script writes them."""
    net = torchvision.models.resnet18(num_classes=7)
    content = {
        "model": net.state_dict(), "model_args": {"num_classes": 7},
        "mean": [0.5], "std": [0.2], "resize": 40, "crop": 32,
    }  # fmt: skip
    torch.save(content, tmp_path / "model.pth")
    loaded = load_model("resnet18", weights=str(tmp_path / "model.pth"))
    assert same(loaded.model, net)
    assert loaded.trained
    assert (loaded.resize, loaded.crop) == (40, 32)
    assert (loaded.normalization.mean, loaded.normalization.std) == ((0.5,), (0.2,))


def test_weights_called_mean_are_no_statistics(python_file, tmp_path):
    """Networks that normalise their images themselves have such buffers."""
    source = python_file(
        "m = nn.Conv2d(3, 4, 3); m.register_buffer('mean', torch.rand(3, 1, 1)); "
        "m.register_buffer('std', torch.rand(3, 1, 1)); return m"
    )
    torch.save(load_model(source).model.state_dict(), tmp_path / "state.pth")
    loaded = load_model(source, weights=str(tmp_path / "state.pth"))
    assert loaded.normalization.none


@pytest.mark.parametrize(
    ("beside", "options"),
    [
        ({"args": argparse.Namespace(model="resnet18")}, TEN),
        ({"arguments": {"model": "resnet18", "classes": 10}}, {}),
        ({"arch": "resnet18", "optimizer": {"state": {}}}, TEN),
    ],
    ids=["torchvision's script", "train.py", "the ImageNet example"],
)
def test_a_checkpoint_that_names_its_network_is_a_model(
    beside, options, resnet, tmp_path
):
    """--model FILE alone."""
    torch.save({"state_dict": resnet.state_dict(), **beside}, tmp_path / "file.pth")
    loaded = load_model(str(tmp_path / "file.pth"), options=options)
    assert same(loaded.model, resnet)
    assert loaded.trained


def test_a_checkpoint_of_a_network_with_code_elsewhere(tmp_path):
    """The file says its name; its code is the user's."""
    content = {"model": SmallNet().state_dict(), "arguments": {"model": "allcnn"}}
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(
        ValueError, match=r"weights of 'allcnn', which .*--model \(FILE"
    ):
        load_model(str(tmp_path / "checkpoint.pth"))


def test_whole_networks_need_trust(tmp_path):
    """Refused with the reason before anything runs; with trust they are loaded."""
    net = SmallNet()
    torch.save(net, tmp_path / "net.pt")
    torch.save({"model": net, "epoch": 1}, tmp_path / "inside.pt")
    for name in ("net.pt", "inside.pt"):
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match=r"a whole network \(conftest.SmallNet\)"):
            load_model(path)
        with pytest.raises(ValueError, match=r"run whatever code it names.*--trust"):
            load_model(path)
        loaded = load_model(path, trust=True)
        assert same(loaded.model, net)
        assert loaded.name == name.removesuffix(".pt")


def test_several_networks_in_a_file(tmp_path):
    """The documented one, else --key."""
    one, two = SmallNet(), SmallNet(classes=7)
    torch.save({"model": one, "ema": two}, tmp_path / "both.pt")
    torch.save({"teacher": one, "student": two}, tmp_path / "pair.pt")
    both, pair = str(tmp_path / "both.pt"), str(tmp_path / "pair.pt")
    assert same(load_model(both, trust=True).model, one)
    assert same(load_model(both, key="ema", trust=True).model, two)
    with pytest.raises(ValueError, match=r"'teacher' \(SmallNet\).*say which with --k"):
        load_model(pair, trust=True)
    assert same(load_model(pair, key="student", trust=True).model, two)


def test_scripts_need_trust_and_programs_are_refused(tmp_path):
    """TorchScript is code; torch.export has neither layers nor free batches."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        torch.jit.script(net).save(tmp_path / "script.pt")
        with pytest.raises(ValueError, match=r"TorchScript, a program: .*--trust"):
            load_model(str(tmp_path / "script.pt"))
        script = load_model(str(tmp_path / "script.pt"), trust=True).model
        with zipfile.ZipFile(tmp_path / "broken.pt", "w") as archive:
            archive.writestr("broken/constants.pkl", b"")
        with pytest.raises(ValueError, match=r"broken.pt cannot be loaded \(RuntimeE"):
            load_model(str(tmp_path / "broken.pt"), trust=True)
    assert torch.equal(script(torch.ones(2, 3, 8, 8)), net(torch.ones(2, 3, 8, 8)))
    program = torch.export.export(net, (torch.rand(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "program.pt2")
    with pytest.raises(ValueError, match=r"neither layers to look at nor batches"):
        load_model(str(tmp_path / "program.pt2"), trust=True)
    with pytest.raises(ValueError, match=r"a network, as torch.export writes it: give"):
        load_model("resnet18", weights=str(tmp_path / "program.pt2"))


def test_files_that_hold_no_network(tmp_path, resnet):
    """Each says where it belongs, or what is wrong."""
    torch.save(SmallNet().state_dict(), tmp_path / "state.pth")
    for trust in (False, True):
        with pytest.raises(ValueError, match=r"weights and no network: give it to --w"):
            load_model(str(tmp_path / "state.pth"), trust=trust)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pth holds no weights"):
        load_model(str(tmp_path / "text.pth"))
    with pytest.raises(ValueError, match=r"text.pth cannot be loaded .*code of its cl"):
        load_model(str(tmp_path / "text.pth"), trust=True)
    with pytest.raises(
        ValueError, match=r"the file no/such.pth of --model does not ex"
    ):
        load_model("no/such.pth")
    with pytest.raises(ValueError, match=r"weights file no/such.pth does not exist"):
        load_model("resnet18", weights="no/such.pth")


WRONG = {
    "detection": ("fasterrcnn_resnet50_fpn", "finds boxes in lists of images"),
    "video": ("r3d_18", "takes videos"),
    "flow": ("raft_small", "takes pairs of images"),
    "quantised": ("quantized_resnet18", "is quantised"),
    "misspelt": ("resnt18", "neither a file nor a name of torchvision; nearest: resn"),
    "nothing": ("", "no model ''"),
}


@pytest.mark.parametrize(("source", "message"), WRONG.values(), ids=WRONG)
def test_networks_that_are_not_measured(source, message, monkeypatch):
    """By name, before anything is downloaded or built."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    monkeypatch.setattr(nn.Module, "__init__", lambda *_: pytest.fail("built"))
    for weights in (None, "DEFAULT"):
        with pytest.raises(ValueError, match=message):
            load_model(source, weights=weights)


def test_segmentation_is_built_without_a_download(monkeypatch):
    """It takes trained backbones unless it is told not to."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", pytest.fail)
    loaded = load_model("lraspp_mobilenet_v3_large")
    assert not loaded.trained


def test_names_of_torchvisions_weights(monkeypatch, resnet):
    """Long, short, DEFAULT; others are listed; no download says what to fetch."""
    asked = []

    def fetch(url, *_, **__):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    kinds = torchvision.models.ResNet50_Weights
    for name, kind in {
        "IMAGENET1K_V1": kinds.IMAGENET1K_V1,
        "ResNet50_Weights.IMAGENET1K_V1": kinds.IMAGENET1K_V1,
        "DEFAULT": kinds.IMAGENET1K_V2,
    }.items():
        with pytest.raises(OSError, match=r"cannot be downloaded from https") as caught:
            load_model("resnet50", weights=name)
        assert asked.pop() == kind.url
        assert f"--weights {kind.url.rpartition('/')[2]}" in str(caught.value)
    for name in ("IMAGENET1K_V3", "ResNet18_Weights.IMAGENET1K_V1"):
        with pytest.raises(ValueError, match=r"resnet50: DEFAULT, IMAGENET1K_V1, IMAG"):
            load_model("resnet50", weights=name)
    assert not asked


def test_other_networks_have_no_named_weights(python_file):
    """What stands there is neither a file nor a name."""
    for weights in ("DEFAULT", "IMAGENET1K_V1"):
        with pytest.raises(
            ValueError, match=f"--weights {weights}: there is no such f"
        ):
            load_model(python_file("return nn.Conv2d(3, 4, 3)"), weights=weights)


def test_functions_in_files(python_file):
    """Their arguments are given; what is no network is refused."""
    source = python_file("return nn.Conv2d(options['channels'], 4, 3)")
    loaded = load_model(source, options={"channels": 4})
    assert loaded.channels == 4
    assert loaded.name == "net"
    with pytest.raises(
        ValueError, match=r"returns a int; give a function that returns"
    ):
        load_model(python_file("return 3"))
    with pytest.raises(ValueError, match=r"nn is no function|nets.py:nn"):
        load_model(python_file("return 3").replace(":net", ":nn"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_measured_in_float32(dtype, python_file, tmp_path, caplog):
    """Half weights exactly, whether the network or the file holds them."""
    word = str(dtype).removeprefix("torch.")
    source = python_file(
        "torch.manual_seed(0); return nn.Sequential(nn.Conv2d(3, 4, 3), "
        f"nn.BatchNorm2d(4)).to(torch.{word})"
    )
    model = load_model(source).model
    assert f"is of {word}: measured in float32" in caplog.text
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.eval()(torch.rand(2, 3, 8, 8)).dtype == torch.float32
    state = {k: v.to(dtype) if v.dim() else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "state.pth")
    again = load_model(source, weights=str(tmp_path / "state.pth")).model
    assert same(again, model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path, resnet):
    """The first such tensor by name, and how many others."""
    resnet.layer3[0].conv1.weight.data[0, 0, 0, 0] = value
    resnet.fc.bias.data.fill_(value)
    torch.save(resnet.state_dict(), tmp_path / "state.pth")
    with pytest.raises(
        ValueError,
        match=r"NaN or infinite weights: layer3.0.conv1.weight is the first of 2 such",
    ):
        load_model("resnet18", weights=str(tmp_path / "state.pth"), options=TEN)


def test_buffers_may_mask_but_not_be_broken(python_file):
    """Minus infinity is what masks of attention hold."""
    code = (
        "m = nn.Conv2d(3, 4, 3); "
        "m.register_buffer('mask', torch.tensor([0., -torch.inf])); return m"
    )
    load_model(python_file(code))
    with pytest.raises(ValueError, match=r"net has NaN or infinite weights: mask is"):
        load_model(python_file(code.replace("-torch.inf", "torch.nan")))


def test_networks_that_take_their_size_from_the_first_images(python_file):
    """Lazy layers have no weights to be checked yet."""
    load_model(python_file("return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())"))


def test_quantised_networks_are_refused(python_file, tmp_path):
    """By the first such layer."""
    code = (
        "m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)); "
        "return torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, torch.qint8)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates it
        with pytest.raises(ValueError, match=r"net is quantised \(its 2"):
            load_model(python_file(code))
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
        torch.save(net, tmp_path / "net.pt")
        with pytest.raises(ValueError, match=r"net.pt holds a quantised network"):
            load_model(str(tmp_path / "net.pt"), trust=True)


def test_networks_for_videos_are_refused_whoever_builds_them(python_file):
    """Their first convolution tells."""
    with pytest.raises(ValueError, match=r"net takes videos or volumes .*Conv3d"):
        load_model(python_file("return nn.Sequential(nn.Conv3d(3, 4, 3))"))


def test_statistics_that_the_images_cannot_carry(tmp_path, python_file, caplog):
    """Three means for a grey network are none."""
    source = python_file("return nn.Conv2d(1, 4, 3)")
    state = load_model(source).model.state_dict()
    torch.save(
        {"model": state, "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
        tmp_path / "grey.pth",
    )
    loaded = load_model(source, weights=str(tmp_path / "grey.pth"))
    assert loaded.normalization.none
    assert "takes images of 1 channels, which cannot carry mean (0.1" in caplog.text


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    """Of those that are no dependency."""
    for module, source in {"timm": "timm/resnet18", "transformers": "a/b"}.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install 'dai-plugin\["):
            load_model(source)


def test_networks_of_timm(tmp_path):
    """Name, arguments, sizes and statistics of its configuration; files of weights."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    loaded = load_model("timm/resnet18.a1_in1k", options=TEN)
    assert (loaded.name, loaded.trained) == ("timm/resnet18.a1_in1k", False)
    config = timm.data.resolve_model_data_config(loaded.model)
    assert loaded.crop == config["input_size"][-1]
    assert loaded.resize == int(loaded.crop / config["crop_pct"])
    assert loaded.normalization.mean == pytest.approx(config["mean"])
    vit = load_model("timm/vit_tiny_patch16_224", options={"img_size": 32, **TEN})
    assert (vit.crop, vit.normalization.mean) == (32, (0.5, 0.5, 0.5))
    assert vit.model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    net = timm.create_model("resnet18", **TEN)
    torch.save({"state_dict": net.state_dict(), "arch": "resnet18"}, tmp_path / "t.pth")
    again = load_model("timm/resnet18", weights=str(tmp_path / "t.pth"), options=TEN)
    assert same(again.model, net)
    grey = load_model("timm/resnet18", options={"in_chans": 1})
    assert grey.channels == 1
    assert grey.normalization.none


def test_wrong_names_of_timm():
    """The nearest; a name without timm/ is told; no weights are said to be none."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(
        ValueError, match=r"no network 'resnt50d'; nearest: .*resnet50d"
    ):
        load_model("timm/resnt50d")
    with pytest.raises(ValueError, match=r"timm has it: --model timm/resnet50d"):
        load_model("resnet50d")
    names = timm.list_models()
    bare = next(n for n in names if not timm.get_pretrained_cfg(n).has_weights)
    with pytest.raises(ValueError, match=f"timm has no weights of {bare}"):
        load_model(f"timm/{bare}", weights="DEFAULT")


@pytest.fixture
def hub(tmp_path):
    """Saves networks of transformers as it does itself; gives the folder."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed"
    )

    def save(kind="ForImageClassification", processing=None, dtype=None, **options):
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5,
            layer_type="basic", **options,
        )  # fmt: skip
        torch.manual_seed(0)
        model = getattr(transformers, f"ResNet{kind}")(config).to(dtype)
        model.save_pretrained(tmp_path / "hub")
        if processing is not None:
            path = tmp_path / "hub" / "preprocessor_config.json"
            path.write_text(json.dumps(processing))
        return model, tmp_path / "hub"

    return save


def test_a_folder_of_hugging_face(hub):
    """Weights, classes, and what the preprocessor does to images."""
    processing = {
        "do_normalize": True, "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6], "size": {"shortest_edge": 80},
        "do_center_crop": True, "crop_size": {"height": 64, "width": 64},
    }  # fmt: skip
    model, folder = hub(processing=processing)
    loaded = load_model(str(folder))
    assert same(loaded.model, model)
    assert (loaded.name, loaded.trained) == ("hub", True)
    assert (loaded.resize, loaded.crop) == (80, 64)
    assert loaded.normalization.mean == pytest.approx((0.1, 0.2, 0.3))
    assert loaded.normalization.std == pytest.approx((0.4, 0.5, 0.6))
    assert loaded.model(torch.zeros(2, 3, 32, 32)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("processing", "sizes"),
    [
        ({"size": {"height": 48, "width": 48}}, (48, 48)),
        ({"size": 48, "crop_size": 32, "do_center_crop": False}, (48, 48)),
        ({"size": {"shortest_edge": 56}, "crop_pct": 0.875}, (64, 56)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),
        (None, (224, 224)),
    ],
)
def test_sizes_of_preprocessors(processing, sizes, hub):
    """Of several generations; ConvNeXt's share counts below its largest size."""
    _, folder = hub(processing=processing)
    loaded = load_model(str(folder))
    assert (loaded.resize, loaded.crop) == sizes
    assert loaded.normalization.none


def test_weights_beside_a_folder_of_hugging_face(hub, tmp_path):
    """A file takes the place of the folder's; its model.safetensors is one itself."""
    model, folder = hub()
    for parameter in model.parameters():
        parameter.data += 1
    torch.save({"state_dict": model.state_dict()}, tmp_path / "more.pth")
    more = load_model(str(folder), weights=str(tmp_path / "more.pth"))
    assert same(more.model, model)
    own = load_model(str(folder), weights=str(folder / "model.safetensors"))
    assert same(own.model, load_model(str(folder)).model)
    (folder / "model.safetensors").unlink()
    assert not load_model(str(folder)).trained


def test_half_networks_of_hugging_face(hub, caplog):
    """Saved in half, measured in float32."""
    model, folder = hub(dtype=torch.float16)
    loaded = load_model(str(folder))
    assert same(loaded.model, model.float())
    assert "is of float16: measured in float32" in caplog.text


def test_networks_without_a_head(hub):
    """They give features, whose layers can be measured."""
    model, folder = hub(kind="Model")
    assert same(load_model(str(folder)).model, model)


def edited(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


def test_networks_of_hugging_face_that_are_refused(hub, capfd):
    """By what config.json says, before anything is built."""
    _, folder = hub()
    source = str(folder)
    with pytest.raises(ValueError, match=r"lack 2 tensors of this ResNetForImageClass"):
        load_model(source, options={"num_labels": 7})
    assert "LOAD REPORT" not in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"configuration of .* has no colours to c"):
        load_model(source, options={"colours": 7})
    edited(folder, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match=r"is quantised: measures need"):
        load_model(source)
    edited(folder, quantization_config=None, architectures=["XForObjectDetection"])
    with pytest.raises(ValueError, match=r"network for ObjectDetection \(resnet\)"):
        load_model(source)
    edited(folder, architectures=["XForVideoClassification"])
    with pytest.raises(ValueError, match=r"network for Video \(resnet\)"):
        load_model(source)
    edited(folder, architectures=["BertModel"], model_type="bert")
    with pytest.raises(ValueError, match=r"takes input_ids, no images \(bert\)"):
        load_model(source)


CODE = """
import torch, transformers
class MineConfig(transformers.PretrainedConfig):
    model_type = "mine"
class Mine(transformers.PreTrainedModel):
    config_class = MineConfig
    def __init__(self, config):
        super().__init__(config)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.post_init()
    def forward(self, pixel_values): return self.conv(pixel_values)
"""


def test_code_beside_the_weights_needs_trust(hub, tmp_path, monkeypatch):
    """It would run with the user's rights."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    _, folder = hub()
    (folder / "model.safetensors").unlink()
    (folder / "mine.py").write_text(CODE)
    maps = {"AutoConfig": "mine.MineConfig", "AutoModel": "mine.Mine"}
    edited(folder, model_type="mine", architectures=["Mine"], auto_map=maps)
    with pytest.raises(ValueError, match=r"brings Python code of its own.*add --trust"):
        load_model(str(folder))
    assert type(load_model(str(folder), trust=True).model).__name__ == "Mine"


def test_folders_and_names_that_are_not_there(tmp_path, monkeypatch):
    """Neither a configuration nor a connection."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"the folder .* of --model holds no config.json"):
        load_model(str(tmp_path))
    with pytest.raises(
        OSError, match=r"nobody/nothing is no folder, and cannot be fet"
    ):
        load_model("nobody/nothing")
