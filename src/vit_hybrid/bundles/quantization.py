"""Eight-bit integers for weights and activations: post-training quantization, and what it leaves out.

For openvino it is NNCF's: SmoothQuant moves the outliers of activations into the weights (arXiv 2211.10438), bias
correction takes out the mean error of each layer (Nagel et al., arXiv 1906.04721). For onnx it is ONNX Runtime's own,
with a scale for each output channel. What costs most accuracy for its arithmetic is ranked beforehand (`sensitivity`)
and stays in floating point: with openvino bfloat16 where the CPU has it. So do the products inside attention.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import EngineError, EngineWarning, one_line
from ..images.preprocessing import Preprocessing
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from ..runtimes import RUNTIMES, check_installed, somewhere_at_home
from .calibration import (
    DEFAULT_TIME_LIMIT,
    FEWEST_PICTURES,
    MOST_PICTURES,
    Calibration,
    CalibrationSource,
    calibration_pixels,
)
from .conversion import quiet
from .program import MERGING, Converted
from .sensitivity import LayerError, choose, rank_layers

# The share of the arithmetic of convolutions and linear layers that may stay in floating point: about a tenth, more of
# which would cost the speed.
FLOAT_BUDGET = 0.12
# Layers beyond those that make up this share of the summed error are not worth their arithmetic.
ERROR_WORTH_REMOVING = 0.8
# What ranking may take of the time.
RANKING_SHARE = 0.2
# Runs of the float model that quantization takes for each calibration picture: SmoothQuant's statistics, those of the
# quantizers, and bias correction, each somewhat slower than a plain run.
RUNS_PER_PICTURE = 5.0

# What must stay in floating point when NNCF quantizes (`nncf.IgnoredScope(patterns=...)`): the two products of a merge
# of tokens, one to choose them and one to carry them over, by the names that they have on OpenVINO and in ONNX. Linear
# layers have others there; attention's products share these only where it is eager.
FLOAT_PATTERNS = (rf"^.*\.{MERGING}\..*$", r"^MatMul_\d+$", r"^node_bmm(_\d+)?$")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class QuantizationReport:
    """What was quantized, and what not.

    Attributes:
        calibration: What the calibration pictures were.
        pictures: How many of them were used.
        kept: The layers that stay in floating point, those that cost most first.
        kept_share: Their share of the arithmetic of all convolutions and linear layers.
        error_share: Their share of the summed error.
        ranked: How many pictures the ranking looked at.
        seconds: How long it all took.
    """

    calibration: str
    pictures: int
    kept: tuple[str, ...]
    kept_share: float
    error_share: float
    ranked: int
    seconds: float


@somewhere_at_home()
def quantize(
    converted: Converted,
    model: ViTHybridForImageClassification,
    source: CalibrationSource,
    preprocessing: Preprocessing,
    time_limit: float = DEFAULT_TIME_LIMIT,
    progress: Progress | None = None,
) -> tuple[QuantizationReport, Calibration]:
    """Quantizes a converted model in place.

    Args:
        converted: For openvino or onnx.
        model: The prepared PyTorch model that it was converted from.
        source: The calibration pictures: see `calibration_pixels`.
        preprocessing: What turns them into the model's input.
        time_limit: Seconds; fewer pictures are looked at where there is less time.
        progress: Called with what is being done.

    Raises:
        EngineError: If NNCF is not installed, the calibration pictures cannot be used, or NNCF fails.
    """
    say = progress or (lambda _: None)
    tool = RUNTIMES[converted.engine].quantizer
    assert tool is not None, "int8 is not among this engine's precisions"
    check_installed(converted.engine, f"int8 on {converted.engine}", tool)
    start = time.monotonic()
    height, width = as_pair(model.config.image_size)
    shape = (model.config.num_channels, height, width)
    say("Reading calibration pictures")
    calibration = calibration_pixels(source, preprocessing, shape, FEWEST_PICTURES)
    affordable = _affordable(_seconds_a_picture(model, calibration.pixel_values[:1]), time_limit)
    if affordable > FEWEST_PICTURES:
        calibration = calibration_pixels(source, preprocessing, shape, affordable)
    if calibration.passed:
        warnings.warn(EngineWarning(f"calibration {calibration.passed.line()}"), stacklevel=2)
    pixels = calibration.pixel_values

    say("Ranking layers by what their quantization costs")
    ranking, ranked = rank_layers(model, pixels, time_limit * RANKING_SHARE)
    kept = choose(ranking, FLOAT_BUDGET, ERROR_WORTH_REMOVING)

    say(f"Quantizing with {len(pixels)} calibration pictures")
    try:
        with quiet(), torch.no_grad():
            _run(tool, converted, pixels, kept)
    except Exception as error:  # the quantizers' errors are of many kinds
        raise EngineError(f"cannot quantize this model for {converted.engine}: {one_line(error)}") from error
    total = sum(layer.error for layer in ranking) or 1.0
    report = QuantizationReport(
        calibration=calibration.about,
        pictures=len(pixels),
        kept=tuple(layer.name for layer in kept),
        kept_share=round(sum(layer.share for layer in kept), 4),
        error_share=round(sum(layer.error for layer in kept) / total, 4),
        ranked=ranked,
        seconds=round(time.monotonic() - start, 1),
    )
    return report, calibration


def _run(tool: str, converted: Converted, pixels: np.ndarray, kept: Sequence[LayerError]) -> None:
    samples = [{"pixel_values": torch.from_numpy(picture[None])} for picture in pixels]
    make = {"nncf": _nncf_quantizer, "onnxruntime": _onnx_quantizer}[tool]
    quantizer = make(_names(converted, kept), samples)
    converted.program = quantizer.quantize(converted.program, samples[0], converted.engine)


def _nncf_quantizer(kept: list[str], samples: list[dict[str, Any]]) -> Any:
    import nncf
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig

    # From the least to the greatest value in any calibration picture. By default NNCF takes the mean of the pictures'
    # ranges, which cuts off what bright pictures have above it (docs/measured.md, "Quantization").
    whole_range = RangeEstimatorParameters(
        min=StatisticsCollectorParameters(statistics_type=StatisticsType.MIN, aggregator_type=AggregatorType.MIN),
        max=StatisticsCollectorParameters(statistics_type=StatisticsType.MAX, aggregator_type=AggregatorType.MAX),
    )
    config = NNCFQuantizationConfig(
        preset=nncf.QuantizationPreset.MIXED,  # activations behind GELU and ReLU lie on one side of zero
        subset_size=len(samples),
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(names=kept, patterns=list(FLOAT_PATTERNS), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=whole_range),
    )
    return NNCFOpenVINOQuantizer(config, calibration_dataset=samples)


def _onnx_quantizer(kept: list[str], samples: list[dict[str, Any]]) -> Any:
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

    config = OnnxRuntimeStaticConfig(
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
    )
    return OnnxRuntimeQuantizer(config, calibration_dataset=samples)


def _names(converted: Converted, kept: Sequence[LayerError]) -> list[str]:
    """What the converted program calls these layers."""
    nodes = _onnx_nodes
    if converted.engine == "openvino":
        nodes = _openvino_nodes
        named = {node.get_friendly_name() for node in converted.program.get_ops()}
        if all(layer.name in named for layer in kept):  # it was built, not traced
            return [layer.name for layer in kept]
    found = {kind: nodes(converted.program, kind) for kind in ("convolution", "linear")}
    return [found[layer.kind][layer.index] for layer in kept if layer.index in found[layer.kind]]


def _openvino_nodes(program: Any, kind: str) -> dict[int, str]:
    """Names in a program that was traced: `linear_3/aten.linear.default/MatMul` is the fourth linear layer to run."""
    operation = {"convolution": "Convolution", "linear": "MatMul"}[kind]
    numbered = ((node, re.match(rf"(?:{kind}|conv2d)_(\d+)/", node.get_friendly_name())) for node in program.get_ops())
    return {
        int(match[1]): node.get_friendly_name()
        for node, match in numbered
        if match is not None and node.get_type_name() == operation
    }


def _onnx_nodes(program: Any, kind: str) -> dict[int, str]:
    """Names by number: nodes stand in the order of computation. Attention's products have no weights."""
    operations = {"convolution": ("Conv",), "linear": ("MatMul", "Gemm")}[kind]

    def is_weight(value: Any) -> bool:
        producer = value.producer()
        return value.is_initializer() or (producer is not None and producer.inputs[0].is_initializer())

    nodes = [node for node in program.graph if node.op_type in operations and is_weight(node.inputs[1])]
    return {index: node.name for index, node in enumerate(nodes)}


def _seconds_a_picture(model: ViTHybridForImageClassification, pixels: np.ndarray) -> float:
    batch = torch.from_numpy(pixels)
    with torch.inference_mode():
        model(batch)
        start = time.perf_counter()
        model(batch)
        return time.perf_counter() - start


def _affordable(seconds: float, time_limit: float) -> int:
    share = (1 - RANKING_SHARE) * time_limit
    return max(FEWEST_PICTURES, min(MOST_PICTURES, math.floor(share / (RUNS_PER_PICTURE * seconds))))


__all__ = ["FLOAT_PATTERNS", "QuantizationReport", "quantize"]
