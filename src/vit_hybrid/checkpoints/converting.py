"""One code base's checkpoint as another's: read, written, complete or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..files import made_parents, mark, whole_folder, why_no_model_place
from ..outputs.confidence import CONFIDENCE_FILES
from .files import CONFIG_FILE, JAX_SUFFIX, PREPROCESSOR_FILE, TIMM_SUFFIXES
from .kinds import Progress, Source
from .matching import Approximate
from .opening import open as open_source

if TYPE_CHECKING:
    from ..images.image_processing import ViTHybridImageProcessor
    from ..model.modeling import ViTHybridForImageClassification

Target: TypeAlias = Literal["folder", "jax", "timm"]
# What a new model replaces, and what would be mistaken for part of it.
MODEL_FILES = (CONFIG_FILE, PREPROCESSOR_FILE, "model*.safetensors*", "pytorch_model*", *CONFIDENCE_FILES)


def target_of(out: Path) -> Target:
    """What `out` is to be, by its ending: a file for the JAX code or for timm, or a folder of this package."""
    if out.suffix.lower() == JAX_SUFFIX:
        return "jax"
    return "timm" if out.suffix.lower() in TIMM_SUFFIXES else "folder"


def convert(
    source: str | os.PathLike[str],
    out: Path,
    to: Target | None = None,
    image_size: tuple[int, int] | None = None,
    num_labels: int | None = None,
    *,
    approximate: bool = False,
    overwrite: bool = False,
    reading: Callable[[Source], AbstractContextManager[Progress | None]],
    writing: Callable[[], AbstractContextManager[Progress]],
) -> ViTHybridForImageClassification:
    """Writes the model behind `source` as `out`, complete or not at all.

    Args:
        source: What `opening.open` opens, but for bundles.
        out: A folder, with the image processor; a `.npz` file for the JAX code; a file for timm; or, where `to` is
            "timm", a folder that timm opens.
        to: What to write; by default what `out` ends in.
        image_size: (height, width) in pixels, in place of the source's.
        num_labels: Labels of a new classifier, all zero, in place of the source's.
        approximate: Whether to write for JAX or timm also what they compute with another GELU or form of weight
            standardization; where nothing but epsilons differs it is written anyway, with a word.
        overwrite: Whether a model in `out` may be replaced.
        reading: Makes what is entered while the source is read, and may give what to call with its progress.
        writing: The same for `out`.

    Returns:
        The model that was written.

    Raises:
        ValueError: `out` is taken, or there cannot be such a model there; `ModelLoadError`: the source cannot be used.
        OSError: A file cannot be read or written.
    """
    target = to or target_of(out)
    _require_free(out, target, overwrite)
    opened = open_source(source)
    with reading(opened) as progress:
        model = opened.classifier(image_size, num_labels, progress=progress)
        processor = opened.processor(image_size)
    with made_parents(out), writing() as progress:
        _write(model, processor, out, target, approximate or "epsilons", progress)
    return model


def _is_file(out: Path, target: Target) -> bool:
    return target == "jax" or (target == "timm" and out.suffix.lower() in TIMM_SUFFIXES)


def _require_free(out: Path, target: Target, overwrite: bool) -> None:
    """Raises before any work where `out` cannot be written or holds a model already."""
    why_not = why_no_model_place(out)
    if target != "jax" and why_not is not None:
        raise ValueError(why_not)
    if target == "jax" and out.suffix.lower() != JAX_SUFFIX:
        raise ValueError(f"{out}: a file for the JAX code ends in {JAX_SUFFIX}")
    if _is_file(out, target):
        if out.is_dir():
            raise ValueError(f"{out}: this is a folder; give the name of a file")
        there = [out] if out.exists() else []
    else:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out}: this is a file; give the name of a folder")
        there = [path for pattern in MODEL_FILES for path in sorted(out.glob(pattern))]
    if there and not overwrite:
        raise ValueError(
            f"{out}: there is a model already ({there[0].name}); give another name, or --overwrite to replace it"
        )


def _write(
    model: ViTHybridForImageClassification,
    processor: ViTHybridImageProcessor,
    out: Path,
    target: Target,
    approximate: Approximate,
    progress: Progress,
) -> None:
    from . import jax, timm

    if target == "jax":
        jax.save(model, out, approximate=approximate, progress=progress)
    elif _is_file(out, target):
        timm.save(model, out, image_processor=processor, approximate=approximate)
    else:
        with whole_folder(out, "fill", last=CONFIG_FILE, stale=MODEL_FILES) as folder:
            if target == "timm":
                timm.save(model, folder, image_processor=processor, approximate=approximate)
            else:
                model.save_pretrained(folder)
                processor.save_pretrained(folder)
        mark(out)


__all__ = ["Target", "convert", "target_of"]
