"""How a command runs: quietly, with one line for what went wrong, and with a status that says how it ended."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from ..errors import EngineWarning
from .output import OutputError, complain, printable

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

EXIT_FAILED_IMAGES = 1
EXIT_USAGE = 2
# What a shell reports for a program ended by Ctrl-C (SIGINT, 2) or by a reader that went away (SIGPIPE, 13).
EXIT_INTERRUPTED = 128 + 2
EXIT_CLOSED_PIPE = 128 + 13


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
    except OutputError as error:
        _abandon_output()
        refuse(error)


def _abandon_output() -> None:
    """Keeps the interpreter from trying, and failing, to flush what is left when it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file, as in a test
        return


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
    from ..checkpoints.opening import is_on_hub

    is_terminal = sys.stderr.isatty()
    is_here = not is_on_hub(model)
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


def opened_predictor(model: str, **options: Any) -> Predictor:
    """Loads a predictor, saying on a terminal what is being done; ends the command where it cannot be used.

    Args:
        model: The model's name or place.
        options: What `Predictor.from_pretrained` takes besides.
    """
    with loading(model, lazily=True) as say:
        from ..inference.predictor import Predictor

        try:
            return Predictor.from_pretrained(model, progress=say, **options)
        except ValueError as error:
            refuse(error)


__all__ = [
    "EXIT_FAILED_IMAGES",
    "EXIT_USAGE",
    "ending_quietly",
    "explaining_memory",
    "loading",
    "opened_predictor",
    "refuse",
    "telling_warnings",
    "without_library_noise",
    "without_transformers_bars",
]
