"""From a PyTorch classifier to the program of an engine, through `transformers.exporters`."""

from __future__ import annotations

import copy
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..errors import EngineError, one_line
from ..files import require_room
from ..model.configuration import ViTHybridConfig
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from ..runtimes import DTYPE_NAMES, FLOATING, RUNTIMES, check_installed, somewhere_at_home
from .program import Converted

# A batch of one would be taken for a constant by the tracer.
SAMPLE_BATCH = 2
# More pictures than anyone puts through at once; the exporter wants a bound.
LARGEST_BATCH = 4096
# Bytes of a program of PyTorch beside its weights: the graph.
ROOM_BESIDE = 2_000_000
# OpenVINO's converter and NNCF report each use to their makers, from a process that outlives this one where there is no
# network. Both leave it where they run for a build: what tells them so counts for the moment.
NO_REPORTS = {"TF_BUILD": "1", "NNCF_CI": "1"}
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, DTYPE_NAMES[name]) for name in FLOATING}


@somewhere_at_home()
def convert(
    model: ViTHybridForImageClassification, engine: str, dynamic: bool = False, dtype: torch.dtype = torch.float32
) -> Converted:
    """Converts a classifier, for any number of pictures at once; for executorch, for one.

    Args:
        model: The classifier as `prepared` gives it; it may be a token-merging one.
        engine: One of `runtimes.EXPORTED`.
        dynamic: Whether pictures of other sizes are taken too; their position embeddings are then resized bicubically.
        dtype: What the program computes in. openvino and onnx decide that when they load it, and want float32 here.

    Raises:
        EngineError: If the exporter is not there or cannot do it.
    """
    row = RUNTIMES[engine]
    check_installed(engine, f"converting a model for {engine}", *row.converter_packages)
    try:
        module, _, name = row.exporter.partition(".")
        with quiet():  # they warn when they are imported, too
            exporters = importlib.import_module("transformers.exporters")
            exporter = getattr(importlib.import_module(f"transformers.exporters.{module}"), name)
        config_class = getattr(exporters, row.exporter_config)
    except ImportError as error:
        raise EngineError(
            f"converting a model for {engine} needs transformers.exporters, which transformers "
            f"{metadata.version('transformers')} lacks ({one_line(error)}); pip install 'transformers>=5.23' brings it."
        ) from error
    height, width = as_pair(model.config.image_size)
    batch_size = 1 if row.plans_memory else SAMPLE_BATCH
    pixels = torch.zeros(batch_size, model.config.num_channels, height, width, dtype=dtype)
    sample: dict[str, Any] = {"pixel_values": pixels}
    shapes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
    if dynamic:
        if row.plans_memory:
            raise EngineError(f"{engine} plans its memory beforehand, and has no dynamic height and width.")
        check_dynamic(model.config)
        sample["interpolate_pos_encoding"] = True
        shapes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    dynamic_shapes: dict[str, Any] = {"pixel_values": shapes}
    if dynamic:
        dynamic_shapes["interpolate_pos_encoding"] = None
    settings = config_class() if row.plans_memory else config_class(dynamic_shapes=dynamic_shapes)
    try:
        with torch.no_grad(), quiet():
            in_dtype = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
            exported = exporter().export(in_dtype, sample, settings)
    except Exception as error:  # what the tracers and converters raise is of many kinds
        raise EngineError(f"cannot convert this model for {engine}: {_first_line(error)}") from error

    def save(program: Any, folder: Path) -> None:
        if engine == "torch":
            # Where torch.export.save cannot write the beginning of its file, it ends the process.
            tensors = [*program.state_dict.values(), *program.constants.values()]
            weights = sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))
            require_room(folder, weights + ROOM_BESIDE)
        exported.components["model"].program = program
        exported.save_pretrained(folder)

    converted = Converted(engine, exported.program, save)
    if engine == "openvino" and not dynamic:
        # The tracer leaves these open, and kernels for known sizes are faster.
        converted.program.reshape({0: [-1, model.config.num_channels, height, width]})
    return converted


def prepared(model: ViTHybridForImageClassification, owned: bool = False) -> ViTHybridForImageClassification:
    """The model as it is converted: float32, on the CPU, in evaluation mode, folded, with sdpa attention.

    Args:
        model: The classifier.
        owned: Whether it may be changed; otherwise a copy is.
    """
    model = model if owned else copy.deepcopy(model)
    model = model.to("cpu", torch.float32).fold_weight_standardization()
    model.set_attn_implementation("sdpa")
    return model


def check_dynamic(config: ViTHybridConfig) -> None:
    """Raises `EngineError` where a model cannot take pictures of another size than its own."""
    backbone = config.backbone_config
    if backbone.global_padding != "SAME" or backbone.layer_type != "bottleneck":
        raise EngineError(
            "this model cannot be exported with dynamic height and width: its backbone has padding "
            f"{backbone.global_padding!r} and layers {backbone.layer_type!r}, and only with 'SAME' and 'bottleneck' "
            "are the sizes of branches in step; export it without --dynamic, once for each size."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what tracers, converters and quantizers print, log and warn of, and report to their makers."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    before = {name: os.environ.get(name) for name in NO_REPORTS}
    os.environ.update(NO_REPORTS)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    with suppress(IndexError):
        if text.endswith(":"):
            text += f" {lines[1]}"
    return text


__all__ = ["DTYPES", "convert", "prepared", "quiet"]
