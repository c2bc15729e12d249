"""Networks of Hugging Face: a folder with config.json and weights, or a name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dai_plugin.cli.checkpoints import first_line
from dai_plugin.cli.networks import UNKNOWN, Loaded
from dai_plugin.cli.zoo import extra
from dai_plugin.views.normalization import Normalization

CONFIG = "config.json"
# Of what the classes of transformers are for, what is not measured.
_REFUSED = ("ObjectDetection", "Video", "DepthEstimation", "KeypointDetection")
_FRAMES = ("num_frames", "frames_per_clip")


def from_hugging_face(
    source: str, pretrained: bool, options: Mapping[str, Any], trust: bool
) -> Loaded:
    """A network of transformers, with what its preprocessor says of images.

    A classifier is loaded as such, any other network without its head.

    Args:
        source: a folder, or a name on the hub.
        pretrained: whether its weights are loaded too.
        options: values of its configuration that are to be others.
        trust: whether code that lies beside the weights may run.

    Raises:
        ValueError: the network does not take images, needs code that is not trusted,
            or its weights are not whole.
        OSError: there are no such files, or they cannot be fetched.
        ImportError: transformers is not installed.
    """
    if Path(source).is_dir() and not (Path(source) / CONFIG).is_file():
        raise OSError(f"the folder {source} of --model holds no {CONFIG}")
    transformers = extra("transformers", "huggingface")
    config = _config(transformers, source, options, trust)
    kind = _kind(transformers, config, source)
    trained = pretrained and _has_weights(source)
    if trained:
        model = _load(kind, source, config, trust)
    else:
        model = kind.from_config(config, trust_remote_code=trust)
    processing = _processing(transformers, source)
    crop, resize = _sizes(processing, config)
    name = Path(source).resolve().name if Path(source).is_dir() else source
    known, names = _normalization(processing, name), _classes(config)
    return Loaded(model, known, resize, crop, trained, name, names)


def _classes(config: Any) -> list[str] | None:
    """Names of the outputs, if the configuration numbers all of them."""
    names = getattr(config, "id2label", None) or {}
    whole = sorted(names) == list(range(len(names)))
    return [str(names[number]) for number in sorted(names)] if whole and names else None


def _config(
    transformers: Any, source: str, options: Mapping[str, Any], trust: bool
) -> Any:
    try:
        config, unused = transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=trust, return_unused_kwargs=True, **options
        )
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(_untrusted(source)) from error
        raise ValueError(f"{source}: {first_line(error)}") from error
    except OSError as error:
        raise OSError(
            f"{source} is no folder, and cannot be fetched from Hugging Face "
            f"({first_line(error)})"
        ) from error
    if unused:
        raise ValueError(
            f"the configuration of {source} has no {' and no '.join(unused)} to change"
        )
    return config


def _untrusted(source: str) -> str:
    return (
        f"{source} brings Python code of its own, which would run on this machine with "
        "all your rights: read it, then add --trust"
    )


def _kind(transformers: Any, config: Any, source: str) -> Any:
    """The class that loads the network, if it takes images."""
    names = getattr(config, "architectures", None) or []
    purpose = next((w for w in _REFUSED for n in names if w in n), None)
    if purpose or any(hasattr(config, frames) for frames in _FRAMES):
        raise ValueError(
            f"{source} is a network for {purpose or 'Video'} ({config.model_type}): "
            "networks for images that give logits or features are measured"
        )
    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"{source} is quantised: measures need activations of floating point; give "
            "the network as it was before quantisation"
        )
    classifies = any("ForImageClassification" in name for name in names)
    kind = transformers.AutoModel
    if classifies:
        kind = transformers.AutoModelForImageClassification
    known = kind._model_mapping.get(type(config), None)
    takes = getattr(known, "main_input_name", "pixel_values")
    if takes != "pixel_values":
        raise ValueError(
            f"{source} takes {takes}, no images ({config.model_type}): a network whose "
            "input is pixel_values is needed"
        )
    return kind


def _load(kind: Any, source: str, config: Any, trust: bool) -> Any:
    try:
        with _quiet():
            model, found = kind.from_pretrained(
                source,
                config=config,
                trust_remote_code=trust,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(_untrusted(source)) from error
        raise
    # What is missing would be drawn at random, without an error.
    differ = [name for name, *_ in found["mismatched_keys"]]
    missing = sorted(n for n in found["missing_keys"] if "pooler" not in n) + differ
    if missing:
        raise ValueError(
            f"the weights of {source} lack {len(missing)} tensors of this "
            f"{type(model).__name__}, or have them in another shape: "
            f"{', '.join(missing[:3])}"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the tensors that differ, a page long."""
    logging = extra("transformers.utils.logging", "huggingface")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _has_weights(source: str) -> bool:
    """Whether there are any, where that is known without a download."""
    folder = Path(source)
    kinds = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
    return not folder.is_dir() or any(p for kind in kinds for p in folder.glob(kind))


def _processing(transformers: Any, source: str) -> Mapping[str, Any]:
    try:
        found, _ = transformers.ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:  # there is none
        return {}
    return dict(found)


def _sizes(processing: Mapping[str, Any], config: Any) -> tuple[int, int]:
    """Pixels of the crop and of the shorter side before it."""
    own = _side(getattr(config, "image_size", None)) or 224
    resize = _side(processing.get("size")) or own
    cropped = processing.get("do_center_crop", False)
    crop = (_side(processing.get("crop_size")) if cropped else 0) or resize
    share = processing.get("crop_pct")  # ConvNeXt's, of sizes below its largest
    if share and not cropped and crop < 384:
        resize = int(crop / share)
    return crop, max(crop, resize)


def _side(size: Any) -> int:
    if isinstance(size, Mapping):
        sides = [size.get(k) for k in ("shortest_edge", "height", "width")]
        return next((int(side) for side in sides if side), 0)
    if isinstance(size, list | tuple):
        return int(size[0])
    return int(size or 0)


def _normalization(processing: Mapping[str, Any], name: str) -> Normalization:
    mean, std = processing.get("image_mean"), processing.get("image_std")
    if mean is None or std is None or not processing.get("do_normalize", True):
        return UNKNOWN
    return Normalization.given(mean, std, f"the preprocessor's of {name}")
