"""`vit-hybrid convert`: a checkpoint of one code base as a model of another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import MODELS, AsJson, ImageSize, NumLabels, Overwrite
from .output import PATIENCE_SECONDS
from .session import loading
from .streams import holding_back, is_terminal, printable, say, standard_error, write, write_json

if TYPE_CHECKING:
    from ..checkpoints.kinds import Progress, Source

MEGABYTE = 10**6


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help=f"{MODELS}.",
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
    image_size: ImageSize = None,
    num_labels: NumLabels = None,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate",
            help="Write for JAX or timm also what they compute with another GELU or form of weight standardization; "
            "other epsilons alone need no word.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint of the authors' JAX code or of timm a model of this package, or the other way around.

    Blocks, sizes and labels are read from the file; a new classifier is all zero. SRC may also be a DPT-hybrid of
    transformers, whose encoder gets a new classifier of --num-labels. OUT is complete or not there. What
    OUT cannot say is named on standard error, or refused.
    """
    from ..checkpoints.converting import convert as run
    from ..model.geometry import as_pair

    model = run(
        source,
        out,
        to,
        image_size,
        num_labels,
        approximate=approximate,
        overwrite=overwrite,
        reading=_reading,
        writing=lambda: _step("Writing", str(out)),
    )
    height, width = as_pair(model.config.image_size)
    parameters, labels = model.num_parameters(), model.config.num_labels
    if as_json:
        sizes = {"parameters": parameters, "image_size": (height, width), "num_labels": labels}
        write_json({"source": source, "output": str(out), **sizes})
    else:
        size = f"{height} x {width} pixels"
        write(f"{printable(str(out))}: {parameters:,} parameters, {size}, {labels} labels\n")


@contextmanager
def _reading(source: Source) -> Iterator[Progress | None]:
    """Shows that the source is read; of a JAX file, how far."""
    if source.kind == "jax":
        with _step("Reading", source.location) as progress:
            yield progress
        return
    if not is_terminal(standard_error()):  # where `loading` says nothing
        say(_title("Reading", source.name))
    with loading(source.name):
        yield None


@contextmanager
def _step(what: str, path: str) -> Iterator[Progress]:
    """Shows a step that may take long: a bar on a terminal, otherwise a line at its start and one now and then."""
    title = _title(what, path)
    if not is_terminal(standard_error()):
        yield _lines(title)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    console = Console(file=standard_error())
    with (
        holding_back(),
        Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar,
    ):
        task = bar.add_task(escape(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _title(what: str, path: str) -> str:
    is_source = what == "Reading" and os.path.isfile(path)
    size = f" ({os.path.getsize(path) / MEGABYTE:,.1f} MB)" if is_source else ""
    return f"{what} {printable(path)}{size}"


def _lines(title: str) -> Progress:
    say(title)
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE_SECONDS:
            last = time.monotonic()
            say(f"{title}: {done / total:.0%}")

    return show


__all__ = ["convert"]
