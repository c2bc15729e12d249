"""Which targets belong to the pixels of the images, and so follow their views.

The rule: integers `[B, H, W]` or `[B, 1, H, W]` of the images' size are masks; what
else belongs to pixels is told by `targets=`, and a target of several dimensions that
nobody told of is refused, since a view would be compared with another picture's. Of a
criterion's arguments only the images themselves, known by their shape, are no target.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dai_plugin.settings import Settings
from dai_plugin.training.arguments import names_target
from dai_plugin.training.step import Step
from dai_plugin.views.motion import move
from dai_plugin.views.targets import Kind

UNNAMED = (
    "views show what lies outside their images, which masks have to mark with a label "
    "that the loss ignores, and nobody named it: give ignore_index= (-100 for a "
    "cross entropy of torch's; for a loss that ignores no label, such as that of "
    "binary masks, the one of the background, or boolean masks), or "
    'scheme="photometric", which moves no pixels'
)
_NUMBERS = 6  # that say where one thing is and what, at most

_SHAPES: dict[Kind, str] = {
    "mask": "integers [B, ..., H, W]",
    "heatmap": "floating point [B, H, W] or [B, K, H, W]",
    "boxes": "[B, 4] or [B, K, 4]",
    "keypoints": "[B, K, 2]",
}
_FITS: dict[Kind, Callable[[Tensor], bool]] = {
    "mask": lambda t: t.dim() > 2 and not t.is_floating_point(),
    "heatmap": lambda t: t.dim() in (3, 4) and t.is_floating_point(),
    "boxes": lambda t: t.dim() in (2, 3) and t.shape[-1] == 4,
    "keypoints": lambda t: t.dim() == 3 and t.shape[-1] == 2,
}
_HOW: dict[Kind, str] = {
    "mask": "nearest pixel, {outside} outside the image",
    "heatmap": "bilinear, 0 outside the image",
    "boxes": "around the moved corners, cut at the border",
    "keypoints": "as points",
}


def kind_of(
    target: Tensor, images: torch.Size, told: Kind | None, *, sure: bool = True
) -> Kind | None:
    """What a target of those images is to their pixels; None if it is nothing to them.

    Args:
        target: of the loop.
        images: `[B, C, H, W]`.
        told: by the settings.
        sure: whether it is a target at all; if not, an unknown one is nothing.

    Raises:
        ValueError: it has pixels or places, and which is not known; or it is a mask
            without its two dimensions.
    """
    _refuse_flat(target, images)
    if not target.dim() or target.shape[0] != images[0]:
        return None
    if told and _FITS[told](target):
        return told
    if _is_mask(target, images):
        return "mask"
    numbers = target.shape[2:].numel() == 1  # [B, K, 1, 1], which lie nowhere
    if target.dim() < 3 or numbers or not sure:
        return None
    hint = f"targets={told!r} means {_SHAPES[told]}" if told else "say what they are"
    raise ValueError(
        f"targets {list(target.shape)} of {target.dtype} belong to pixels, which the "
        f'scheme moves: {hint} (targets="mask" for integers, "heatmap", "boxes" or '
        '"keypoints"), or use scheme="photometric", which moves none'
    )


class Follow:
    """How the targets of a step follow its views.

    Args:
        step: whose views moved or did not; then nothing follows.
        settings: of the run.
        outside: the label that the criterion or the network ignores, where the
            settings name none; without either it is but a guess.

    Attributes:
        guessed: whether nobody named the label of what lies outside.
    """

    def __init__(
        self, step: Step, settings: Settings, outside: int | None = None
    ) -> None:
        self._motions, self._layout, self._told = (
            step.motions, step.layout, settings.targets
        )  # fmt: skip
        self._outside = settings.ignored(outside)
        self.guessed = outside is None and settings.ignore_index is None

    def kind(
        self, target: Tensor, compared: Sequence[torch.Size] | None = None
    ) -> Kind | None:
        """Of a target; `compared` are the shapes of the outputs beside it, if known.

        Raises:
            ValueError: as `kind_of`.
        """
        if not self._motions:
            return None
        alike = target.shape == self._images and target.is_floating_point()
        pictures = alike and compared is not None and target.shape not in compared
        return kind_of(target, self._images, self._told, sure=not pictures)

    @property
    def _images(self) -> torch.Size:
        """`[B, C, H, W]`."""
        return torch.Size((self._layout.images, *self._motions[0].made.shape[1:]))

    def kind_of_argument(self, name: str, leaf: Tensor) -> Kind | None:
        """Of an argument of the network, whose name says whether it is a target.

        Raises:
            ValueError: as `kind_of`, and for masks of which the name does not tell it.
        """
        if not self._motions:
            return None
        told, images = self._told, self._images
        target = names_target(name)
        counts = "mask" in name.lower() and not target and told != "mask"
        if counts and leaf.dim() > 2 and leaf.dtype != torch.bool:
            raise ValueError(
                f"the argument {name} {list(leaf.shape)} may say which pixels count, "
                'or be what the network is to find: targets="mask" says that it is a '
                "target; as torch.bool it moves with its view and is False outside the "
                'image; scheme="photometric" moves no pixels'
            )
        sure = target or counts or _has_places(leaf, images)
        return kind_of(leaf, images, told, sure=sure)

    def rows(self, target: Tensor, kind: Kind | None) -> Tensor:
        """`[N, ...]` of a target `[B, ...]`, each as its own view.

        Raises:
            ValueError: a mask cannot hold the label of what lies outside the image, or
                the scheme does not tell how such a target moves.
        """
        if kind is None:
            return self._layout.repeat(target)
        label = 0 if target.dtype == torch.bool else self._outside
        if kind == "mask":
            _check_label(target, label)
        moved = [
            move(target[: each.made.shape[0]], kind, each, label)
            for each in self._motions
        ]
        # A view that did not move comes first.
        still = self._layout.rows - sum(len(rows) for rows in moved)
        return torch.cat([target[:still], *moved])

    def marked(self, rows: Tensor, kind: Kind | None) -> bool:
        """Whether rows of that kind hold the label that was guessed."""
        labels = self.guessed and kind == "mask" and rows.dtype != torch.bool
        return labels and bool((rows == self._outside).any())

    def named_rows(self, target: Tensor, kind: Kind | None) -> Tensor:
        """`rows`, where no criterion is seen that might ignore what was guessed.

        Raises:
            ValueError: as `rows`, and if a mask holds a label that nobody named.
        """
        rows = self.rows(target, kind)
        if self.marked(rows, kind):
            raise ValueError(UNNAMED)
        return rows

    def check_told(
        self, targets: Sequence[Tensor], compared: Sequence[torch.Size]
    ) -> None:
        """Raises if `targets=` fits none of a criterion's, and one might be meant.

        Args:
            targets: of a call of the criterion.
            compared: shapes of the outputs in that call.

        Raises:
            ValueError: so it is.
        """
        told, images = self._told, self._layout.images
        if told is None or not self._motions:
            return
        owned = [t for t in targets if t.dim() > 1 and t.shape[0] == images]
        if any(_FITS[told](t) for t in owned):
            return
        if any(t.shape in compared for t in owned):
            raise ValueError(
                f"targets={told!r} means {_SHAPES[told]}, but the criterion got "
                f"{[list(t.shape) for t in owned]}: give them that shape, and let the "
                "criterion flatten them"
            )

    def how(self, kind: Kind | None) -> str:
        """How a target of that kind follows, in words."""
        if kind is None:
            return "as it is, for each view"
        return f"{kind}, moves: {_HOW[kind].format(outside=self._outside)}"


def ignored_by(model: nn.Module) -> int | None:
    """The label that a network's configuration names, as Hugging Face's do."""
    config = getattr(model, "config", None)
    found = getattr(config, "semantic_loss_ignore_index", None)
    return found if isinstance(found, int) else None


def _is_mask(target: Tensor, images: torch.Size) -> bool:
    size = images[2:]
    plain = target.shape[1:] == size or target.shape[1:] == (1, *size)
    return plain and not target.is_floating_point()


def _refuse_flat(target: Tensor, images: torch.Size) -> None:
    """Raises if it is a label for each pixel in a line: `[B, H * W]`, `[B * H * W]`."""
    pixels = images[2:].numel()
    flat = ((images[0], pixels), (images[0] * pixels,))
    if pixels > 1 and target.shape in flat and not target.is_floating_point():
        raise ValueError(
            f"targets {list(target.shape)} of {target.dtype} are as many as the "
            "images' pixels, which the scheme moves: give masks "
            f"{[images[0], *images[2:]]}, "
            'and let the criterion flatten them, or use scheme="photometric"'
        )


def _has_places(leaf: Tensor, images: torch.Size) -> bool:
    """Whether it has the shape of a picture of the images' proportions, or of places.

    Beside images a network may get sequences `[B, T, D]` that are nothing to pixels;
    places are a few numbers each: points, boxes, with a class or a visibility.
    """
    if leaf.dim() < 3:
        return False
    (height, width), (own_height, own_width) = images[2:], leaf.shape[-2:]
    picture = abs(own_height * width - own_width * height) < max(height, width)
    return picture or (leaf.dim() == 3 and 2 <= own_width <= _NUMBERS)


def _check_label(target: Tensor, label: int) -> None:
    if target.dtype == torch.bool:
        return
    limits = torch.iinfo(target.dtype)
    if not limits.min <= label <= limits.max:
        raise ValueError(
            f"masks of {target.dtype} cannot hold {label}, the label of what lies "
            "outside the image; give ignore_index= the one that the criterion "
            "ignores, or make the masks torch.long"
        )
