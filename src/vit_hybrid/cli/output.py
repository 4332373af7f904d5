"""What the subcommands show: records as tables or JSON lines, progress, and lines on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..outputs.ranking import Prediction, Record

# What takes longer than this shows its progress.
PATIENCE_SECONDS = 2.0
# A table that is not shown on a terminal is as wide as it needs to be.
UNLIMITED_WIDTH = 10_000


class RecordPrinter:
    """Prints records as they come, with a progress bar on a terminal when the whole takes long.

    Args:
        as_json: One JSON object a line, errors included; otherwise a table a picture, and errors on standard error.
        labels: All labels that may come, for the width of the tables.
        total: How many records will come.

    Attributes:
        failures: How many of the records so far were errors.
    """

    def __init__(self, as_json: bool, labels: Sequence[str], total: int) -> None:
        self.failures = 0
        self._as_json = as_json
        self._labels = labels
        self._progress = ProgressBar(total)
        self._console: Console | None = None

    def __enter__(self) -> RecordPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()

    def print(self, record: Record) -> None:
        """Prints one record, at once."""
        self.failures += "error" in record
        with self._progress.out_of_the_way():
            if self._as_json:
                write(json.dumps(record) + "\n")
            elif "predictions" in record:
                write(self._table(record["path"], record["predictions"]))
            else:
                complain(record["error"])
        self._progress.advance()

    def _table(self, path: str, predictions: Sequence[Prediction]) -> str:
        from rich import box
        from rich.cells import cell_len
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        if self._console is None:
            width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
            self._console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
        table = Table(box=box.SIMPLE, show_edge=False, pad_edge=True)
        # As wide for every picture, so that the tables stand in line.
        table.add_column("label", min_width=max(cell_len(printable(label)) for label in self._labels), overflow="fold")
        table.add_column("probability", justify="right")
        for prediction in predictions:
            table.add_row(Text(printable(prediction["label"])), f"{prediction['probability']:.2%}")
        with self._console.capture() as captured:
            self._console.print(Text(printable(path), style="bold"), soft_wrap=True)
            self._console.print(table)
        lines = captured.get().splitlines()
        return "\n".join(line.rstrip() for line in lines) + "\n\n"


class ProgressBar:
    """A bar on standard error, if that is a terminal, once the whole is seen to take longer than a person waits.

    Args:
        total: How many steps there are.
        doing: What is being done, in a word.
    """

    def __init__(self, total: int, doing: str = "Classifying") -> None:
        self._total = total
        self._doing = doing
        self._done = 0
        self._start = time.monotonic()
        self._bar: Progress | None = None

    def advance(self) -> None:
        """One step is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif self._is_worth_showing():
            self._bar = _new_bar()
            self._bar.add_task(self._doing, total=self._total, completed=self._done)
            self._bar.start()

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """Takes the bar off the terminal while something else is written there."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def close(self) -> None:
        """Takes the bar away for good."""
        if self._bar is not None:
            self._bar.stop()

    def _is_worth_showing(self) -> bool:
        elapsed = time.monotonic() - self._start
        whole = elapsed / self._done * self._total
        return self._done < self._total and whole > PATIENCE_SECONDS and sys.stderr.isatty()


def _new_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Standard output is ours to write: redirected, it would end up on standard error.
    return Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    )


class OutputError(Exception):
    """Standard output cannot be written to, for another reason than that nobody reads it."""


def write(text: str) -> None:
    """Writes to standard output, at once; a failure ends the command through `ending_quietly`."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def complain(line: str) -> None:
    """One line on standard error."""
    typer.echo(f"vit-hybrid: {printable(line)}", err=True)


def printable(text: str) -> str:
    """`text` on one line, with what would move a terminal's cursor, or cannot be encoded, written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


__all__ = [
    "PATIENCE_SECONDS",
    "UNLIMITED_WIDTH",
    "OutputError",
    "ProgressBar",
    "RecordPrinter",
    "complain",
    "printable",
    "write",
]
