"""`vit-hybrid tune`: what runs this model fastest here?"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..runtimes import Precision
from .options import MODELS, AsJson, ImageSize
from .output import ProgressBar, new_table, rendered
from .streams import write, write_json

if TYPE_CHECKING:
    from ..engines.tuning import Tuning

# Steps of the bar.
STEPS = 100


def tune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|PRESET", help=f"{MODELS}; or a published hybrid such as R50+B/16, with random weights."
        ),
    ] = BUILT_IN_MODEL,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Race within this precision alone.", show_default="all that the processor has"),
    ] = None,
    image_size: ImageSize = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="M",
            help="How long passes may take in all; conversion and compiling are told apart.",
            show_default="1 for the model in the package, else 5",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Race what can run a model here, within each precision, and keep the fastest for all that run it with auto.

    Engines, torch's attention, its layout and compiling, numbers of threads and batch sizes take turns. What is found
    holds for this processor, the cores that this process may use, these libraries, and all models of this shape.
    """
    from ..engines.tuning import tune as run

    done = 0
    with closing(ProgressBar(STEPS, doing="Racing")) as bar:

        def progress(share: float, text: str) -> None:
            nonlocal done
            if (steps := int(STEPS * share)) > done:
                bar.advance(steps - done)
                done = steps

        found = run(model, precision, image_size, minutes, progress=progress)
    if as_json:
        write_json(found.report())
    else:
        write(_as_tables(found))


def _as_tables(found: Tuning) -> str:
    from rich.text import Text

    report = found.report()
    rows = [
        (
            row["name"],
            str(row["batch_size"]),
            f"{row['milliseconds']:.2f}",
            f"{row['pictures_per_second']:.1f}",
            str(row["rounds"]),
            "fastest" if row["is_fastest"] else "",
        )
        for row in report["rows"]
    ]
    parts: list[object] = [new_table(("way", ">batch", ">least ms", ">pictures/s", ">rounds", ""), rows)]
    if report["failures"]:
        failed = [(one["name"], one["error"]) for one in report["failures"]]
        parts += [Text(""), Text("Did not run here", style="bold"), new_table(("way", "reason"), failed)]
    seconds = report["seconds"]
    parts += [Text(""), *map(Text, report["notes"])]
    parts.append(
        Text(
            f"{seconds['racing']:.0f} s of passes, {seconds['converting']:.0f} s of conversion, which later starts do "
            f"without, {seconds['compiling']:.0f} s of compiling, which they do not; "
            + ("kept for --engine auto" if report["kept"] else "not kept")
        )
    )
    return rendered(*parts)


__all__ = ["tune"]
