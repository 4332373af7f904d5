"""The options that several commands read alike, each written once; a group of them is one parameter of a command.

A group is a dataclass whose fields are annotated as options; `grouping.with_options` puts its fields in its parameter's
place, so that `engine: EngineOptions` gives a command nine options. A group that stands as a parameter's default says
which defaults are the command's own: `SplitOptions(val_fraction=0.1)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import shown
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE, DtypeChoice, EngineChoice, PrecisionChoice


def size_of(text: str) -> tuple[int, int]:
    """Height and width in pixels from `384` or `256x384`.

    Raises:
        ValueError: If `text` is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise ValueError(f"{shown(text)!r} is no size such as 384 or 256x384 (height x width).")
    return int(match[1]), int(match[2] or match[1])


def _parsed_size(text: str | tuple[int, int]) -> tuple[int, int]:
    if isinstance(text, tuple):
        return text
    try:
        return size_of(text)
    except ValueError as error:  # of which typer would not say what it says
        raise typer.BadParameter(str(error)) from error


def _share(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is no share between 0 and 1.")
    return value


# What every command that opens a model takes.
MODELS = (
    f"{BUILT_IN_MODEL}, a folder that save_pretrained wrote, a hub id, a JAX .npz file, or a file, folder or hub id of "
    "timm's"
)

AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, an object a line, instead of text and tables.")
]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace what this command wrote to OUT before.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Say what DATA holds, of which classes how many, and stop.")
]
BatchSize: TypeAlias = Annotated[int, typer.Option(min=1, help="How many images go through the model at once.")]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Where to run, such as cpu or cuda:0.", show_default="the accelerator if there is one, else cpu"),
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="How many threads compute.", show_default="the engine's own number")
]
Sources: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Folders, searched through all levels; globs; a text, CSV or JSON Lines file of paths; parquet with a "
        "column of pictures; webdataset tars; here or behind an address such as s3://bucket/pictures.",
        show_default=False,
    ),
]
AnyModel: TypeAlias = Annotated[
    str, typer.Option("--model", help=f"{MODELS}; or a bundle that vit-hybrid export wrote.")
]
TopK: TypeAlias = Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")]
CalibrationFolder: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DIR",
        help="For int8, and for --agreement: a folder of pictures like those the model is for.",
        show_default="made pictures, with a warning",
    ),
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
ImageSize: TypeAlias = Annotated[
    Any,  # what the parser makes of it: (height, width), or None
    typer.Option(
        parser=_parsed_size,
        metavar="N|HxW",
        help="For images of this size; position embeddings are resized.",
        show_default="the model's own",
    ),
]
NumLabels: TypeAlias = Annotated[
    int | None,
    typer.Option(min=0, help="With a new classifier for this many labels.", show_default="the model's own"),
]
MaxPixels: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="The most pixels that a picture may have; larger ones are not decoded.",
        show_default="250 million",
    ),
]


@dataclass(frozen=True)
class FeatureOptions:
    """How a model runs whose features are wanted."""

    engine: Annotated[
        EngineChoice,
        typer.Option(help="What runs the model; auto: openvino on a CPU where it is installed, else torch."),
    ] = AUTO
    precision: Annotated[
        PrecisionChoice,
        typer.Option(help="What to compute in; auto: a bundle's own, else f32."),
    ] = AUTO
    calibration: CalibrationFolder = None
    agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            callback=_share,
            help="With --calibration: the fastest way of all precisions that decides so many pictures as float32 does, "
            "such as 0.995, with 95 % confidence on the half of DIR that calibrates nothing.",
            show_default="no promise",
        ),
    ] = None
    device: Device = None
    batch_size: BatchSize = DEFAULT_BATCH_SIZE
    max_pixels: MaxPixels = None


@dataclass(frozen=True)
class VectorOptions(FeatureOptions):
    """How a model runs, in the words of `Predictor.from_pretrained`, where a dtype is that of vectors."""

    threads: Threads = None
    compile: Annotated[
        bool,
        typer.Option("--compile", help="--engine torch, compiled at the start: frozen kernels, on a GPU CUDA graphs."),
    ] = False
    token_merging: TokenMerging = None
    fast_decode: Annotated[
        bool,
        typer.Option("--fast-decode", help="Decode and resize pictures faster; levels may be off by a few of 255."),
    ] = False


@dataclass(frozen=True)
class EngineOptions(VectorOptions):
    """How a model runs, in the words of `Predictor.from_pretrained`."""

    dtype: Annotated[
        DtypeChoice | None,
        typer.Option(help="--engine torch in this dtype; auto: as the weights were saved.", show_default=False),
    ] = None


@dataclass(frozen=True)
class ConfidenceOptions:
    """What is said of a picture beside its labels, of a model that was calibrated."""

    coverage: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How often the set of labels is to hold the truth; of a calibrated model."),
    ] = DEFAULT_COVERAGE
    false_alarms: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Which share of pictures of what the model knows may be called none of these; likewise.",
        ),
    ] = DEFAULT_FALSE_ALARMS
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="Probabilities as the model gives them, and nothing beside them.")
    ] = False


@dataclass(frozen=True)
class DataOptions:
    """How labeled pictures are read."""

    image_column: Annotated[
        str | None, typer.Option(help="The column with the pictures or their paths.", show_default="by its name")
    ] = None
    label_column: Annotated[
        str | None, typer.Option(help="The column with the labels.", show_default="by its name")
    ] = None
    na_as_class: Annotated[
        bool,
        typer.Option("--na-as-class", help="Take words such as NA and None in a column of text for classes, not gaps."),
    ] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a picture that cannot be read, instead of skipping it.")
    ] = False

    @property
    def columns(self) -> dict[str, Any]:
        """What readers of labeled pictures take for the columns."""
        return {name: getattr(self, name) for name in ("image_column", "label_column", "na_as_class")}


@dataclass(frozen=True)
class SplitOptions(DataOptions):
    """How labeled pictures are read, and which of them are for validation."""

    val: Annotated[
        str | None, typer.Option(help="Another place with the validation pictures.", show_default="DATA's own")
    ] = None
    val_fraction: Annotated[
        float | None,
        typer.Option(callback=_share, help="The share of the pictures to validate on, where DATA has no such split."),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="What everything random depends on.")] = None


__all__ = [
    "AnyModel",
    "AsJson",
    "BatchSize",
    "CalibrationFolder",
    "ConfidenceOptions",
    "DataOptions",
    "Device",
    "DryRun",
    "EngineOptions",
    "FeatureOptions",
    "ImageSize",
    "MaxPixels",
    "NumLabels",
    "Overwrite",
    "Sources",
    "SplitOptions",
    "Threads",
    "TokenMerging",
    "TopK",
    "VectorOptions",
    "size_of",
]
