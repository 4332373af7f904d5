"""`vit-hybrid classify`: what is in these pictures?"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..assets import BUILT_IN_MODEL
from ..sources import DEFAULT_BATCH_SIZE, contents, expand
from .output import EXIT_FAILED_IMAGES, RecordPrinter, ending_quietly, loading, refuse, without_library_noise

DEFAULT_TOP_K = 5


def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders, searched through all levels for pictures; - for standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str, typer.Option(help="The built-in model's name, a folder that save_pretrained wrote, or a hub id.")
    ] = BUILT_IN_MODEL,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = DEFAULT_TOP_K,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each image, instead of tables.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to run, such as cpu or cuda:0.", show_default="the accelerator if there is one, else cpu"
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "auto"],
        typer.Option(help="What to compute in; auto: as the weights were saved."),
    ] = "float32",
    batch_size: Annotated[
        int, typer.Option(min=1, help="How many images go through the model at once.")
    ] = DEFAULT_BATCH_SIZE,
) -> None:
    """Say what is in images: ranked labels with their probabilities.

    An image that cannot be read gets one line that says why (on standard error, or with --json in its place) and the
    others are still classified; the exit status is then 1. With a wrong option or --model it is 2.
    """
    with ending_quietly(), without_library_noise():
        pairs = expand(images)
        with loading(model):
            from torch import OutOfMemoryError

            from ..predictor import Predictor

            try:
                predictor = Predictor.from_pretrained(model, device=device, dtype=dtype, batch_size=batch_size)
                records = predictor.stream(contents(pairs), top_k=top_k)
            except ValueError as error:
                refuse(error)

        with RecordPrinter(as_json=json_lines, labels=predictor.labels, total=len(pairs)) as printer:
            try:
                for record in records:
                    printer.print(record)
            except OutOfMemoryError:
                refuse(f"the device has too little memory for {batch_size} images at once; try a smaller --batch-size")
    if printer.failures:
        raise typer.Exit(EXIT_FAILED_IMAGES)


__all__ = ["classify"]
