"""`vit-hybrid classify`: what is in these pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..data.sources import STANDARD_INPUT, contents, expand
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE
from .options import (
    CalibrationFolder,
    Compile,
    Device,
    Dtype,
    Engine,
    FastDecode,
    Precision,
    Threads,
    TokenMerging,
)
from .output import RecordPrinter
from .session import (
    EXIT_FAILED_IMAGES,
    ending_quietly,
    explaining_memory,
    opened_predictor,
    refuse,
    without_library_noise,
)

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
        str,
        typer.Option(
            help="The built-in model's name, a folder that save_pretrained or vit-hybrid export wrote, or a hub id."
        ),
    ] = BUILT_IN_MODEL,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to give for each image.")] = DEFAULT_TOP_K,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each image, instead of tables.")
    ] = False,
    engine: Engine = AUTO,
    precision: Precision = AUTO,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = None,
    compile: Compile = False,
    calibration: CalibrationFolder = None,
    token_merging: TokenMerging = None,
    fast_decode: FastDecode = False,
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
        predictor = opened_predictor(
            model,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            engine=engine,
            precision=precision,
            fast_decode=fast_decode,
            threads=threads,
            calibration=calibration,
            compile=compile,
            token_merging=token_merging,
        )
        try:
            # Standard input is read when its turn comes, and its turn is not to be waited for.
            records = predictor.stream(contents(pairs), top_k=top_k, read_ahead=_is_many(pairs, batch_size))
        except ValueError as error:
            refuse(error)
        printer = RecordPrinter(as_json=json_lines, labels=predictor.labels, total=len(pairs))
        with printer, explaining_memory(batch_size):
            for record in records:
                printer.print(record)
    if printer.failures:
        raise typer.Exit(EXIT_FAILED_IMAGES)


def _is_many(pairs: Sequence[tuple[str, object]], batch_size: int) -> bool:
    return len(pairs) > batch_size and all(source != STANDARD_INPUT for _, source in pairs)


__all__ = ["classify"]
