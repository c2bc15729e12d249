"""Weight decay by kind of parameter, as torchvision has it; frozen parameters."""

import pytest
import torch
from conftest import REFERENCE, SmallNet
from torch import nn
from torchvision.models import get_model

NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
TRANSFORMER = ("class_token", "position_embedding", "relative_position_bias_table")
WD, NORM, BIAS, EMBEDDING = 0.5, 0.1, 0.2, 0.3
KINDS = {
    "--norm-weight-decay": NORM,
    "--bias-weight-decay": BIAS,
    "--transformer-embedding-decay": EMBEDDING,
}


@pytest.fixture
def parameters(monkeypatch):
    monkeypatch.syspath_prepend(str(REFERENCE))
    import parameters

    return parameters


def literal(model, given):
    """The weight decay of each parameter by its name, torchvision's rule in words."""
    expected = {}
    for name, _ in model.named_parameters():
        path, _, last = name.rpartition(".")
        in_norm = isinstance(model.get_submodule(path), NORMS)
        if last == "bias" and "--bias-weight-decay" in given:
            expected[name] = BIAS
        elif last in TRANSFORMER and "--transformer-embedding-decay" in given:
            expected[name] = EMBEDDING
        elif in_norm and "--norm-weight-decay" in given:
            expected[name] = NORM
        else:
            expected[name] = WD
    return expected


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t"])
@pytest.mark.parametrize(
    "given",
    [
        (),
        ("--norm-weight-decay",),
        ("--bias-weight-decay", "--norm-weight-decay"),
        ("--transformer-embedding-decay",),
        tuple(KINDS),
    ],
    ids=len,
)
def test_decay_groups_are_those_of_torchvision(parameters, name, given):
    """Each parameter once, in as many groups as there are decays."""
    from flags import parse
    from optimization import build_optimizer

    with torch.device("meta"):
        model = get_model(name)
    arguments = [x for flag in given for x in (flag, str(KINDS[flag]))]
    args = parse(["--wd", str(WD), *arguments])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, args)
    found = [
        (names[id(parameter)], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(names)
    assert dict(found) == literal(model, given)


def test_a_shared_parameter_is_updated_once(parameters):
    """Two layers with one weight: torch refuses it twice."""
    from flags import parse

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    (group,) = parameters.decay_groups(model, parse([]))
    assert len(group["params"]) == 3


def test_freezing(parameters):
    """Names and patterns; the rest is trained, the optimizer has nothing else."""
    from flags import parse

    net = SmallNet()
    assert parameters.freeze(net, ["features.0.*", "classifier.bias"]) == 3
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {
        "features.1.weight",
        "features.1.bias",
        "features.3.weight",
        "features.3.bias",
        "classifier.weight",
    }
    (group,) = parameters.decay_groups(net, parse([]))
    assert len(group["params"]) == 5


def test_freezing_what_is_not_there(parameters):
    """The nearest names stand in the message; so does that nothing is left."""
    with pytest.raises(ValueError, match=r"'classifer\.\*' matches .*: classifier\."):
        parameters.freeze(SmallNet(), ["classifer.*"])
    with pytest.raises(ValueError, match=r"--freeze feat\* c\* leaves none of 8 "):
        parameters.freeze(SmallNet(), ["feat*", "c*"])
