"""The process of a contender of this package, or of what measures the machine.

`python -m vit_hybrid.benchmark.worker` speaks the protocol of `peer`. What a task does not need is not imported: the
start-up and the memory of an engine that runs without torch are its own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from ..runtimes import DTYPE_NAMES
from .peer import first_pass, passes_over, serve, timed

Answer: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

FLOPS_PER_MULTIPLY_ADD = 2


def engine(task: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """Forward passes of one of this package's engines; `options` are `vit_hybrid.engines.load`'s."""
    from ..engines import EngineWarning, load

    options = dict(task["options"])
    if options.get("calibration") is not None:
        import numpy

        options["calibration"] = numpy.load(options["calibration"])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loaded = load(task["model"], **options)
    said = [str(one.message) for one in warned if issubclass(one.category, EngineWarning)]

    def logits(pixels: Any) -> Any:
        loaded.expect(len(pixels))
        return loaded.logits(pixels)

    first_pass(logits, task["pixels"])
    about = {"device": str(loaded.device), "fallback": "; ".join(said)}
    if loaded.name != "torch" or about["device"] == "cpu":
        return about, passes_over(logits, task["pixels"])
    import torch

    return about, passes_over(loaded.logits, task["pixels"], lambda pixels: torch.from_numpy(pixels).to(loaded.device))


def matrix_product(task: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """Products of the shape of the encoder's MLP, (rows, hidden) by (hidden, inner); and convolutions of 3 x 3 over the
    maps of the backbone's second stage, channels last.

    A request with `rows` and `precision` gets the `rate` in operations a second of its fastest pass; where `precision`
    is `f32 convolution`, say, that of a convolution over `batch` maps.
    """
    import torch

    torch.set_num_threads(task["threads"])
    device = torch.device(task["device"])
    synchronize: Callable[[], Any] = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    hidden, inner = task["hidden"], task["inner"]

    def rate(multiply_adds: int, compute: Callable[[], Any], least_seconds: float) -> dict[str, Any]:
        def run() -> None:
            compute()
            synchronize()

        seconds, _ = timed(run, least_seconds)
        return {"rate": FLOPS_PER_MULTIPLY_ADD * multiply_adds / min(seconds)}

    def product(rows: int, precision: str, least_seconds: float) -> dict[str, Any]:
        options: dict[str, Any] = {"device": device, "dtype": getattr(torch, DTYPE_NAMES[precision])}
        if precision == "int8":
            left, right = (torch.ones(*shape, **options) for shape in ((rows, hidden), (hidden, inner)))
            return rate(rows * hidden * inner, lambda: torch._int_mm(left, right), least_seconds)
        left, right = torch.randn(rows, hidden, **options), torch.randn(hidden, inner, **options)
        return rate(rows * hidden * inner, lambda: left @ right, least_seconds)

    def convolution(batch: int, precision: str, least_seconds: float) -> dict[str, Any]:
        options: dict[str, Any] = {"device": device, "dtype": getattr(torch, DTYPE_NAMES[precision])}
        channels, height, width = task["maps"]
        maps = torch.randn(batch, channels, height, width, **options).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, **options).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            multiply_adds = batch * height * width * channels * channels * 9
            return rate(multiply_adds, lambda: torch.conv2d(maps, weight, padding=1), least_seconds)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        precision, _, is_convolution = request["precision"].partition(" ")
        if is_convolution:
            return convolution(request["batch"], precision, request["least_seconds"])
        return product(request["rows"], precision, request["least_seconds"])

    product(1, "f32", 0.0)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"device": str(device), "device_name": name}, answer


def preprocessing(task: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    """From encoded pictures to pixel values, as the model's preprocessor_config.json says; on one thread.

    A request gets the `seconds` of passes over `pictures` pictures, and with `"decode_only": true` of decoding alone.
    """
    from ..data.made import encoded_pictures
    from ..images.preprocessing import Preprocessing
    from ..images.reading import open_image

    prepare = Preprocessing.from_dict(json.loads(Path(task["preprocessing"]).read_text(encoding="utf-8")))
    files = encoded_pictures(task["pictures"], task["mode"])

    def decode() -> Any:
        return [open_image(file) for file in files]

    def run() -> Any:
        return prepare([open_image(file) for file in files])

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        seconds, _ = timed(decode if request["decode_only"] else run, request["least_seconds"])
        return {"seconds": seconds, "pictures": len(files)}

    run()
    return {}, answer


if __name__ == "__main__":
    serve({"engine": engine, "matrix-product": matrix_product, "preprocessing": preprocessing})
