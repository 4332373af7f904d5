"""A model with the confidence that was fitted for it: beside its weights, or in a copy."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

from ..errors import EngineWarning
from ..files import mark, whole_folder, why_no_model_place
from ..outputs.confidence import Confidence
from ..outputs.confidence import write as write_files
from .files import (
    CARD_FILE,
    CONFIG_FILE,
    INDEX_SUFFIX,
    PREPROCESSOR_FILE,
    WEIGHTS_FILES,
    ModelLoadError,
    found_path,
    weights_paths,
)
from .kinds import Source
from .opening import open as open_source


def place_of(source: Source, output: str | os.PathLike[str] | None) -> Path | None:
    """The folder that confidence is written into beside the weights; None where a copy of the model is to be made.

    Raises:
        ModelLoadError: Nothing can be written beside this model, and no other place is named, or one from which no
            weights could be read; or it is a bundle.
    """
    if source.kind == "bundle":
        raise ModelLoadError(
            f"{source.name}: this is a bundle; calibrate the model that it was exported from, and export it again."
        )
    if output is not None:
        why_not = why_no_model_place(output)
        if why_not is not None:
            raise ModelLoadError(f"{why_not}.")
        return None
    if source.kind != "own" or source.name != source.location or not os.path.isdir(source.location):
        raise ModelLoadError(
            f"{source.name}: there is no folder of yours to write beside its weights; name one for a copy of the model "
            "with --output."
        )
    return Path(source.location)


def fitted_before(source: Source) -> Confidence | None:
    """What was fitted for a model before. What cannot be used is told, in an `EngineWarning`, and is no hindrance to
    fitting it anew."""
    try:
        return source.confidence()
    except ModelLoadError as error:
        why = str(error).partition("; calibrate")[0]
        warnings.warn(
            EngineWarning(f"{why}; it is not used, nor what it knew of the pictures that were trained on"), stacklevel=2
        )
        return None


def write_calibrated(source: Source, confidence: Confidence, output: str | os.PathLike[str] | None = None) -> Path:
    """Writes confidence beside the weights of its model, or a copy of the model with it.

    Args:
        source: The model.
        confidence: What was fitted for it.
        output: The folder of the copy, which must not be there yet or be empty.

    Returns:
        The folder that it is in now.

    Raises:
        ModelLoadError: See `place_of`.
        OSError: It cannot be written, or `output` is not empty.
    """
    place = place_of(source, output)
    if place is not None:
        write_files(confidence, place)
        return place
    assert output is not None
    with whole_folder(output) as folder:
        if source.kind == "own":
            _copy(source.location, folder)
        else:
            source.classifier().save_pretrained(folder)
            source.processor().save_pretrained(folder)
        weights = open_source(str(folder)).provenance()["weights_sha256"]
        write_files(replace(confidence, weights=weights), folder)
        mark(folder)
    return Path(output)


def _copy(location: str, folder: Path) -> None:
    paths = weights_paths(location)
    names = [
        CONFIG_FILE,
        PREPROCESSOR_FILE,
        CARD_FILE,
        *(name for name in WEIGHTS_FILES if name.endswith(INDEX_SUFFIX)),
    ]
    paths += [path for name in names if (path := found_path(location, name)) is not None]
    for path in paths:
        shutil.copyfile(path, folder / path.name)


__all__ = ["fitted_before", "place_of", "write_calibrated"]
