"""The options of commands over many pictures: how parts are written, and who shares the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from .options import Overwrite

# What `--ray` alone means, and what is an address behind it.
LOCAL_CLUSTER = "local"
ADDRESS = re.compile(r"local|auto|\S+:\d+")


@dataclass(frozen=True)
class PartsOptions:
    """How a row for each of many pictures is written, in the words of `predict.predict`."""

    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with OUT where it was stopped; begin where there is nothing.")
    ] = False
    overwrite: Overwrite = False
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Go on, and try again the pictures that could not be read.")
    ] = False
    verify: Annotated[
        bool, typer.Option("--verify", help="Go on, but first compare all that is done with the pictures' files.")
    ] = False
    rows_per_part: Annotated[
        int | None,
        typer.Option(min=1, help="How many pictures a part has.", show_default="what takes 1 second, later 10"),
    ] = None


@dataclass(frozen=True)
class SharingOptions:
    """Who shares the work over many pictures, in the words of `predict.predict`."""

    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the work and the cores; with --ray actors.",
            show_default="none but this one; with --ray what there is room for",
        ),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Work on a Ray cluster: HOST:PORT, or auto for that of this machine; without ADDRESS Ray on this "
            "machine alone.",
            show_default=False,
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(min=1, help="With --ray, the cores of a worker.", show_default="a node's, or its share of them"),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="With --ray, the GPUs of a worker; 0.5 where two share one.", show_default="none"),
    ] = None
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Let processors of several kinds take part, whose last digits may differ."),
    ] = False


def completed(
    words: Sequence[str], option: str = "--ray", value: str = LOCAL_CLUSTER, pattern: re.Pattern[str] = ADDRESS
) -> list[str]:
    """What was typed, with what an option stands for where it stands alone.

    Args:
        words: What was typed.
        option: The option; by default `--ray`, whose address may be left out.
        value: What stands for its value then.
        pattern: What is a value of its own behind it.
    """
    end = words.index("--") if "--" in words else len(words)
    found: list[str] = []
    for place, word in enumerate(words[:end]):
        following = "".join(words[place + 1 : min(place + 2, end)])
        found += [word, value] if word == option and not pattern.fullmatch(following) else [word]
    return [*found, *words[end:]]


__all__ = ["LOCAL_CLUSTER", "PartsOptions", "SharingOptions", "completed"]
