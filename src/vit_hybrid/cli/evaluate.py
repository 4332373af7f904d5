"""`vit-hybrid evaluate`: how good is this model on these labeled pictures?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import reason
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
from .output import UNLIMITED_WIDTH, ProgressBar, complain, printable, write
from .session import (
    EXIT_FAILED_IMAGES,
    ending_quietly,
    explaining_memory,
    opened_predictor,
    refuse,
    without_library_noise,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluate import Evaluation

# What a terminal has room for: larger tables show the worst rows, a larger matrix only its most confused pairs.
MOST_CLASS_ROWS = 40
MOST_MATRIX_LABELS = 12
MOST_PAIRS = 10
UNDEFINED = "-"

Cells = Sequence[str]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The built-in model's name, a folder that save_pretrained or vit-hybrid export wrote, or a hub id.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labeled pictures: a folder of class folders, with train/, val/ or test/ or without; a parquet, CSV "
            "or JSON Lines file or a folder of these; or a datasets folder or hub id.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The split to measure on.", show_default="test, else val, else all there is"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write metrics.json, predictions.csv, confusion_matrix.png and mistakes.png to this folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a picture that cannot be read, instead of skipping it.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure on so many pictures, spread evenly.", show_default="all"),
    ] = None,
    image_column: Annotated[
        str | None, typer.Option(help="The column with the pictures or their paths.", show_default="by its name")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column with the labels.", show_default="by its name")
    ] = None,
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
    """Measure a model on labeled pictures: accuracy, each class, calibration, what is confused with what.

    Labels are matched by name; data with bare integers mean the positions of the model's labels. Multi-label and
    regression models get the scores of their kind.

    A picture that cannot be read is skipped and named (on standard error, or with --json under "unreadable"); the exit
    status is then 1. With wrong options, data that do not fit the model, or --strict and such a picture, it is 2.
    """
    with ending_quietly(), without_library_noise():
        columns = {"image_column": image_column, "label_column": label_column}
        try:
            from ..evaluate import as_values, default_split, spread, write_files
            from ..evaluate import evaluate as run
            from ..outputs.problems import REGRESSION

            pictures, split = default_split(data, split, **columns)
            if output is not None:
                os.makedirs(output, exist_ok=True)  # not only after all the work
        except (OSError, ValueError, ImportError) as error:
            refuse(reason(error))
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
        if predictor.problem_type == REGRESSION:
            pictures = as_values(pictures, data, split, **columns)
        if limit is not None:
            pictures = spread(pictures, limit)

        bar = ProgressBar(len(pictures), doing="Evaluating")

        def progress(error: Any) -> None:
            if error is not None and not as_json and not strict:
                with bar.out_of_the_way():
                    complain(error["error"])
            bar.advance()

        try:
            with explaining_memory(batch_size):
                found = run(predictor, pictures, strict=strict, progress=progress)
        except ValueError as error:
            refuse(error)
        finally:
            bar.close()

        about = {"model": model, "data": data, "split": split}
        if as_json:
            write(json.dumps({**about, **found.report()}, allow_nan=False) + "\n")
        else:
            for note in found.notes:
                complain(note)
            write(_as_tables(found, model, data, split))
        if output is not None:
            try:
                write_files(found, output, about)
            except OSError as error:
                refuse(reason(error))
    if found.skipped:
        raise typer.Exit(EXIT_FAILED_IMAGES)


def _as_tables(found: Evaluation, model: str, data: str, split: str | None) -> str:
    from rich.console import Console, Group
    from rich.text import Text

    width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    where = f"{split} split of {data}" if split is not None else data
    parts: list[Any] = [Text(printable(f"{model} on {where}"), style="bold"), _summary(found)]
    scores: dict[str, Any] = {**found.scores}
    if "per_class" in scores:
        parts += _classes("class", "classes", scores["per_class"], worst_by="recall")
        if scores["confusion_matrix"] is not None and len(found.labels) <= MOST_MATRIX_LABELS:
            parts += _matrix(scores["confusion_matrix"], found.labels)
        parts += _confused(scores["most_confused"][:MOST_PAIRS])
    elif "per_label" in scores:
        parts += _classes("label", "labels", scores["per_label"], worst_by="average_precision")
    elif len(scores["per_value"]) > 1:
        rows = ([name, *map(_number, one.values())] for name, one in scores["per_value"].items())
        parts += _titled("Each value", _new_table(["value", "MAE", "RMSE", "R2"], rows))
    with console.capture() as captured:
        console.print(Group(*parts))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


# What the summary calls the scores, in its order, and whether they are shares.
SCORE_NAMES = {
    "top1": ("top-1", True),
    "top5": ("top-5", True),
    "balanced_accuracy": ("balanced accuracy", True),
    "mean_average_precision": ("mean average precision", True),
    "micro_f1": ("micro F1", True),
    "macro_f1": ("macro F1", True),
    "exact_match": ("exact match", True),
    "hamming_accuracy": ("Hamming accuracy", True),
    "expected_calibration_error": ("calibration error", True),
    "negative_log_likelihood": ("negative log-likelihood", False),
    "mae": ("MAE", False),
    "rmse": ("RMSE", False),
    "r2": ("R2", False),
}


def _summary(found: Evaluation) -> Table:
    report = found.report()
    rows = [["pictures", f"{report['images']:,}"]]
    if found.skipped:
        rows.append(["skipped", f"{report['skipped']:,}"])
    for key, (name, is_share) in SCORE_NAMES.items():
        if key in report:
            rows.append([name, _share(report[key]) if is_share else _number(report[key])])
    rows.append(["pictures a second", _number(report["images_per_second"])])
    return _new_table(None, rows)


def _classes(what: str, plural: str, scores: dict[str, Any], worst_by: str) -> list[Any]:
    """A row for each class; of many classes, those of the lowest score."""
    chosen = list(scores.items())
    title = f"Each {what}"
    if len(chosen) > MOST_CLASS_ROWS:
        defined = [item for item in chosen if item[1][worst_by] is not None]
        chosen = sorted(defined, key=lambda item: item[1][worst_by])[:MOST_CLASS_ROWS]
        title = f"The {len(chosen)} of {len(scores)} {plural} of lowest {worst_by.replace('_', ' ')}"
    keys = [key for key in next(iter(scores.values())) if key != "support"]
    rows = ([name, *(_share(one[key]) for key in keys), f"{one['support']:,}"] for name, one in chosen)
    return _titled(title, _new_table([what, *(key.replace("_", " ") for key in keys), "pictures"], rows))


def _matrix(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> list[Any]:
    rows = ([label, *map(str, counts)] for label, counts in zip(labels, matrix, strict=True))
    return _titled("Confusion matrix: a row for each true class", _new_table(["", *labels], rows))


def _confused(pairs: Sequence[dict[str, Any]]) -> list[Any]:
    if not pairs:
        return []
    rows = ([one["truth"], one["predicted"], str(one["count"]), _share(one["share"])] for one in pairs)
    return _titled("Most confused", _new_table(["truth", "predicted", "pictures", "share of truth"], rows))


def _titled(title: str, table: Table) -> list[Any]:
    from rich.text import Text

    return [Text(""), Text(printable(title), style="bold"), table]


def _new_table(heads: Cells | None, rows: Iterable[Cells]) -> Table:
    """A table whose numbers stand to the right; the first columns of text to the left."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=True, show_header=heads is not None)
    for index in range(len(rows[0])):
        is_text = index == 0 or (heads is not None and heads[index] == "predicted")
        head = "" if heads is None else printable(heads[index])
        table.add_column(Text(head), justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _share(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4g}"


__all__ = ["evaluate"]
