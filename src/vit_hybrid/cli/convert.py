"""`vit-hybrid convert`: a checkpoint of one code base as a model of another."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import one_line, reason
from ..files import made_parents
from .options import parsed_size
from .output import PATIENCE_SECONDS, complain, printable
from .session import ending_quietly, loading, refuse, without_library_noise

if TYPE_CHECKING:
    from ..images.image_processing import ViTHybridImageProcessor
    from ..model.modeling import ViTHybridForImageClassification

Kind: TypeAlias = Literal["folder", "jax", "timm"]
Progress: TypeAlias = Callable[[int, int], None]

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
JAX_SUFFIX = ".npz"
TIMM_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
WEIGHT_PATTERNS = ("model*.safetensors*", "pytorch_model*")

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
    with ending_quietly(), without_library_noise(), _remarks():
        kind = to or _kind_of(out)
        _require_free(out, kind, overwrite)
        from safetensors import SafetensorError

        try:
            model, processor = _read(source, size, num_labels)
            with made_parents(out):
                _write(model, processor, out, kind, approximate)
        except (OSError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
            refuse(reason(error))
        from ..model.geometry import as_pair

        height, width = as_pair(model.config.image_size)
        typer.echo(
            f"{printable(str(out))}: {model.num_parameters():,} parameters, {height} x {width} pixels, "
            f"{model.config.num_labels} labels"
        )


def _kind_of(out: Path) -> Kind:
    if out.suffix.lower() == JAX_SUFFIX:
        return "jax"
    return "timm" if out.suffix.lower() in TIMM_SUFFIXES else "folder"


def _is_file(out: Path, kind: Kind) -> bool:
    return kind == "jax" or (kind == "timm" and out.suffix.lower() in TIMM_SUFFIXES)


def _require_free(out: Path, kind: Kind, overwrite: bool) -> None:
    """Ends the command before any work where OUT cannot be written or holds a model already."""
    if kind == "jax" and out.suffix.lower() != JAX_SUFFIX:
        refuse(f"{out}: a file for the JAX code ends in {JAX_SUFFIX}")
    if _is_file(out, kind):
        if out.is_dir():
            refuse(f"{out}: this is a folder; give the name of a file")
        there = [out] if out.exists() else []
    else:
        if out.exists() and not out.is_dir():
            refuse(f"{out}: this is a file; give the name of a folder")
        there = _model_files(out)
    if there and not overwrite:
        refuse(f"{out}: there is a model already ({there[0].name}); give another name, or --overwrite to replace it")


def _model_files(folder: Path) -> list[Path]:
    """Files of a saved model: what a new one replaces, and what would be mistaken for part of it."""
    patterns = (CONFIG_FILE, PROCESSOR_FILE, *WEIGHT_PATTERNS)
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _read(
    source: str, size: tuple[int, int] | None, num_labels: int | None
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor]:
    if source.lower().endswith(JAX_SUFFIX):
        with _step("Reading", os.path.expanduser(source)) as progress:
            from ..checkpoints.opening import open_classifier

            return open_classifier(source, size, num_labels, progress=progress)
    _announce(source)
    with loading(source):
        from ..checkpoints.opening import open_classifier

        return open_classifier(source, size, num_labels)


def _write(
    model: ViTHybridForImageClassification, processor: ViTHybridImageProcessor, out: Path, kind: Kind, approximate: bool
) -> None:
    with _step("Writing", str(out)) as progress:
        if kind == "jax":
            from ..checkpoints import jax

            jax.save(model, out, approximate=approximate, progress=progress)
        elif _is_file(out, kind):
            _save_for_timm(model, processor, out, approximate)
        else:
            with _replacing_folder(out) as folder:
                if kind == "timm":
                    _save_for_timm(model, processor, folder, approximate)
                else:
                    model.save_pretrained(folder)
                    processor.save_pretrained(folder)


def _save_for_timm(
    model: ViTHybridForImageClassification, processor: ViTHybridImageProcessor, out: Path, approximate: bool
) -> None:
    from ..checkpoints import timm

    timm.save(model, out, image_processor=processor, approximate=approximate)


@contextmanager
def _replacing_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, whose files take their place in `out` once all of them are written."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        try:
            yield temporary
        except ValueError as error:  # which may name where it was told to write
            raise ValueError(str(error).replace(str(temporary), str(out))) from error
        new = sorted(temporary.iterdir())
        for path in new:  # safetensors' are for their owner alone
            shutil.copymode(temporary / CONFIG_FILE, path)
        if not out.exists():
            temporary.rename(out)
            return
        names = {path.name for path in new}
        for path in new:
            path.replace(out / path.name)
        for path in _model_files(out):
            if path.name not in names:
                path.unlink()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _announce(source: str) -> None:
    """Says what is read where `loading`, which is for terminals, says nothing."""
    if not sys.stderr.isatty():
        typer.echo(_title("Reading", source), err=True)


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
