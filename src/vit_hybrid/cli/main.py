"""The command `vit-hybrid` as a whole.

Nothing here or at the top of a subcommand's file may import torch, transformers or NumPy: `vit-hybrid --help` is to
answer at once.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from .. import __version__
from .many_pictures import completed
from .running import note_typed
from .session import EXIT_USAGE, in_session
from .streams import abandon, complain, take_the_place_of_closed_streams, unwritable

if TYPE_CHECKING:
    app: typer.Typer

# A new command is a file with a function, both of that name, and a place in this row, which is that of the help text.
COMMANDS = (
    "classify",
    "predict",
    "embed",
    "search",
    "explain",
    "info",
    "convert",
    "evaluate",
    "calibrate",
    "train",
    "probe",
    "export",
    "serve",
    "tune",
    "benchmark",
)


class _Command(TyperCommand):
    """A command some of whose options may stand without their value, which typer has no word for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = completed(args)
        if self.name == "explain":
            from .explain import IN_OUTPUT, PAGE

            args = completed(args, "--html", IN_OUTPUT, PAGE)
        rest = super().parse_args(ctx, args)
        note_typed(name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE")
        return rest


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vit-hybrid {__version__}")
        raise typer.Exit


def _vit_hybrid(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The Hybrid Vision Transformer: a ResNet whose feature map a Vision Transformer reads."""


@cache
def application(*commands: str) -> typer.Typer:
    """The command `vit-hybrid` with these of `COMMANDS`: one that is known to be meant spares the others' start."""
    made = typer.Typer(
        name="vit-hybrid",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_vit_hybrid)
    for name in commands:
        command = getattr(import_module(f".{name}", __package__), name)
        made.command(cls=_Command)(in_session(command))
    return made


def __getattr__(name: str) -> Any:
    if name == "app":
        return application(*COMMANDS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Runs the command on `sys.argv` and exits."""
    take_the_place_of_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names and labels need not fit the terminal's encoding
    try:
        meant = sys.argv[1:2]
        application(*(meant if meant and meant[0] in COMMANDS else COMMANDS))(prog_name="vit-hybrid")
    except OSError as error:  # of a help text, or of what is wrong with the options: commands have ends of their own
        abandon(sys.stdout)
        complain(unwritable(error))
        sys.exit(EXIT_USAGE)


__all__ = ["app", "main"]
