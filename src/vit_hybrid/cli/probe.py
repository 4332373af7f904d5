"""`vit-hybrid probe`: what does a frozen model know of these classes?"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import shown
from .options import MODELS, AsJson, FeatureOptions, Overwrite, SplitOptions
from .output import ProgressBar, new_table, rendered
from .running import engine_arguments
from .session import CLASSIFIER_WARNINGS, expecting, loading
from .streams import complain, printable, write, write_json

if TYPE_CHECKING:
    from ..data import Split
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
        typer.Option(help=f"{MODELS}. Its head, if any, does not matter."),
    ] = BUILT_IN_MODEL,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Write the model with a classifier for the new classes to this folder, for classify --model OUT.",
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    pictures: SplitOptions = SplitOptions(val_fraction=DEFAULT_VAL_FRACTION, seed=0),  # noqa: B008 - it is frozen
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
    as_json: AsJson = False,
    engine: FeatureOptions = FeatureOptions(),  # noqa: B008
) -> None:
    """Try a frozen model on new classes: few-shot least squares and nearest neighbors on its features.

    The ViT paper's few-shot protocol: the model runs once over each picture, a linear classifier is computed in closed
    form from n training pictures a class, and its top-1 on the validation pictures is printed. Nothing is chosen on
    those.

    The classes and their pictures are printed before it starts (on standard error, without --json). A picture that
    cannot be read is skipped and named (there too, or with --json under "unreadable").
    """
    shot_numbers = _numbers(shots, int, "--shots", "whole numbers from 1 on, such as 1,5,10")
    strengths = _numbers(l2, float, "--l2", "numbers above 0, such as 1024 or 1,32,1024")
    from ..data.listing import PICTURE

    split = _read(data, pictures)
    train_pictures, val_pictures = split.train, split.val
    with loading(model), expecting(CLASSIFIER_WARNINGS):
        from .. import probe as job

        if output is not None:
            job.check_output(output, overwrite)
        frozen = job.FrozenModel.from_pretrained(model, train_pictures.labels, **engine_arguments(model, engine))

    if not as_json:
        for line in split.described():
            complain(line)
    started = time.perf_counter()
    with closing(ProgressBar(len(train_pictures) + len(val_pictures), doing="Features")) as bar:
        train, held_out = (
            frozen.features(each, lambda *_: bar.advance(), pictures.strict) for each in (train_pictures, val_pictures)
        )
    seconds = time.perf_counter() - started

    report, solution = job.probe(
        train,
        held_out,
        train_pictures.labels,
        shot_numbers,
        trials,
        neighbors,
        strengths or job.L2_CANDIDATES,
        pictures.seed or 0,
    )
    for given, found in ((train_pictures, train), (val_pictures, held_out)):
        for picture in found.skipped:
            given.passed.add(PICTURE, picture["path"])
    report["seconds"]["features"] = seconds
    report["notes"] = list(dict.fromkeys([*split.notes, *report["notes"]]))
    sure = None
    if output is not None:
        sure = job.write_model(output, frozen, solution, report, _title(model), _title(data), overwrite, split)
    if as_json:
        more = {} if sure is None else {"confidence": sure}
        write_json({"model": model, "data": data, "output": output, **report, **more})
    else:
        _print(report, output)
        if sure is not None and "why_not" in sure:
            complain(f"the model is not calibrated: {sure['why_not']}")
    if split.passed:
        complain(split.passed.line())


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
        raise typer.BadParameter(f"{shown(','.join(texts))!r}: expected {expected}.", param_hint=option)
    return numbers


def _read(data: str, options: SplitOptions) -> Split:
    """Training and validation pictures.

    Raises:
        ValueError: They are of a kind that a probe cannot use.
    """
    from ..data import SINGLE_LABEL, read_splits

    split = read_splits(
        data,
        val=options.val,
        val_fraction=options.val_fraction or DEFAULT_VAL_FRACTION,
        seed=options.seed or 0,
        **options.columns,
    )
    if split.train.problem_type != SINGLE_LABEL:
        kind = split.train.problem_type.replace("_", " ")
        raise ValueError(
            f"{data}: this is data for {kind}; a probe takes pictures with one label each (vit-hybrid train takes the "
            "others too)"
        )
    return split


def _print(report: Report, output: str | None) -> None:
    from ..data import Unreadable
    from ..probe.writing import percent

    unreadable = Unreadable(report["train_images"] + report["val_images"] + len(report["unreadable"]))
    told = [unreadable.add(picture["error"]) for picture in report["unreadable"]]
    for line in filter(None, (*told, unreadable.rest())):
        complain(f"skipped: {line}")
    for note in report["notes"]:
        complain(note)
    heads = (">pictures a class", ">pictures", ">least squares", f">{report['neighbors']} nearest neighbors")
    rows = [
        (str(row["shots"]), f"{row['images']:,}", percent(row["least_squares"]), percent(row["knn"]))
        for row in report["rows"]
    ]
    lines = [
        f"Top-1 on {report['val_images']:,} validation pictures of {len(report['classes'])} classes, mean of the draws "
        "and range",
        rendered(new_table(heads, rows)).rstrip("\n"),
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
