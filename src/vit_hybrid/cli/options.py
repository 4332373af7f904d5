"""Options that several subcommands read alike."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

import typer

from ..runtimes import DtypeChoice, EngineChoice, PrecisionChoice

Device: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Where to run, such as cpu or cuda:0.", show_default="the accelerator if there is one, else cpu"),
]
Engine: TypeAlias = Annotated[
    EngineChoice,
    typer.Option(help="What runs the model; auto: openvino on a CPU where it is installed, else torch."),
]
Precision: TypeAlias = Annotated[
    PrecisionChoice,
    typer.Option(help="What to compute in; auto: a bundle's own, else f32."),
]
Dtype: TypeAlias = Annotated[
    DtypeChoice | None,
    typer.Option(help="--engine torch in this dtype; auto: as the weights were saved.", show_default=False),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="How many threads compute.", show_default="the engine's own number")
]
CalibrationFolder: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DIR",
        help="For int8: a folder of pictures like those the model is for.",
        show_default="made pictures, with a warning",
    ),
]
Compile: TypeAlias = Annotated[
    bool,
    typer.Option("--compile", help="--engine torch, compiled at the start: frozen kernels, on a GPU CUDA graphs."),
]
TokenMerging: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="R",
        help="Let the encoder merge R tokens per layer: faster, and less accurate.",
        show_default="none are merged",
    ),
]
FastDecode: TypeAlias = Annotated[
    bool,
    typer.Option("--fast-decode", help="Decode and resize pictures faster; levels may be off by a few of 255."),
]


def parsed_size(text: str | None) -> tuple[int, int] | None:
    """Height and width in pixels from `384` or `256x384`.

    Raises:
        typer.BadParameter: If `text` is neither.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no size such as 384 or 256x384 (height x width).", param_hint="--image-size"
        )
    return int(match[1]), int(match[2] or match[1])
