"""A model as a bundle: a folder that an engine starts from, checked against PyTorch after it is written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from . import engines
from .bundles.calibration import DEFAULT_TIME_LIMIT, MADE_WARNING, CalibrationSource, calibration_pixels, limited
from .bundles.making import make, object_provenance
from .bundles.manifest import Bundle, is_bundle, write_manifest
from .bundles.program import Made
from .checkpoints import opening, published
from .errors import EngineError, EngineWarning
from .files import mark, whole_folder, why_no_model_place
from .images.preprocessing import Preprocessing
from .model.modeling import ViTHybridForImageClassification
from .outputs.confidence import write as write_confidence
from .runtimes import (
    ALL,
    BOTH,
    EXPORTED,
    LOGITS,
    PRECISIONS,
    RUNTIMES,
    check_installed,
    check_token_merging,
    engines_with,
)

Progress: TypeAlias = Callable[[str], None]
Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

# Pictures that the outcome is checked on at most, and how many at a time.
CHECKED_PICTURES = 64
CHECKED_AT_ONCE = 8


@dataclass(frozen=True)
class Check:
    """How far a bundle is from PyTorch in float32.

    Attributes:
        pictures: How many pictures were compared.
        of: What they are.
        largest_logit_difference: Over all of them and all labels.
        largest_logit: The largest of PyTorch's, by its absolute value, to compare it with.
        top1_agreement: The share of the pictures whose best label is the same.
    """

    pictures: int
    of: str
    largest_logit_difference: float
    largest_logit: float
    top1_agreement: float


def export(
    model: str | os.PathLike[str] | ViTHybridForImageClassification,
    out: str | os.PathLike[str],
    engine: str = "openvino",
    precision: str = "f32",
    *,
    calibration: CalibrationSource = None,
    dynamic: bool = False,
    token_merging: int | None = None,
    features: bool = False,
    overwrite: bool = False,
    max_pixels: int | None = None,
    preprocessing: Preprocessing | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    progress: Progress | None = None,
) -> Bundle:
    """Writes a bundle, complete or not at all, and checks it.

    Args:
        model: Whatever `checkpoints.opening` opens, but for bundles: a folder, a hub id, the model in the package, a
            JAX or timm file; or a classifier.
        out: The folder to write.
        engine: What is to run it, of `runtimes.EXPORTED`.
        precision: What it computes in, of those that the engine has (`runtimes.RUNTIMES`).
        calibration: A folder of pictures like those the model is for, or pixel values (N, C, H, W). int8 is calibrated
            with them, and what is written is checked on them; made pictures stand in where there are none.
        dynamic: Whether pictures of other sizes are to be taken too.
        token_merging: Tokens that the encoder merges per layer.
        features: Whether what the classifier takes is given beside the logits, for `engines.load(out, output=...)`.
        overwrite: Whether a bundle in `out` may be replaced.
        max_pixels: The most pixels that a calibration picture may have; 250 million by default.
        preprocessing: What turns pictures into the input of a classifier given as an object.
        time_limit: Seconds that quantization may take.
        progress: Called with what is being done.

    Returns:
        What the bundle says of itself, with the outcome of the check.

    Raises:
        EngineError: If it cannot be exported so; `ModelLoadError` is another `ValueError`.
        OSError: If `out` cannot be written.
    """
    say = progress or (lambda _: None)
    calibration = limited(calibration, max_pixels)
    out = Path(out).expanduser()
    _check_arguments(engine, precision, out, overwrite)
    check_token_merging(token_merging, dynamic)
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        say("Loading the model")
        source = opening.open(name)
        classifier = source.classifier()
        fields: Mapping[str, Any] = source.processor().to_dict()
        preprocessing = Preprocessing.from_dict(fields)
        confidence, provenance = source.confidence(), source.provenance()
    else:
        name, classifier = type(model).__name__, model
        fields = asdict(preprocessing) if preprocessing is not None else {}
        confidence, provenance = None, object_provenance(classifier)
    if precision == "int8" and calibration is None:
        warnings.warn(EngineWarning(MADE_WARNING), stacklevel=2)
    made = make(
        classifier,
        engine,
        precision,
        {**provenance, "model": Path(name).name},
        owned=classifier is not model,
        dynamic=dynamic,
        token_merging=token_merging,
        output=ALL if confidence is not None and confidence.needs_features else BOTH if features else LOGITS,
        calibration=calibration,
        preprocessing=preprocessing,
        preprocessing_fields=fields or None,
        time_limit=time_limit,
        progress=progress,
    )
    with whole_folder(out, "replace" if overwrite else "refuse") as unfinished:
        made.write(unfinished)
        if confidence is not None:
            write_confidence(confidence, unfinished)
        say("Checking what was written")
        bundle = _checked(made, unfinished, calibration, preprocessing)
        mark(unfinished)  # not one of the bundle's files, which are the manifest's
    return bundle


def _check_arguments(engine: str, precision: str, out: Path, overwrite: bool) -> None:
    if engine not in EXPORTED:
        raise EngineError(f"engine is {engine!r}; expected {', '.join(map(repr, EXPORTED))}.")
    row = RUNTIMES[engine]
    if precision not in row.precisions:
        raise EngineError(
            f"precision is {precision!r}, and {engine} is exported in {', '.join(row.precisions)}"
            + (f" ({engines_with(precision)} have {precision})." if precision in PRECISIONS else ".")
        )
    check_installed(engine, f"exporting for {engine}", *row.distributions)
    why_not = why_no_model_place(out)
    if why_not is not None:
        raise EngineError(f"{why_not}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not is_bundle(out):
            raise EngineError(f"{out}: is there already and is no bundle; name another place.")
        if not overwrite:
            raise EngineError(f"{out}: there is a bundle already; replace it with --overwrite, or name another place.")


def _checked(
    made: Made,
    folder: Path,
    source: CalibrationSource,
    preprocessing: Preprocessing | None,
) -> Bundle:
    """Compares the bundle in `folder` with PyTorch, and writes the outcome into it."""
    bundle = made.bundle
    how = preprocessing or published.preprocessing(bundle.image_size, bundle.num_channels)
    shape = (bundle.num_channels, *bundle.image_size)
    pictures = calibration_pixels(source, how, shape, CHECKED_PICTURES)
    if pictures.passed and made.calibration is None:  # or it has been said
        warnings.warn(EngineWarning(f"calibration {pictures.passed.line()}"), stacklevel=2)
    reference = _torch_logits(made.reference, pictures.pixel_values)
    found = _bundle_logits(folder, bundle, pictures.pixel_values)
    if not np.isfinite(found).all():
        raise EngineError(
            f"what was exported for {bundle.engine} in {bundle.precision} gives numbers that are not finite; export it "
            "in f32."
        )
    check = Check(
        pictures=len(found),
        of=pictures.about,
        largest_logit_difference=float(np.abs(found - reference).max()),
        largest_logit=float(np.abs(reference).max()),
        top1_agreement=float((found.argmax(1) == reference.argmax(1)).mean()),
    )
    return write_manifest(replace(bundle, check=asdict(check)), folder)


def _torch_logits(model: ViTHybridForImageClassification, pixels: Array) -> Array:
    with torch.inference_mode():
        parts = [model(torch.from_numpy(part)).logits.numpy() for part in _parts(pixels)]
    return np.concatenate(parts)


def _bundle_logits(folder: Path, bundle: Bundle, pixels: Array) -> Array:
    if bundle.engine == "executorch":
        return _executorch_logits(folder / bundle.program, pixels)
    engine = engines.load(folder)
    return np.concatenate([engine.logits(part) for part in _parts(pixels)])


def _executorch_logits(program: Path, pixels: Array) -> Array:
    """ExecuTorch's own runtime, which is in the package that exports."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(str(program)).load_method("forward")
    return np.concatenate([method.execute([torch.from_numpy(one[None])])[0].float().numpy() for one in pixels])


def _parts(pixels: Array) -> list[Array]:
    return [pixels[start : start + CHECKED_AT_ONCE] for start in range(0, len(pixels), CHECKED_AT_ONCE)]


__all__ = ["Check", "export"]
