"""The images of a run that break most and hold best, as data of a page."""

import base64
from io import BytesIO

import torch
from PIL import Image, features
from torch import Tensor

from dai_plugin.measures.results import Measures, Pictures
from dai_plugin.report.parts import Gallery, Picture
from dai_plugin.report.pooled import PLACE

CAPTIONS = {
    "breaks": "Images that break most, each with its worst version",
    "holds": "Images that hold best, each with its worst version",
}


def galleries(measures: Measures) -> list[Gallery]:
    """The images that break, then those that hold."""
    return [
        Gallery(caption, _pictures(measures, measures.pictures[kind]))
        for kind, caption in CAPTIONS.items()
        if kind in measures.pictures
    ]


def data_uri(pixels: Tensor) -> str:
    """The pixels `[C, h, w]`, uint8, without loss; not 1 or 3 channels as their mean.

    A WebP, of photographs three quarters of a PNG: 192 of them are to stay small.
    """
    if pixels.shape[0] not in (1, 3):
        pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    content = BytesIO()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    kind = "webp" if features.check("webp") else "png"  # which any Pillow has
    image.save(content, kind, lossless=True)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _pictures(measures: Measures, shown: Pictures) -> list[Picture]:
    found = []
    for k, (image, version) in enumerate(
        zip(shown.images.tolist(), shown.versions.tolist(), strict=True)
    ):
        before, after = _classes(measures, image, version)
        label = (
            "" if measures.labels is None else f", label {int(measures.labels[image])}"
        )
        clean, changed = (data_uri(pixels) for pixels in shown.pixels[k])
        found.append(
            Picture(
                measures.names[image] if measures.names else f"image {image}",
                clean,
                changed,
                f"class {before}{label}" if before is not None else label[2:],
                f"class {after}" if after is not None else "",
                shown.words[k],
                before != after,
            )
        )
    return found


def _classes(
    measures: Measures, image: int, version: int
) -> tuple[int | None, int | None]:
    """Predicted of the image and of the version, None where not measured."""
    tables = measures.tables.get("output", {})
    if "prediction" not in tables or "predictions" not in tables:
        return None, None
    of_image = tables["prediction"][PLACE][image]
    return int(of_image), int(tables["predictions"][PLACE][image, version])
