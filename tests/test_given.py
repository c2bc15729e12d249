"""Views that the loader made are taken as they are."""

import copy
import logging

import oracle
import pytest
import torch
from conftest import SmallNet
from torch import nn
from torch.utils.data import DataLoader, Dataset

import dai_plugin
from dai_plugin import DataAugmentationInvariance, attach

PIXELS = {"scheme": "given", "mean": 0.0, "std": 1.0}
FORMS = {
    "list": lambda views: list(views),
    "tuple": lambda views: tuple(views),
    "one tensor": lambda views: torch.stack(views, 1),
}


@pytest.fixture
def views():
    return [torch.rand(4, 3, 12, 12) for _ in range(3)]


@pytest.fixture
def targets():
    return torch.tensor([0, 1, 4, 1])


def watched(net):
    """What reaches the first layer."""
    seen = []
    net.features[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach().clone())
    )
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_attach_takes_them_view_by_view(net, views, targets, form):
    """Rows are the views one after another; the caller gets the first given one."""
    stock = copy.deepcopy(net).train()
    seen = watched(net)
    net, criterion = attach(
        net, nn.CrossEntropyLoss(), num_views=3, alpha=0.0, **PIXELS
    )
    output = net(FORMS[form](views))
    assert torch.equal(seen[0], torch.cat(views))
    expected = stock(torch.cat(views))
    torch.testing.assert_close(output, expected[:4])
    loss = criterion(output, targets)
    task = nn.functional.cross_entropy(expected, targets.repeat(3))
    torch.testing.assert_close(loss, task)
    loss.backward()
    task.backward()
    for own, other in zip(net.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_explicit_form_takes_them(views, targets, form):
    """Rows and targets to match; the loss is the literal one of these rows."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    net(views[0])
    dai = DataAugmentationInvariance(net, num_views=3, layers="1", alpha=0.5, **PIXELS)
    rows, labels = dai.views(FORMS[form](views), targets)
    assert torch.equal(rows, torch.cat(views))
    assert torch.equal(labels, targets.repeat(3))
    task = nn.functional.cross_entropy(net(rows), labels)
    total = dai.loss(task)
    literal = oracle.invariance_loss(net[:2](rows), 3)
    torch.testing.assert_close(total.double(), 0.5 * task.double() + 0.5 * literal)
    total.backward()


def test_uint8_views_are_scaled(views):
    """As images are."""
    whole = [(view * 255).byte() for view in views]
    dai = DataAugmentationInvariance(SmallNet(), num_views=3, **PIXELS)
    rows = dai.views(whole)
    torch.testing.assert_close(rows, torch.cat(whole).float() / 255)
    dai.remove()


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("form", FORMS)
def test_each_view_decides_on_the_normalisation(views, place, form, caplog):
    """Values that no normalisation holds are told of, or refused, in any of them."""
    views[place] = views[place] * 255
    for given in ({"mean": 0.5, "std": 0.25}, {}):
        own = {"scheme": "given", "num_views": 3, **given}
        dai = DataAugmentationInvariance(SmallNet(), **own)
        if given:
            dai.views(FORMS[form](views))
            assert "do not carry mean" in caplog.text
        else:
            with pytest.raises(ValueError, match="look like 0 to 255"):
                dai.views(FORMS[form](views))
        dai.remove()


class Multimodal(nn.Module):
    """Images beside numbers, in a dict."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4 + 2, 5)

    def forward(self, batch, scale=None):
        pooled = self.features(batch["image"]).mean((2, 3))
        return self.head(torch.cat([pooled * scale[:, None], batch["numbers"]], 1))


def test_views_stand_anywhere_among_the_arguments(views):
    """In a dict, beside arguments of one row an image, which are repeated."""
    net = Multimodal()
    numbers, scale = torch.rand(4, 2), torch.rand(4)
    expected = net(
        {"image": torch.cat(views), "numbers": numbers.repeat(3, 1)}, scale.repeat(3)
    )
    net, criterion = attach(net, nn.CrossEntropyLoss(), num_views=3, **PIXELS)
    output = net({"image": views, "numbers": numbers}, scale=scale)
    torch.testing.assert_close(output, expected[:4])
    criterion(output, torch.zeros(4).long()).backward()


def test_evaluation_gets_the_call_of_the_loop(net, views):
    """Whatever it passes."""
    net, _ = attach(net, nn.CrossEntropyLoss(), num_views=3, **PIXELS)
    calls = []
    net.register_forward_pre_hook(lambda _, args: calls.append(args))
    net.eval()
    net(views[0])
    assert calls[0][0] is views[0]
    with pytest.raises(TypeError):
        net(views)  # a list is the network's own matter
    assert calls[1][0] is views


WRONG = {
    "number": (lambda v: v[:2], "the loader made 2 views of each image .*num_views=3"),
    "tensor": (lambda v: torch.stack(v[:2], 1), "made 2 views.*give num_views=2"),
    "sizes": (lambda v: [*v[:2], v[2][..., :8]], "different shapes.*12, 8"),
    "dtypes": (
        lambda v: [*v[:2], (v[2] * 255).byte()],
        "different dtypes.*float32, torch.float32, torch.uint8",
    ),
    "half": (lambda v: [v[0].half(), *v[1:]], "different dtypes.*float16"),
    "devices": (
        lambda v: [*v[:2], v[2].to("meta")],
        "different devices.*'cpu', 'meta'",
    ),
    "NaN": (lambda v: [*v[:2], v[2] / 0], "NaN or infinite"),
    "images": (lambda v: v[0], r"list of batches .*got \[4, 3, 12, 12\]"),
    "single": (lambda v: [x[0] for x in v], r"got \[+3, 12, 12\]"),
    "empty": (lambda v: [], "one batch"),
}


@pytest.mark.parametrize("form", ["attach", "explicit"])
@pytest.mark.parametrize("name", WRONG)
def test_other_batches_are_refused(net, views, name, form):
    """Both numbers, the shapes, and what is wanted."""
    make, message = WRONG[name]
    if form == "attach":
        net, _ = attach(net, nn.CrossEntropyLoss(), num_views=3, **PIXELS)
        call = net
    else:
        call = DataAugmentationInvariance(net, num_views=3, **PIXELS).views
    with pytest.raises(ValueError, match=message):
        call(make(views))


def test_two_sets_of_views_are_refused(net, views):
    """Neither is guessed."""
    net, _ = attach(net, nn.CrossEntropyLoss(), num_views=3, **PIXELS)
    with pytest.raises(ValueError, match="once among its arguments"):
        net(views, views)


def test_without_the_word_the_message_names_it(net, views):
    """For lists, five dimensions, and the explicit form."""
    net, _ = attach(net, nn.CrossEntropyLoss(), mean=0.0, std=1.0)
    for batch in (views, torch.stack(views, 1)):
        with pytest.raises(ValueError, match='scheme="given"'):
            net(batch)
    dai_plugin.attached(net).remove()
    dai = DataAugmentationInvariance(net, mean=0.0, std=1.0)
    with pytest.raises(TypeError, match=r'got a list.*scheme="given"'):
        dai.views(views)


def test_scores_need_a_scheme_that_makes_views(net, views):
    """There are no views in a folder of images."""
    with pytest.raises(ValueError, match='scheme="given" takes the views'):
        dai_plugin.invariance_scores(net, views[0], scheme="given")


def test_dense_targets_are_refused(net, views):
    """Nothing is known of where the loader moved pixels to."""
    dai = DataAugmentationInvariance(net, num_views=3, **PIXELS)
    with pytest.raises(ValueError, match="belong to pixels"):
        dai.views(views, torch.zeros(4, 12, 12))


def test_check_shows_the_first_view(views, targets, net):
    """A dry run takes the same batches."""
    for form in FORMS.values():
        found = dai_plugin.check(
            net, nn.CrossEntropyLoss(), (form(views), targets), num_views=3, **PIXELS
        )
        assert found.ok
        assert found.repeated == {"images": [2, 3, 12, 12]}


class TwoViews(Dataset):
    """As SimCLR's loaders give them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = torch.full((3, 12, 12), index / 12)
        return [image + 0.1 * torch.rand(3, 12, 12) for _ in range(2)], index % 5


def test_a_loader_of_views_trains(net, caplog):
    """The default collation makes a list of batches; the notice says whose views."""
    model, criterion = attach(net, nn.CrossEntropyLoss(), **PIXELS)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with caplog.at_level(logging.INFO, "dai_plugin"):
        for views, labels in DataLoader(TwoViews(), batch_size=4):
            loss = criterion(model(views), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    stats = dai_plugin.attached(model).stats()
    assert stats["criterion_calls"] == 3
    assert all(0 < value < 1 for value in stats["layers"].values())
    assert "scheme: given: the views that the loader made\n" in caplog.text
