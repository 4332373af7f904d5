"""`vit-hybrid evaluate`: how good is this model on these labeled pictures?"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import shortened
from .many_pictures import SharingOptions
from .options import MODELS, AsJson, ConfidenceOptions, DataOptions, DryRun, EngineOptions
from .output import ProgressBar, counts_of
from .running import settled
from .scores import as_tables
from .session import EXIT_FAILED, loading
from .streams import complain, files_first, printable, write, write_json

if TYPE_CHECKING:
    from ..data import LabeledPictures
    from ..evaluate.sources import LabeledSource, Streamed
    from ..outputs.ranking import ErrorRecord


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{MODELS}; or a bundle that vit-hybrid export wrote.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="Labeled pictures: a folder of class folders, with train/, val/ or test/ or without; a parquet, CSV "
            "or JSON Lines file or a folder of these; a datasets folder or hub id; or, as a stream, globs, webdataset "
            "tars, several sources, and whatever of all these lies behind an address such as s3://bucket/pictures.",
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
            help="Write metrics.json, predictions.csv, confusion_matrix.png, reliability.png, risk_coverage.png and "
            "mistakes.png to this folder.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure on so many pictures, spread evenly.", show_default="all"),
    ] = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave out pictures of labels that the model does not have.")
    ] = False,
    dry_run: DryRun = False,
    strangers: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Pictures of nothing that the model knows, as predict takes them: how well they are told from the "
            "others.",
            show_default=False,
        ),
    ] = None,
    confidence: ConfidenceOptions = ConfidenceOptions(),  # noqa: B008 - it is frozen
    pictures: DataOptions = DataOptions(),  # noqa: B008
    sharing: SharingOptions = SharingOptions(),  # noqa: B008
    engine: EngineOptions = EngineOptions(),  # noqa: B008
) -> None:
    """Measure a model on labeled pictures: accuracy, each class, how far its answers can be trusted.

    Labels are matched by name; data with bare integers mean the positions of the model's labels. Multi-label and
    regression models get the scores of their kind. Of a model that was calibrated (vit-hybrid calibrate) probabilities
    are measured before and after, and the sets of labels of --coverage, by class.

    A picture that cannot be read is skipped and named (on standard error, or with --json under "unreadable"); the exit
    status is then 1. With wrong options, data that do not fit the model, or --strict and such a picture, it is 2.
    """
    from ..data.streams import open_stream
    from ..evaluate import METRICS_FILE, default_split, measure, write_files
    from ..evaluate.sources import Held, Reader, Streamed, is_streamed
    from ..evaluate.writing import MISTAKES_SHOWN
    from ..files import made_parents
    from ..inference.cluster import Sharing

    shared = Sharing(**{name: value for name, value in vars(sharing).items() if name != "mixed"})
    read: dict[str, Any] = {**pictures.columns, "max_pixels": engine.max_pixels, "held": False}
    labeled: LabeledPictures | None = None
    streamed: Streamed | None = None
    if is_streamed(data):
        streamed = Streamed(data, split, **pictures.columns, known=known_only, limit=limit)
        split = streamed.split
    else:
        labeled, split = default_split(data[0], split, **read)
    about = {"model": model, "data": data[0] if len(data) == 1 else data, "split": split}
    others = None if strangers is None else open_stream([strangers])
    levels: dict[str, Any] = {
        "coverage": confidence.coverage,
        "false_alarms": confidence.false_alarms,
        "strangers": others,
    }
    without: dict[str, Any] = {"confidence": False} if confidence.uncalibrated else {}
    if dry_run:
        _say_what_there_is(labeled, streamed, about, as_json)
        return
    # Where nothing comes of it, no empty folder stays, which would be a class if it lay within DATA.
    with nullcontext() if output is None else made_parents(Path(output) / METRICS_FILE):
        if output is not None:
            os.makedirs(output, exist_ok=True)  # not only after all the work
        source: LabeledSource
        if streamed is not None:
            source, reader, count = streamed, Reader(streamed.stream), None
        else:
            assert labeled is not None
            source, reader = Held(labeled, _as_values(data[0], split, read), known_only, limit), Reader()
            count = min(limit or len(labeled), len(labeled))
        with _Progress(model, is_told=not as_json) as progress:
            found = measure(
                model,
                source,
                reader,
                names=(*data, *([] if strangers is None else [strangers])),
                sharing=shared,
                mixed=sharing.mixed,
                strict=pictures.strict,
                table=output is not None,
                mistakes=MISTAKES_SHOWN if output is not None else 0,
                progress=progress,
                **levels,
                **settled(model, engine, count, progress.tell, **without),
            )
        passed, rest = source.passed, progress.rest()
        with files_first():
            if as_json:
                write_json({**about, **found.report()})
            else:
                for note in filter(None, (rest, *found.notes)):
                    complain(note)
                write(as_tables(found, model, " ".join(data), split))
            if output is not None:
                write_files(found, output, about)
    for one in (passed, None if others is None else others.passed):
        if one:
            complain(one.line())
    if found.skipped or found.unreadable_strangers:
        raise typer.Exit(EXIT_FAILED)


def _check_of(model: str) -> Callable[[Any], None] | None:
    """What tells whether a picture can become the model's input; None of a model that is not here."""
    from ..checkpoints import opening
    from ..images.preparing import check_usable

    with suppress(ValueError, OSError):
        preprocessing = None if opening.is_on_hub(model) else opening.open(model).preprocessing
        return None if preprocessing is None else partial(check_usable, preprocessing=preprocessing)
    return None


