"""A classifier and its image processor from wherever the weights are: this package's models, JAX files, timm's."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from ..assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from ..errors import one_line
from ..images.image_processing import ViTHybridImageProcessor
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from . import jax, timm
from .adapting import adapt
from .files import check_model_type, read_json
from .own import load_model

Format: TypeAlias = Literal["own", "jax", "timm"]
Progress: TypeAlias = Callable[[int, int], None]

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
JAX_SUFFIX = ".npz"
TIMM_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
TIMM_HUB_PREFIXES = ("timm/", "hf-hub:")

# The published hybrids whose preprocessing stands in where a source says nothing of it (`checkpoints.timm`).
LARGE_SIDE = 384
LARGE_PUBLISHED, SMALL_PUBLISHED = "vit_base_r50_s16_384", "vit_base_r26_s32_224"

logger = logging.getLogger(__name__)


def format_of(source: str) -> Format:
    """Whose format `source` has, a path, a hub id or the built-in model's name: this package's, JAX's or timm's."""
    path = os.path.expanduser(source)
    if source == BUILT_IN_MODEL:
        return "own"
    if path.lower().endswith(JAX_SUFFIX):
        return "jax"
    if os.path.isfile(path) or path.lower().endswith(TIMM_SUFFIXES) or _is_timm(source, path):
        return "timm"
    return "own"


def open_classifier(
    source: str,
    image_size: tuple[int, int] | None = None,
    num_labels: int | None = None,
    progress: Progress | None = None,
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor]:
    """The model behind `source`, in evaluation mode and in its weights' precision, and its image processor.

    Args:
        source: The built-in model's name, a folder that `save_pretrained` wrote, a hub id, a JAX `.npz` file, or a
            file, folder or hub id of timm's.
        image_size: (height, width) in pixels; position embeddings are resized as the source's own code does.
        num_labels: Labels of a new classifier, all zero; None keeps the source's.
        progress: Called with (bytes done, bytes in all) while a JAX file is read.

    Raises:
        ValueError: The source is no model that can be used; `ModelLoadError` is one.
        OSError: A file cannot be read.
    """
    path = os.path.expanduser(source)
    kind = format_of(source)
    if kind == "jax":
        model = jax.load(path, image_size, num_labels, progress=progress)
        return model, jax.image_processor(model)
    if kind == "timm":
        source = source if source.startswith(TIMM_HUB_PREFIXES) else path
        model = timm.load(source, image_size=image_size, num_labels=num_labels)
        try:
            return model, timm.image_processor(source, image_size=image_size)
        except ValueError as error:
            return model, _stand_in(model, error)
    return _open_own(source, str(BUILT_IN_FOLDER) if source == BUILT_IN_MODEL else path, image_size, num_labels)


def _is_timm(source: str, path: str) -> bool:
    if not os.path.isdir(path):
        return source.startswith(TIMM_HUB_PREFIXES)
    try:
        fields = json.loads(Path(path, CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and "architecture" in fields  # transformers has it in the plural


def _open_own(
    name: str, location: str, size: tuple[int, int] | None, num_labels: int | None
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor]:
    check_model_type(name, read_json(name, location, CONFIG_FILE))
    if num_labels is None:
        model = load_model(name, location, "auto")
    else:  # the classifier is to be replaced, so it need not even be there
        model = load_model(name, location, "auto", num_labels=0)
    before = as_pair(model.config.image_size)
    adapt(model, size, num_labels, positions="bicubic", antialias=True)
    try:
        processor = ViTHybridImageProcessor.from_pretrained(location)
    except (OSError, ValueError) as error:
        return model, _stand_in(model, error)
    return model, resized_processor(processor, before, as_pair(model.config.image_size))


def _stand_in(model: ViTHybridForImageClassification, reason: Exception) -> ViTHybridImageProcessor:
    """The published hybrids' preprocessing, for a source that says nothing usable of its own."""
    logger.warning(
        f"The source does not say how images are prepared ({one_line(reason)}); {PROCESSOR_FILE} is as the published "
        "hybrids have it."
    )
    return published_processor(as_pair(model.config.image_size))


def published_processor(size: tuple[int, int]) -> ViTHybridImageProcessor:
    """The published hybrids' preprocessing for images of `size`, (height, width) in pixels."""
    height, width = size
    published = LARGE_PUBLISHED if min(size) >= LARGE_SIDE else SMALL_PUBLISHED
    if height == width:
        return timm.image_processor(published, image_size=size)
    exactly = {"height": height, "width": width}
    fields = timm.image_processor(published).to_dict()
    return ViTHybridImageProcessor(**{**fields, "size": exactly, "crop_size": exactly})


def resized_processor(
    processor: ViTHybridImageProcessor, before: tuple[int, int], after: tuple[int, int]
) -> ViTHybridImageProcessor:
    """The processor for images of another (height, width), whose border that the crop cuts off keeps its share."""
    if before == after:
        return processor
    share = {"height": after[0] / before[0], "width": after[1] / before[1], "shortest_edge": min(after) / min(before)}
    fields = processor.to_dict()
    size = {side: round(length * share[side]) for side, length in fields["size"].items()}
    crop = {"height": after[0], "width": after[1]}
    return ViTHybridImageProcessor(**{**fields, "size": size, "crop_size": crop})


__all__ = ["format_of", "open_classifier", "published_processor", "resized_processor"]
