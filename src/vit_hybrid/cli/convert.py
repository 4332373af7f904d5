"""`vit-hybrid convert`: a checkpoint of one code base as a model of another."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import one_line, reason
from .options import parsed_size
from .output import PATIENCE_SECONDS, complain, printable
from .session import ending_quietly, loading, refuse, telling_warnings, without_library_noise

if TYPE_CHECKING:
    from ..checkpoints.opening import Progress, Source

MEGABYTE = 10**6
NOISY_LIBRARIES = ("transformers", "huggingface_hub")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A JAX .npz file; a file, folder or hub id of timm's (timm/...); or a model of this package: a folder "
            f"that save_pretrained wrote, a hub id or {BUILT_IN_MODEL}.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A folder for from_pretrained, with the image processor; a .npz file for the JAX code; or a "
            ".safetensors, .bin, .pt or .pth file for timm.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Literal["folder", "jax", "timm"] | None,
        typer.Option(
            help="What to write. With timm and an OUT without an ending: a folder that timm opens.",
            show_default="by OUT's ending",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Make it a model for images of this size: position embeddings are resized as the source's code does.",
            show_default="the source's",
        ),
    ] = None,
    num_labels: Annotated[
        int | None,
        typer.Option(
            min=0, help="Put a new classifier for this many labels, all zero, in place.", show_default="the source's"
        ),
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Write for JAX or timm also what they compute with other epsilons or GELU."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
) -> None:
    """Make a checkpoint of the authors' JAX code or of timm a model of this package, or the other way around.

    Blocks, sizes and labels are read from the file. OUT is complete or not there. What OUT cannot say is named on
    standard error, or refused.
    """
    size = parsed_size(image_size)
    with ending_quietly(), without_library_noise(), _remarks(), telling_warnings():
        from safetensors import SafetensorError

        from ..checkpoints.converting import convert as run
        from ..model.geometry import as_pair

        try:
            model = run(
                source,
                out,
                to,
                size,
                num_labels,
                approximate=approximate,
                overwrite=overwrite,
                reading=_reading,
                writing=lambda: _step("Writing", str(out)),
            )
        except (OSError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
            refuse(reason(error))
        height, width = as_pair(model.config.image_size)
        typer.echo(
            f"{printable(str(out))}: {model.num_parameters():,} parameters, {height} x {width} pixels, "
            f"{model.config.num_labels} labels"
        )


@contextmanager
def _reading(source: Source) -> Iterator[Progress | None]:
    """Shows that the source is read; of a JAX file, how far."""
    if source.kind == "jax":
        with _step("Reading", source.location) as progress:
            yield progress
        return
    if not sys.stderr.isatty():  # where `loading` says nothing
        typer.echo(_title("Reading", source.name), err=True)
    with loading(source.name):
        yield None


@contextmanager
def _step(what: str, path: str) -> Iterator[Progress]:
    """Shows a step that may take long: a bar on a terminal, otherwise a line at its start and one now and then."""
    title = _title(what, path)
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(escape(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _title(what: str, path: str) -> str:
    is_source = what == "Reading" and os.path.isfile(path)
    size = f" ({os.path.getsize(path) / MEGABYTE:,.1f} MB)" if is_source else ""
    return f"{what} {printable(path)}{size}"


def _lines(title: str) -> Progress:
    typer.echo(title, err=True)
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE_SECONDS:
            last = time.monotonic()
            typer.echo(f"{title}: {done / total:.0%}", err=True)

    return show


@contextmanager
def _remarks() -> Iterator[None]:
    """Shows what this package warns of, such as what OUT cannot say, a line each; other libraries stay silent."""
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    own = logging.getLogger(__name__.partition(".")[0])
    others = [logging.getLogger(name) for name in NOISY_LIBRARIES]
    levels, propagated, bars = [logger.level for logger in others], own.propagate, is_progress_bar_enabled()
    remarks, disabled = _Remarks(logging.WARNING), logging.root.manager.disable
    for logger in others:
        logger.setLevel(logging.CRITICAL)
    own.addHandler(remarks)
    own.propagate = False
    disable_progress_bar()
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled)
        if bars:
            enable_progress_bar()
        own.propagate = propagated
        own.removeHandler(remarks)
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)


class _Remarks(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(one_line(record.getMessage()))


__all__ = ["convert"]