def _say_what_there_is(
    labeled: LabeledPictures | None, streamed: Streamed | None, about: dict[str, Any], as_json: bool
) -> None:
    """What --dry-run tells."""
    from ..data import find_unreadable
    from ..data.listing import PICTURE

    where = {name: about[name] for name in ("data", "split")}
    if streamed is not None:
        from ..runtimes import DEFAULT_BATCH_SIZE

        survey = streamed.surveyed(None, DEFAULT_BATCH_SIZE)
        counts, passed = dict(sorted(survey.counts.items())), streamed.passed
        said: dict[str, Any] = {"images": survey.pictures, "problem_type": survey.problem_type, "labels": counts}
        texts = [f"{printable(label)} {count:,}" for label, count in counts.items()]
        line = f"{survey.pictures:,} pictures: {shortened(', '.join(texts))}"
    else:
        assert labeled is not None
        for index, _ in find_unreadable(labeled, check=_check_of(about["model"])):
            labeled.passed.add(PICTURE, labeled.name(index))
        said, line, passed = counts_of(labeled), printable(labeled.described()), labeled.passed
    if as_json:
        write_json({**where, **said})
    else:
        write(f"{printable(str(where['split'] or where['data']))}: {line}\n")
    if passed:
        complain(passed.line())


def _as_values(data: str, split: str | None, read: dict[str, Any]) -> Callable[[LabeledPictures, Any], LabeledPictures]:
    """Reads pictures again for a regression model."""
    from ..evaluate import as_values
    from ..outputs.problems import REGRESSION

    def again(labeled: LabeledPictures, model: Any) -> LabeledPictures:
        return as_values(labeled, data, split, **read) if model.problem_type == REGRESSION else labeled

    return again


class _Progress:
    """Shows on a terminal that a model is loaded and labels are looked at, then a bar; tells of pictures that cannot be
    read."""

    def __init__(self, model: str, is_told: bool) -> None:
        self._model = model
        self._is_told = is_told
        self._stack = ExitStack()
        self._say: Any = None
        self._bar: ProgressBar | None = None
        self._unreadable: Any = None

    def __enter__(self) -> _Progress:
        self._say = self._stack.enter_context(loading(self._model))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stack.close()

    def tell(self, text: str) -> None:
        """See `evaluate.many.Progress`."""
        self._say(text)

    def begin(self, pictures: int) -> None:
        """See `evaluate.many.Progress`."""
        from ..data import Unreadable

        self._stack.close()
        self._unreadable = Unreadable(pictures)
        self._bar = ProgressBar(pictures, doing="Evaluating")

    def advance(self, pictures: int, errors: list[ErrorRecord]) -> None:
        """See `evaluate.many.Progress`."""
        assert self._bar is not None
        for error in errors:
            told = self._unreadable.add(error["error"])
            if told is not None and self._is_told:
                with self._bar.out_of_the_way():
                    complain(told)
        self._bar.advance(pictures)

    def rest(self) -> str | None:
        """Of how many more nothing was said."""
        found: str | None = self._unreadable.rest()
        return found


__all__ = ["evaluate"]
