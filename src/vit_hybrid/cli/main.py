"""The command `vit-hybrid` as a whole.

Nothing here or at the top of a subcommand's file may import torch, transformers or NumPy: `vit-hybrid --help` is to
answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from .benchmark import benchmark
from .classify import classify
from .convert import convert
from .evaluate import evaluate
from .export import export
from .info import info
from .probe import probe
from .train import train

app = typer.Typer(
    name="vit-hybrid",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(classify)
app.command()(info)
app.command()(convert)
app.command()(evaluate)
app.command()(train)
app.command()(probe)
app.command()(export)
app.command()(benchmark)


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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names and labels need not fit the terminal's encoding
    app(prog_name="vit-hybrid")


__all__ = ["app", "main"]
