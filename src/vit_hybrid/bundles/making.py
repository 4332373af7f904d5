"""Bundles from PyTorch classifiers: converted, quantized where asked for, written with all they need to start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

import torch

from ..checkpoints import published
from ..images.preprocessing import Preprocessing
from ..model.geometry import as_pair
from ..model.giving import giving
from ..model.modeling import ViTHybridForImageClassification
from ..model.token_merging import for_class_token, merge_tokens
from ..runtimes import LOGITS, RUNTIMES, check_installed
from .calibration import DEFAULT_TIME_LIMIT, CalibrationSource
from .conversion import DTYPES, convert, prepared
from .program import Made, described
from .quantization import quantize


def make(
    model: ViTHybridForImageClassification,
    engine: str,
    precision: str,
    provenance: Mapping[str, Any],
    *,
    owned: bool = False,
    dynamic: bool = False,
    token_merging: int | None = None,
    output: str = LOGITS,
    calibration: CalibrationSource = None,
    preprocessing: Preprocessing | None = None,
    preprocessing_fields: Mapping[str, Any] | None = None,
    time_limit: float = DEFAULT_TIME_LIMIT,
    progress: Callable[[str], None] | None = None,
) -> Made:
    """Makes a bundle of a classifier.

    Args:
        model: The classifier.
        engine: One of `runtimes.EXPORTED`.
        precision: One of the engine's.
        provenance: The model's name and the checksums of its weights and configuration.
        owned: Whether the model may be changed; otherwise a copy is.
        dynamic: Whether it is to take pictures of other sizes too.
        token_merging: Tokens to merge per layer.
        output: What the program is to give, of `runtimes.OUTPUTS`.
        calibration: Pictures for int8; see `calibration_pixels`.
        preprocessing: What turns pictures into the model's input; the published hybrids' where it is not known.
        preprocessing_fields: What to write as `preprocessor_config.json`.
        time_limit: Seconds for quantization.
        progress: Called with what is being done.

    Raises:
        EngineError: If the model cannot be converted or quantized so.
    """
    say = progress or (lambda _: None)
    say(f"Converting for {engine}")
    plain = prepared(model, owned)
    ready = for_class_token(plain) if token_merging is None else merge_tokens(plain, token_merging)
    row, converted = RUNTIMES[engine], None
    if row.builder is not None:
        check_installed(engine, f"converting a model for {engine}", *row.converter_packages)
        building = import_module(f".{row.builder}", __package__)
        converted = building.converted_from(plain, dynamic, token_merging, output, precision == "int8")
    if converted is None:
        dtype = DTYPES[precision] if row.traced_in_precision else torch.float32
        converted = convert(giving(ready, output), engine, dynamic, dtype)
    report, used = None, None
    if precision == "int8":
        how = preprocessing or published.preprocessing(as_pair(plain.config.image_size), plain.config.num_channels)
        report, used = quantize(converted, ready, calibration, how, time_limit, progress)
    how_made: dict[str, Any] = {"dynamic": dynamic, "token_merging": token_merging, "output": output}
    bundle = described(
        model.config,
        converted,
        precision,
        provenance,
        quantization=None if report is None else asdict(report),
        **how_made,
    )
    return Made(converted, bundle, preprocessing_fields, used, plain)


def object_provenance(model: ViTHybridForImageClassification) -> dict[str, str]:
    """Checksums of a model in memory, of its weights as they would be saved and of its configuration."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    config = model.config.to_json_string(use_diff=False)
    return {
        "model": type(model).__name__,
        "weights_sha256": digest.hexdigest(),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    }


__all__ = ["make", "object_provenance"]
