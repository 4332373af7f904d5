"""What the subcommands show: records as tables or JSON lines, progress, and one line for what went wrong."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import EngineWarning

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from ..inference.predictor import Prediction, Record

EXIT_FAILED_IMAGES = 1
EXIT_USAGE = 2
# What a shell reports for a program ended by Ctrl-C (SIGINT, 2) or by a reader that went away (SIGPIPE, 13).
EXIT_INTERRUPTED = 128 + 2
EXIT_CLOSED_PIPE = 128 + 13

# What takes longer than this shows its progress.
PATIENCE_SECONDS = 2.0
# A table that is not shown on a terminal is as wide as it needs to be.
UNLIMITED_WIDTH = 10_000


def refuse(reason: object) -> NoReturn:
    """Ends the command with one line that says why nothing, or nothing more, can be done."""
    complain(str(reason))
    raise typer.Exit(EXIT_USAGE)


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ends the command without a word on Ctrl-C or when nobody reads its output any more, and with one line when its
    output cannot be written."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        _abandon_output()
        raise typer.Exit(EXIT_CLOSED_PIPE) from None
    except _OutputError as error:
        _abandon_output()
        refuse(error)


@contextmanager
def without_library_noise() -> Iterator[None]:
    """Keeps what the libraries below say from the person at the keyboard; what matters is raised."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _own_standard_error():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous_level)


@contextmanager
def _own_standard_error() -> Iterator[None]:
    """Standard error for Python alone: what C libraries, such as libtiff on a damaged file, write there is dropped."""
    shared = sys.stderr
    try:
        descriptor = shared.fileno()
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file, as in a test
        yield
        return
    kept = os.dup(descriptor)
    with open(os.devnull, "wb") as nowhere, open(os.dup(descriptor), "w", buffering=1, **_as_in(shared)) as own:
        shared.flush()
        os.dup2(nowhere.fileno(), descriptor)
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = shared
            os.dup2(kept, descriptor)
            os.close(kept)


def _as_in(stream: TextIO) -> dict[str, Any]:
    return {"encoding": stream.encoding, "errors": stream.errors}


@contextmanager
def loading(model: str, lazily: bool = False) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal that `model` is being loaded, and what is downloaded; silences transformers' own bars, and
    tells what engines warn of.

    Args:
        model: Its name.
        lazily: Whether the libraries are silenced, which loads them, only when the first word on progress comes: a
            model that is converted already needs none of them.

    Yields:
        What to call with a word on what is being done.
    """
    is_terminal = sys.stderr.isatty()
    is_here = model == BUILT_IN_MODEL or os.path.isdir(model)
    spinner: Any = nullcontext()
    if is_terminal:
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True)
        if is_here:
            spinner = console.status(Text(f"Loading {printable(model)}"))
        else:  # what is downloaded shows bars of its own, which a spinner would break
            console.print(Text(f"Getting {printable(model)} from the hub"))
    with telling_warnings(), ExitStack() as silenced:
        status = silenced.enter_context(spinner)
        is_silenced = False

        def say(text: str) -> None:
            nonlocal is_silenced
            if not is_silenced:
                silenced.enter_context(_silenced_bars(is_terminal))
                is_silenced = True
            if status is not None and text:
                status.update(text)

        if not (lazily and is_here) or "transformers" in sys.modules:
            say("")
        yield say


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Tells, once the block is through, what engines warned of in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", EngineWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(one.message) for one in caught):
                complain(text)


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """Keeps transformers, and what it has the hub's library download, from showing bars of their own."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _silenced_bars(is_terminal: bool) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hub_bars = not are_progress_bars_disabled()
    try:
        with without_transformers_bars():  # the hub's too, and back on with them
            if hub_bars and is_terminal:
                enable_progress_bars()
            yield
    finally:
        (enable_progress_bars if hub_bars else disable_progress_bars)()


@contextmanager
def explaining_memory(batch_size: int) -> Iterator[None]:
    """Ends the command with one line where a device has too little memory."""
    try:
        yield
    except Exception as error:
        torch = sys.modules.get("torch")  # not loaded, it cannot have raised anything
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            refuse(f"the device has too little memory for {batch_size} images at once; try a smaller --batch-size")
        raise


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


class _OutputError(Exception):
    """Standard output cannot be written to, for another reason than that nobody reads it."""


def write(text: str) -> None:
    """Writes to standard output, at once; a failure ends the command through `ending_quietly`."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _OutputError(f"cannot write to standard output: {error.strerror}") from error


def _abandon_output() -> None:
    """Keeps the interpreter from trying, and failing, to flush what is left when it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file, as in a test
        return


def complain(line: str) -> None:
    """One line on standard error."""
    typer.echo(f"vit-hybrid: {printable(line)}", err=True)


def printable(text: str) -> str:
    """`text` on one line, with what would move a terminal's cursor, or cannot be encoded, written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


__all__ = [
    "EXIT_FAILED_IMAGES",
    "PATIENCE_SECONDS",
    "UNLIMITED_WIDTH",
    "ProgressBar",
    "RecordPrinter",
    "complain",
    "ending_quietly",
    "explaining_memory",
    "loading",
    "printable",
    "refuse",
    "telling_warnings",
    "without_library_noise",
    "without_transformers_bars",
    "write",
]
