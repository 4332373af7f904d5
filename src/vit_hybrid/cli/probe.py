"""`vit-hybrid probe`: what does a frozen model know of these classes?"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import reason
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE
from .options import CalibrationFolder, Device, Engine, Precision
from .output import UNLIMITED_WIDTH, ProgressBar, complain, printable, write
from .session import ending_quietly, loading, refuse, without_library_noise, without_transformers_bars

if TYPE_CHECKING:
    from ..data import LabeledPictures
    from ..probe import Report

DEFAULT_TRIALS = 5
DEFAULT_NEIGHBORS = 20
DEFAULT_VAL_FRACTION = 0.1

Number = TypeVar("Number", int, float)


def probe(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Pictures with one label each: a folder of class folders, with train/ and val/ or without; a parquet, "
            "CSV or JSON Lines file; or a datasets folder or hub id.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="The built-in model's name, a folder that save_pretrained wrote, a hub id, or a file of the authors' "
            "JAX code or of timm's. Its head, if any, does not matter."
        ),
    ] = BUILT_IN_MODEL,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Write the model with a classifier for the new classes to this folder, for classify --model OUT.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that a probe wrote to OUT.")] = False,
    val: Annotated[
        str | None, typer.Option(help="Validation pictures, where DATA has none.", show_default=False)
    ] = None,
    val_fraction: Annotated[
        float,
        typer.Option(help="Share of the training pictures that become validation pictures where there are none."),
    ] = DEFAULT_VAL_FRACTION,
    image_column: Annotated[
        str | None, typer.Option(help="The column with the pictures or their paths.", show_default="by its name")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column with the labels.", show_default="by its name")
    ] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N[,N...]",
            help="How many training pictures a class, beside all of them; may be repeated.",
            show_default="1,5,10,25, those there are",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How often the few pictures are drawn.")] = DEFAULT_TRIALS,
    neighbors: Annotated[int, typer.Option(min=1, help="How many nearest neighbors vote.")] = DEFAULT_NEIGHBORS,
    l2: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X[,X...]",
            help="The strength of the regularization; of several, the one best on held-out training pictures.",
            show_default="the powers of 4 from 2^-10 to 2^20",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What all draws depend on.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a picture that cannot be read, instead of skipping it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    engine: Engine = "torch",
    precision: Precision = AUTO,
    calibration: CalibrationFolder = None,
    device: Device = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="How many images go through the model at once.")
    ] = DEFAULT_BATCH_SIZE,
) -> None:
    """Try a frozen model on new classes: few-shot least squares and nearest neighbors on its features.

    The ViT paper's few-shot protocol: the model runs once over each picture, a linear classifier is computed in closed
    form from n training pictures a class, and its top-1 on the validation pictures is printed. Nothing is chosen on
    those.

    A picture that cannot be read is skipped and named (on standard error, or with --json under "unreadable").
    """
    shot_numbers = _numbers(shots, int, "--shots", "whole numbers from 1 on, such as 1,5,10")
    strengths = _numbers(l2, float, "--l2", "numbers above 0, such as 1024 or 1,32,1024")
    if not 0 < val_fraction < 1:
        raise typer.BadParameter(f"{val_fraction:g} is no share between 0 and 1.", param_hint="--val-fraction")
    with ending_quietly(), without_library_noise():
        train_pictures, val_pictures, notes = _read(data, val, val_fraction, seed, image_column, label_column)
        with loading(model):
            from safetensors import SafetensorError
            from torch import OutOfMemoryError

            from .. import probe as job

            try:
                if output is not None:
                    job.check_output(output, overwrite)
                frozen = job.FrozenModel.from_pretrained(
                    model,
                    train_pictures.labels,
                    device,
                    batch_size,
                    engine=engine,
                    precision=precision,
                    calibration=calibration,
                )
            except (OSError, ValueError, RuntimeError, MemoryError, ImportError, SafetensorError) as error:
                refuse(reason(error))

        started = time.perf_counter()
        bar = ProgressBar(len(train_pictures) + len(val_pictures), doing="Features")
        with closing(bar):
            try:
                train, held_out = (
                    frozen.features(pictures, lambda *_: bar.advance(), strict)
                    for pictures in (train_pictures, val_pictures)
                )
            except OutOfMemoryError:
                refuse(f"the device has too little memory for {batch_size} images at once; try a smaller --batch-size")
            except ValueError as error:
                refuse(reason(error))
        seconds = time.perf_counter() - started

        try:
            report, solution = job.probe(
                train,
                held_out,
                train_pictures.labels,
                shot_numbers,
                trials,
                neighbors,
                strengths or job.L2_CANDIDATES,
                seed,
            )
            report["seconds"]["features"] = seconds
            report["notes"] = list(dict.fromkeys([*notes, *report["notes"]]))
            if output is not None:
                with without_transformers_bars():
                    job.write_model(output, frozen, solution, report, _title(model), _title(data), overwrite)
        except (OSError, ValueError, SafetensorError) as error:
            refuse(reason(error))
        if as_json:
            write(json.dumps({"model": model, "data": data, "output": output, **report}) + "\n")
        else:
            _print(report, output)


def _numbers(texts: list[str] | None, kind: Callable[[str], Number], option: str, expected: str) -> list[Number] | None:
    """The numbers of a repeatable option whose values may be lists."""
    if not texts:
        return None
    words = [word.strip() for text in texts for word in text.split(",")]
    try:
        numbers = [kind(word) for word in words if word != "all"]  # all are tried in any case
    except ValueError:
        numbers = [kind("0")]
    if any(not (number > 0 and math.isfinite(number)) for number in numbers) or (kind is float and "all" in words):
        raise typer.BadParameter(f"{','.join(texts)!r}: expected {expected}.", param_hint=option)
    return numbers


def _read(
    data: str, val: str | None, val_fraction: float, seed: int, image_column: str | None, label_column: str | None
) -> tuple[LabeledPictures, LabeledPictures, list[str]]:
    """Training and validation pictures; ends the command where a probe cannot use them."""
    from ..data import SINGLE_LABEL, read_splits

    try:
        split = read_splits(
            data,
            val=val,
            val_fraction=val_fraction,
            seed=seed,
            image_column=image_column,
            label_column=label_column,
        )
    except (OSError, ValueError, ImportError) as error:
        refuse(reason(error))
    if split.train.problem_type != SINGLE_LABEL:
        kind = split.train.problem_type.replace("_", " ")
        refuse(
            f"{data}: this is data for {kind}; a probe takes pictures with one label each (vit-hybrid train takes the "
            "others too)"
        )
    return split.train, split.val, list(split.notes)


def _print(report: Report, output: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..probe.writing import percent

    for picture in report["unreadable"]:
        complain(f"skipped: {picture['error']}")
    for note in report["notes"]:
        complain(note)
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=True)
    for heading in ("pictures a class", "pictures", "least squares", f"{report['neighbors']} nearest neighbors"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(str(row["shots"]), f"{row['images']:,}", percent(row["least_squares"]), percent(row["knn"]))
    width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    lines = [
        f"Top-1 on {report['val_images']:,} validation pictures of {len(report['classes'])} classes, mean of the draws "
        "and range",
        *(line.rstrip() for line in captured.get().splitlines()),
        f"{report['seconds']['features']:.1f} s for the features of all pictures, {report['seconds']['solving']:.1f} s "
        "for the rest",
    ]
    if output is not None:
        lines.append(f"Wrote {printable(output)}")
    write("\n".join(lines) + "\n")


def _title(place: str) -> str:
    """What a card calls a model or data: a folder or file by its name, without where it lies on this machine."""
    return os.path.basename(os.path.abspath(place)) if os.path.exists(place) else place


__all__ = ["probe"]
