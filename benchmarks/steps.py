"""Training steps to compare: the same network and rows, with and without the method."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import rivals
import torch
from torch import Tensor, nn

import dai_plugin
from dai_plugin.views.expand import expand, repeat_targets
from dai_plugin.views.normalization import Normalization

KNOWN = Normalization.given(0.0, 1.0)


@dataclass
class Setting:
    """What all arms of a comparison share.

    Attributes:
        build: makes the network.
        images: a step.
        views: of each image.
        side: of an image, in pixels.
        device: where everything runs.
        layers: at which the loss is taken.
        bf16: autocast to bfloat16.
        channels_last: memory format of network and images.
        compiled: whether the networks are compiled.
        captured: whether the step is replayed from a CUDA graph.
    """

    build: Callable[[], nn.Module]
    images: int
    views: int
    side: int
    device: torch.device
    layers: str | list[str] = "auto"
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    captured: bool = False


class Step:
    """One training step: network, criterion, Nesterov SGD; subclasses say what else."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        torch.manual_seed(0)
        network = setting.build().to(setting.device).train()
        shape = (setting.images, 3, setting.side, setting.side)
        self.images = torch.rand(shape, device=setting.device)
        self.targets = torch.randint(10, (setting.images,), device=setting.device)
        if setting.channels_last:
            network = network.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            network.parameters(), 0.01, momentum=0.9, nesterov=True
        )
        self.criterion = nn.CrossEntropyLoss()
        self.network = network
        self.rows = self.images.repeat(setting.views, 1, 1, 1).contiguous(
            memory_format=torch.channels_last
            if setting.channels_last
            else torch.contiguous_format
        )
        self.labels = repeat_targets(self.targets, setting.views)
        self.prepare()
        self.model = torch.compile(network) if setting.compiled else network
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self) -> None:
        """Puts hooks in place, before the network is compiled."""

    def loss(self) -> Tensor:
        """The loss of the step."""
        return self.task(self.rows)

    def task(self, rows: Tensor) -> Tensor:
        """The task loss of the rows."""
        with self.autocast():
            return self.criterion(self.model(rows), self.labels)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Autocast, where the setting asks for it."""
        if not self.setting.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.setting.device.type, torch.bfloat16)

    def __call__(self) -> float | None:
        """One step, or its replay."""
        if not self.setting.captured:
            self.once()
        elif self.graph is None:
            self.graph = self.capture()
        else:
            self.graph.replay()
        return None

    def capture(self) -> torch.cuda.CUDAGraph:
        """The step's launches as a graph, after some steps that find its memory."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.before()
                self.once()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad()
        self.before()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.once()
        return graph

    def before(self) -> None:
        """What a step needs and is not timed."""

    def once(self) -> None:
        """Loss, backward and the optimizer's step."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Views(Step):
    """In-batch augmentation alone: views are made, the task loss is all there is."""

    def loss(self) -> Tensor:
        """The task loss of fresh views."""
        rows = expand(
            self.images,
            self.setting.views,
            dai_plugin.Scheme.heavier(),
            first_view="augmented",
            normalization=KNOWN,
            seed=0,
        )
        return self.task(rows)


class Method(Step):
    """The whole method: views, task loss, invariance losses."""

    scheme = dai_plugin.Scheme.heavier()
    term: object = "ratio"
    options: ClassVar[dict[str, Any]] = {}

    def prepare(self) -> None:
        """Hooks the layers."""
        given = {
            "num_views": self.setting.views,
            "term": self.term,
            "layers": self.setting.layers,
            "scheme": self.scheme,
            "mean": 0.0,
            "std": 1.0,
        }
        self.dai = dai_plugin.DataAugmentationInvariance(
            self.network, **{**given, **self.options}
        )

    def loss(self) -> Tensor:
        """Task loss and invariance losses of fresh views."""
        rows, self.labels = self.dai.views(self.images, self.targets)
        return self.dai.loss(self.task(rows))


class Twice(Method):
    """A second view of every image, whatever the views of the plain step."""

    options: ClassVar[dict[str, Any]] = {"num_views": 2, "first_view": "clean"}


class Seldom(Twice):
    """In one of four steps."""

    options: ClassVar[dict[str, Any]] = {**Twice.options, "every": 4}


class Some(Twice):
    """Of a quarter of the images."""

    options: ClassVar[dict[str, Any]] = {**Twice.options, "share": 0.25}


class LossOnly(Method):
    """The invariance loss on ready rows: making them is not timed."""

    scheme = dai_plugin.Scheme.photometric(contrast=0.0, brightness=0.0)

    def loss(self) -> Tensor:
        """Task loss and invariance losses."""
        return self.dai.loss(self.task(self.rows))

    def before(self) -> None:
        """Rows that nobody sees, so that the next forward is measured."""
        self.dai.views(self.images, self.targets)

    def __call__(self) -> float:
        """The step's seconds without its views, where the host can tell."""
        if not self.setting.captured:
            self.before()
        if self.setting.device.type != "cpu":
            super().__call__()  # the device is not waited for, so nothing to subtract
            return 0.0
        start = time.perf_counter()
        super().__call__()
        return time.perf_counter() - start


