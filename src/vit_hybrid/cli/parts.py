"""What the commands show that write a row for each of many pictures: how it goes on, and what came of it."""

from __future__ import annotations

import pickle
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from .output import PATIENCE_SECONDS, new_table, rendered
from .session import EXIT_FAILED, loading
from .streams import complain, is_terminal, printable, standard_error, write, write_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ..data.streams import PictureStream
    from ..predict.job import Summary

Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="End with status 1 where a picture could not be read; all are done first.")
]
# Pictures that are counted at once, to say how many there are.
COUNTED_AT_ONCE = 65_536
COUNTING = "counting"


class RunProgress:
    """Shows on a terminal that a model is loaded, then a bar with rows, errors, pictures a second and the time left.

    Args:
        model: What is loaded.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._stack = ExitStack()
        self._say: Any = None
        self._bar: Bar | None = None
        self._began = 0.0
        self._total: int | None = None
        self._stream: PictureStream | None = None

    def __enter__(self) -> RunProgress:
        self._say = self._stack.enter_context(loading(self._model))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._stack.close()
        if kind is None and self._stream is not None and self._stream.passed:
            complain(self._stream.passed.line())

    def tell(self, text: str) -> None:
        """See `predict.job.Progress`."""
        self._say(text)

    def begin(self, stream: PictureStream) -> None:
        """See `predict.job.Progress`."""
        self._stack.close()
        self._stream = stream
        self._began = time.monotonic()
        if is_terminal(standard_error()):
            # Of a copy: the stream itself notes what it goes through.
            given = pickle.dumps(stream)
            threading.Thread(target=self._count, args=(given,), daemon=True, name=COUNTING).start()

    def advance(self, rows: int, errors: int, new_rows: int) -> None:
        """See `predict.job.Progress`."""
        seconds = time.monotonic() - self._began
        if self._bar is None and not (is_terminal(standard_error()) and seconds > PATIENCE_SECONDS):
            return
        said: dict[str, Any] = {
            "rate": f"{new_rows / seconds:,.4g} a second",
            "errors": f"{errors:,} errors" if errors != 1 else "1 error",
        }
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.add_task("Predicting", total=self._total, completed=rows, **said)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=rows, total=self._total, **said)

    def _count(self, stream: bytes) -> None:
        self._total = None
        with suppress(Exception):  # the run itself comes upon it, and says it
            self._total = sum(found.rows for found in pickle.loads(stream).ranges(COUNTED_AT_ONCE))


def _new_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[errors]}"), TimeRemainingColumn()),
    )
    console = Console(file=standard_error())
    # Shards come many seconds apart, and the time left is to be known after two of them.
    return Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        speed_estimate_period=600.0,
    )


def conclude(summary: Summary, strict: bool, as_json: bool) -> None:
    """Prints what came of a run; ends the command with 1 where that was asked for and a picture could not be read.

    That none could be read is said on standard error, too: it may be the paths that are wrong.
    """
    if as_json:
        write_json(asdict(summary))
    else:
        rows = [
            ["rows", f"{summary.rows:,}"],
            ["of pictures that could not be read", f"{summary.errors:,}"],
            ["parts", f"{summary.parts:,}"],
            ["rows of this run", f"{summary.new_rows:,}"],
            ["seconds", f"{summary.seconds:,.1f}"],
            ["pictures a second", f"{summary.new_rows / max(summary.seconds, 1e-9):,.4g}"],
        ]
        write(rendered(new_table((summary.output, ">"), rows)))
    if summary.rows and summary.errors == summary.rows:
        complain(f"none of {summary.rows:,} pictures could be read; {printable(summary.output)} says why, in `reason`")
    if strict and summary.errors:
        raise typer.Exit(EXIT_FAILED)


__all__ = ["RunProgress", "Strict", "conclude"]
