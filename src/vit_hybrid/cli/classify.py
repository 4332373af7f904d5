"""`vit-hybrid classify`: what is in these pictures?"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import shown
from ..outputs.problems import DEFAULT_TOP_K
from .options import AnyModel, AsJson, ConfidenceOptions, EngineOptions, TopK
from .output import RecordPrinter, complain
from .running import opened_predictor
from .session import EXIT_FAILED

if TYPE_CHECKING:
    from ..serve.client import Client

# What may be typed beside --server: all else was said where the server was started.
BESIDE_A_SERVER = {"images", "top_k", "as_json", "server", "api_key_file"}


@dataclass(frozen=True)
class RemoteOptions:
    """Where a server is that runs the model, if not here."""

    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Have the pictures classified by the server there (vit-hybrid serve), such as http://127.0.0.1:8000.",
            show_default="the model runs here",
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --server: a file with the key that it asks for.",
            show_default="the environment's VIT_HYBRID_API_KEY",
        ),
    ] = None


def classify(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders, searched through all levels for pictures; globs; - for standard input.",
            show_default=False,
        ),
    ],
    model: AnyModel = BUILT_IN_MODEL,
    top_k: TopK = DEFAULT_TOP_K,
    as_json: AsJson = False,
    confidence: ConfidenceOptions = ConfidenceOptions(),  # noqa: B008 - it is frozen
    remote: RemoteOptions = RemoteOptions(),
    engine: EngineOptions = EngineOptions(),  # noqa: B008
) -> None:
    """Say what is in images: ranked labels with their probabilities.

    An image that cannot be read gets one line that says why (on standard error, or with --json in its place) and the
    others are still classified; the exit status is then 1. With a wrong option or --model it is 2. What is passed over
    in folders is counted in one line at the end, without --json with the images that cannot be read.

    With --server the model of a server (vit-hybrid serve) says it, and what is printed is the same.

    Of a model that was calibrated (vit-hybrid calibrate) probabilities mean what they say, labels of the set that holds
    the truth as often as --coverage says are marked, and a picture of nothing that the model knows is called so.
    """
    from ..data import Passed
    from ..data.listing import PICTURE
    from ..data.sources import STANDARD_INPUT, contents, expand
    from ..outputs.ranking import check_rankable

    passed = Passed()
    pairs = expand(images, passed)
    # Standard input is read when its turn comes, and its turn is not to be waited for.
    may_read_ahead = all(source != STANDARD_INPUT for _, source in pairs)
    with ExitStack() as until_the_end:
        if remote.server is not None:
            client = until_the_end.enter_context(_asked(remote, context))
            check_rankable(client.model["problem_type"], top_k)
            labels = client.model["labels"]
            records = client.classify(contents(pairs), top_k, may_read_ahead)
        elif remote.api_key_file is not None:
            raise ValueError("--api-key-file is for a server; give its address with --server, or leave it out.")
        else:
            predictor = opened_predictor(model, engine, few=len(pairs), confidence=not confidence.uncalibrated)
            labels = predictor.labels
            levels = {"coverage": confidence.coverage, "false_alarms": confidence.false_alarms}
            ahead = may_read_ahead and len(pairs) > engine.batch_size
            records = predictor.stream(contents(pairs), top_k=top_k, read_ahead=ahead, **levels)
        printer = until_the_end.enter_context(RecordPrinter(as_json=as_json, labels=labels, total=len(pairs)))
        for (path, source), record in zip(pairs, records, strict=True):
            printer.print(record)
            # What was named itself was not passed over, and a folder that cannot be read is counted already.
            if "error" in record and isinstance(source, str) and path not in images and not as_json:
                passed.add(PICTURE, path)
    if passed:
        complain(passed.line())
    if printer.failures:
        raise typer.Exit(EXIT_FAILED)


def _asked(remote: RemoteOptions, context: typer.Context) -> Client:
    """The server, asked what its model is.

    Raises:
        ValueError: It cannot be asked; or something was typed that only makes sense here.
    """
    from ..serve.client import KEY_VARIABLE, Client

    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in BESIDE_A_SERVER and _is_typed(context, parameter.name)
    ]
    if typed:
        does = "says" if len(typed) == 1 else "say"
        raise ValueError(
            f"{', '.join(typed)} {does} how a model runs here, and --server has its own; leave out either."
        )
    key = os.environ.get(KEY_VARIABLE) or None
    if remote.api_key_file is not None:
        key = _key_in(remote.api_key_file)
    return Client(remote.server or "", key)


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name or "")
    return source is not None and source.name == "COMMANDLINE"


def _key_in(file: str) -> str:
    try:
        words = Path(file).expanduser().read_text(encoding="utf-8-sig").split()
    except ValueError:  # no text
        words = []
    if len(words) != 1:
        raise ValueError(f"{shown(file)} is not a file with a key, one word, and nothing else.")
    return words[0]


__all__ = ["classify"]