def apart(activations: Tensor, targets: Tensor | None) -> Tensor:
    """A term of one's own: the squared distance of the views from their mean."""
    return (activations - activations.mean(0)).square().mean()


class Divergence(LossOnly):
    """The divergence of the predictions."""

    term = "jsd"


class Cosine(LossOnly):
    """The cosine distance at the same layers."""

    term = "cosine"


class Vicreg(LossOnly):
    """Invariance, variance and covariance of what enters the last layer."""

    term = dai_plugin.Term("vicreg", 0.01, layers="penultimate")


class ClassWise(LossOnly):
    """The class-wise ratio at the same layers."""

    term = "class"


class Own(LossOnly):
    """A callable at the same layers, which autograd follows."""

    term = staticmethod(apart)


class Floor(Step):
    """The memory traffic that no exact loss can do without, at the same layers."""

    def prepare(self) -> None:
        """Hooks the layers."""
        for name in dai_plugin.select_layers(self.network, self.setting.layers):
            self.network.get_submodule(name).register_forward_hook(
                lambda _, __, output: rivals.LeastTraffic.apply(output)
            )


class Hooked(Step):
    """Another form of the loss, at the same layers, on ready rows."""

    form = staticmethod(rivals.pairwise_loss)

    def prepare(self) -> None:
        """Hooks the layers."""
        names = dai_plugin.select_layers(self.network, self.setting.layers)
        self.hooked = rivals.HookedLoss(
            self.network, names, self.setting.views, self.form
        )

    def loss(self) -> Tensor:
        """Task loss and invariance losses."""
        return self.hooked.total(self.task(self.rows))


class ClosedForm(Hooked):
    """The ratio of variances, left to autograd."""

    form = staticmethod(rivals.closed_form_loss)


class KorniaPairwise(Hooked):
    """Views by kornia's pipeline, losses in the pairwise form."""

    def prepare(self) -> None:
        """Hooks the layers."""
        super().prepare()
        self.pipeline = rivals.kornia_pipeline().to(self.setting.device)

    def loss(self) -> Tensor:
        """Task loss and invariance losses of fresh views."""
        with torch.no_grad():
            rows = self.pipeline(self.rows)
        return self.hooked.total(self.task(rows))


class TorchvisionViews(Step):
    """Views by torchvision's transforms, image by image; the task loss alone."""

    def prepare(self) -> None:
        """Makes the pipeline."""
        self.pipeline = rivals.torchvision_pipeline()

    def loss(self) -> Tensor:
        """The task loss of fresh views."""
        with torch.no_grad():
            rows = self.pipeline(self.rows)
        return self.task(rows)


ARMS: dict[str, type[Step]] = {
    "plain": Step,
    "invariance loss": LossOnly,
    "class": ClassWise,
    "jsd, at the output": Divergence,
    "cosine": Cosine,
    "vicreg, penultimate": Vicreg,
    "a term of one's own": Own,
    "bandwidth floor": Floor,
    "views": Views,
    "method": Method,
    "M = 2": Twice,
    "M = 2, every=4": Seldom,
    "M = 2, share=.25": Some,
    "pairwise loss": Hooked,
    "closed form, autograd": ClosedForm,
    "kornia and pairwise": KorniaPairwise,
    "torchvision image by image": TorchvisionViews,
}


def saved_mib(step: Step) -> float:
    """What the step's forward saves for its backward, in MiB of distinct storages."""
    step.before()
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.loss()
    loss.backward()
    return sum(storages.values()) / 2**20
