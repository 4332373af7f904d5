"""`vit-hybrid benchmark`: how fast is this model here, in each engine, and against its peers?"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..assets import BUILT_IN_MODEL
from ..benchmark.contenders import ATTENTIONS, PEERS, find_peer
from ..benchmark.settings import BATCH_SIZES, REPETITIONS, WARM_UP, Settings
from ..errors import shown
from ..files import made_parents
from ..runtimes import ENGINES, PRECISIONS
from .options import MODELS, AsJson, Device, Threads, size_of
from .output import ProgressBar, new_table, rendered
from .session import EXIT_FAILED, loading
from .streams import files_first, write, write_json

if TYPE_CHECKING:
    from ..benchmark.report import Report
    from ..benchmark.settings import Settings

Value = TypeVar("Value")


def benchmark(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|PRESET",
            help=f"{MODELS}; a bundle that vit-hybrid export wrote; or a published hybrid such as R50+B/16, with "
            "random weights.",
        ),
    ] = BUILT_IN_MODEL,
    batch_sizes: Annotated[str, typer.Option(metavar="N,...", help="Pictures that go through at once.")] = ",".join(
        map(str, BATCH_SIZES)
    ),
    image_sizes: Annotated[
        str | None,
        typer.Option(
            "--image-sizes",
            "--image-size",
            metavar="N|HxW,...",
            help="Images of these sizes; position embeddings are resized.",
            show_default="the model's own",
        ),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help=f"Of {', '.join(ENGINES)}.", show_default="those installed"),
    ] = None,
    attention: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"Of {', '.join(ATTENTIONS)}, in torch.")
    ] = ",".join(ATTENTIONS),
    precision: Annotated[str, typer.Option(metavar="NAME,...", help=f"Of {', '.join(PRECISIONS)}.")] = "f32",
    compiled: Annotated[bool, typer.Option("--compile", help="Add torch with torch.compile.")] = False,
    token_merging: Annotated[
        str | None,
        typer.Option(metavar="R,...", help="Add engines that merge R tokens away in each layer.", show_default="none"),
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(f"{peer}=PYTHON" for peer in PEERS),
            help="Add transformers 4.49, or timm, as the Python of another environment has it; may be repeated.",
            show_default="none",
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = REPETITIONS,
    warm_up: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = WARM_UP,
    busy: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Keep N cores busy meanwhile, as others on a shared machine do."),
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write results.json, results.md and chart.png to this folder.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time forward passes: engines, precisions and attentions, and other libraries, in turns on the same pictures.

    Each has a process of its own, by default with a thread a core, and makes its passes while the others wait, in every
    round. The first table is that of Hugging Face's page on ViT Hybrid (eager and sdpa); then come all, with start-up,
    memory, preprocessing, the share of the machine's own matrix-product rate, and how far logits are apart.

    What cannot run here is named with the reason, and the exit status is then 1. With wrong options it is 2.
    """
    settings = Settings(
        model=model,
        batch_sizes=_listed(batch_sizes, _number, "--batch-sizes"),
        image_sizes=_listed(image_sizes, size_of, "--image-sizes") if image_sizes is not None else (None,),
        engines=_listed(engines, str, "--engines") if engines is not None else (),
        attentions=_listed(attention, str, "--attention"),
        precisions=_listed(precision, str, "--precision"),
        compiled=compiled,
        token_merging=_listed(token_merging, _number, "--token-merging") if token_merging is not None else (),
        peers=tuple(find_peer(text) for text in peers or ()),
        device=device,
        threads=threads or 0,
        repetitions=repetitions,
        warm_up=warm_up,
        busy=busy,
    )
    if output is not None:  # which needs matplotlib, and says so before all the work
        from ..benchmark.chart import chart as _  # noqa: F401

        if output.exists() and not output.is_dir():
            raise ValueError(f"{output}: this is a file; give the name of a folder")
    from ..benchmark.job import RESULTS_FILE, write_files

    with nullcontext() if output is None else made_parents(output / RESULTS_FILE):
        report = _measured(settings)
        with files_first():
            if as_json:
                write_json(report)
            else:
                write(_as_tables(report))
            if output is not None:
                write_files(report, output)
    if report["failures"]:
        raise typer.Exit(EXIT_FAILED)


def _measured(settings: Settings) -> Report:
    """The report, with a bar while it is made."""
    from ..benchmark.job import run

    bar: ProgressBar | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(total, doing="Measuring")
        bar.advance()

    try:
        return run(settings, progress, preparing=lambda: loading(settings.model))
    finally:
        if bar is not None:
            bar.close()


def _listed(text: str, convert: Callable[[str], Value], option: str) -> tuple[Value, ...]:
    """The values of an option that holds several."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise typer.BadParameter(f"{shown(text)!r}: expected one or more, with commas between them.", param_hint=option)
    try:
        return tuple(dict.fromkeys(map(convert, words)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _number(word: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", word):
        raise ValueError(f"{shown(word)!r} is no whole number from 1 on.")
    return int(word)


def _as_tables(report: Report) -> str:
    from rich.text import Text

    from ..benchmark.tables import about, tables

    parts: list[object] = [new_table(("", ""), about(report))]
    for found in tables(report):
        parts += [Text(""), Text(found.title, style="bold"), new_table(found.heads, found.rows)]
        parts += [Text(found.note)] if found.note else []
    return rendered(*parts)


__all__ = ["benchmark"]
