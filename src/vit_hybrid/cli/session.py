"""How a command runs: quietly, with one line for what went wrong, and with a status that says how it ended."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TextIO

import typer

from ..errors import EngineWarning, JobStopped, one_line, options_named, reason
from ..interrupt import EXIT_INTERRUPTED, leave_at_once
from .grouping import option_names, with_options
from .streams import OutputError, abandon, complain, holding_back, is_terminal, own_streams, printable, standard_error

# What a command ends with: some pictures or contenders failed, or a job that began cannot go on; nothing could be done.
EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell reports for a program that ends because its reader went away.
EXIT_CLOSED_PIPE = 128 + 13

# What the person at the keyboard can do something about, and is told in one line. Anything else is a fault of this
# program, and shows where it is. safetensors has no such class as a base, and is not loaded for its name.
TOLD_IN_ONE_LINE = (OSError, ValueError, RuntimeError, MemoryError, ImportError)
TOLD_OF_LIBRARIES = {"safetensors": "SafetensorError"}

# Pictures of the spinner a second, as rich has it.
SPINNER_RATE = 12.5
# How a model's warnings begin that its classifier is new, or gone.
CLASSIFIER_WARNINGS = "The classifier "
# How files of the model, which may not ask what an argument is called here, name one.
ARGUMENT = re.compile(r"`(\w+)`")
PACKAGE = __name__.partition(".")[0]


def in_session(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer takes it: with its groups of options one by one, quiet, and ending as commands end."""
    run = with_options(command)
    names = option_names(run)

    @wraps(run)
    def in_its_session(**given: Any) -> None:
        with ending_quietly(), own_streams(), without_library_noise(), options_named(names):
            try:
                _check_working_folder()
                run(**given)
            except Exception as error:
                if not _is_told(error):
                    raise
                concerns_one = isinstance(error, JobStopped) and not error.concerns_all
                # torchrun and accelerate launch start a command several times; what all of them find, one tells.
                if concerns_one or os.environ.get("LOCAL_RANK", "0") == "0":
                    complain(_sentence(error, names, given))
                raise typer.Exit(_status_after(error)) from None

    return in_its_session


def _check_working_folder() -> None:
    """Raises `ValueError` where the command was started in a folder that is gone: PyTorch then ends the process without
    a word, and what goes by relative names says "no such file" of nothing."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ValueError(
            "the folder that this was started in is gone, deleted or put in another's place; go to one that is there "
            "(cd), and start it again."
        ) from None


def _status_after(error: Exception) -> int:
    if not isinstance(error, JobStopped):
        return EXIT_USAGE
    # As a shell reports a program that a signal ended.
    return EXIT_FAILED if error.signal is None else 128 + error.signal


def _is_told(error: Exception) -> bool:
    if isinstance(error, typer.Exit | typer.Abort | BrokenPipeError):  # which have an end of their own
        return False
    classes = (getattr(sys.modules.get(library), name, None) for library, name in TOLD_OF_LIBRARIES.items())
    return isinstance(error, TOLD_IN_ONE_LINE) or any(one is not None and isinstance(error, one) for one in classes)


def _sentence(error: Exception, names: Mapping[str, str], given: Mapping[str, Any]) -> str:
    torch = sys.modules.get("torch")  # not loaded, it cannot have raised anything
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return ARGUMENT.sub(lambda found: names.get(found[1], found[1]), reason(error))
    if "batch_size" not in names:
        return "the device has too little memory"
    images = f" for {given['batch_size']} images at once" if given["batch_size"] else ""
    return f"the device has too little memory{images}; try a smaller {names['batch_size']}"


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ends the command without a word on Ctrl-C or when nobody reads its output any more, and with one line when its
    output cannot be written."""
    is_ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is leave_at_once
    try:
        if is_ours:  # from here on what was begun is put in order first
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        abandon(sys.stdout)
        raise typer.Exit(EXIT_CLOSED_PIPE) from None
    except OutputError as error:
        abandon(sys.stdout)
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from None
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, leave_at_once)


# Beginnings of warnings that say what the running command does anyway.
_expected: list[str] = []


@contextmanager
def expecting(warning: str) -> Iterator[None]:
    """Keeps quiet about a warning, given by its beginning, that says what the command does anyway."""
    _expected.append(warning)
    try:
        yield
    finally:
        _expected.remove(warning)


@contextmanager
def without_library_noise() -> Iterator[None]:
    """Tells what this package warns of, each thing once; keeps what other libraries say from the person."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told and not line.startswith(tuple(_expected)):
            told.add(line)
            complain(line)

    def hear(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == PACKAGE and record.levelno >= logging.WARNING:
            tell(one_line(record.getMessage()))

    def show(message: Warning | str, *_: object, **__: object) -> None:
        tell(one_line(message))

    # All records pass here, also those of libraries that are loaded later and have handlers of their own.
    before = logging.Logger.callHandlers
    logging.Logger.callHandlers = hear  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", EngineWarning)
            warnings.showwarning = show
            yield
    finally:
        logging.Logger.callHandlers = before  # type: ignore[method-assign]


@contextmanager
def loading(model: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal that `model` is being loaded, and what is downloaded.

    Yields:
        What to call with a word on what is being done.
    """
    from ..checkpoints.opening import is_on_hub

    terminal = standard_error()
    is_shown = is_terminal(terminal)
    downloads = is_shown and is_on_hub(model)
    with _without_transformers_bars() if downloads or "transformers" in sys.modules else nullcontext():
        if not is_shown:
            yield lambda text: None
            return
        from rich.console import Console
        from rich.text import Text

        console = Console(file=terminal)
        if not downloads:
            from rich.live import Live
            from rich.spinner import Spinner

            # No status of the console's: it would show what libraries write meanwhile, their bars included.
            shown = Spinner("dots", Text(f"Loading {printable(model)}"))
            how: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
            with holding_back(), Live(shown, console=console, refresh_per_second=SPINNER_RATE, **how):
                yield lambda text: shown.update(text=text) if text else None
        else:  # what is downloaded shows bars of its own, which a spinner would break
            console.print(Text(f"Getting {printable(model)} from the hub"))
            with _bars_of_downloads(terminal):
                yield lambda text: None


@contextmanager
def _without_transformers_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _bars_of_downloads(terminal: TextIO | None) -> Iterator[None]:
    """Lets the hub's library show its bars, which transformers silences with its own."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    nowhere, sys.stderr = sys.stderr, terminal
    enable_progress_bars()
    try:
        yield
    finally:
        sys.stderr = nowhere
        disable_progress_bars()


__all__ = [
    "CLASSIFIER_WARNINGS",
    "EXIT_FAILED",
    "EXIT_USAGE",
    "ending_quietly",
    "expecting",
    "in_session",
    "loading",
    "without_library_noise",
]
