"""The command `vit-hybrid` as a whole.

Nothing here or at the top of a subcommand's file may import torch, transformers or NumPy: `vit-hybrid --help` is to
answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .. import __version__
from .benchmark import benchmark
from .calibrate import calibrate
from .classify import classify
from .convert import convert
from .embed import embed
from .evaluate import evaluate
from .explain import IN_OUTPUT, PAGE, explain
from .export import export
from .info import info
from .many_pictures import completed
from .predict import predict
from .probe import probe
from .running import note_typed
from .search import search
from .serve import serve
from .session import EXIT_USAGE, in_session
from .streams import abandon, complain, take_the_place_of_closed_streams, unwritable
from .train import train
from .tune import tune

app = typer.Typer(
    name="vit-hybrid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Command(TyperCommand):
    """A command some of whose options may stand without their value, which typer has no word for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = completed(args)
        if self.name == "explain":
            args = completed(args, "--html", IN_OUTPUT, PAGE)
        rest = super().parse_args(ctx, args)
        note_typed(name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE")
        return rest


# A new command is a file, and a place in this row.
for _command in (
    classify,
    predict,
    embed,
    search,
    explain,
    info,
    convert,
    evaluate,
    calibrate,
    train,
    probe,
    export,
    serve,
    tune,
    benchmark,
):
    app.command(cls=_Command)(in_session(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vit-hybrid {__version__}")
        raise typer.Exit


@app.callback()
def vit_hybrid(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The Hybrid Vision Transformer: a ResNet whose feature map a Vision Transformer reads."""


def main() -> None:
    """Runs the command on `sys.argv` and exits."""
    take_the_place_of_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names and labels need not fit the terminal's encoding
    try:
        app(prog_name="vit-hybrid")
    except OSError as error:  # of a help text, or of what is wrong with the options: commands have ends of their own
        abandon(sys.stdout)
        complain(unwritable(error))
        sys.exit(EXIT_USAGE)


__all__ = ["app", "main"]
