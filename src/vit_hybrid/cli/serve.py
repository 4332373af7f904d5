"""`vit-hybrid serve`: a server that says what is in pictures."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import typer

from ..assets import BUILT_IN_MODEL
from ..errors import EngineWarning, needs
from ..runtimes import DEFAULT_BATCH_SIZE
from ..serve.settings import MAX_PIXELS, Settings
from .options import MODELS, ConfidenceOptions, EngineOptions
from .running import engine_arguments
from .session import loading
from .streams import standard_error

EXTRA = "serve"
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus_client", "python_multipart")


@dataclass(frozen=True)
class ServedOptions(EngineOptions):
    """How the model runs in each worker."""

    batch_size: Annotated[
        int, typer.Option("--max-batch", min=1, help="The most pictures that go through the model at once.")
    ] = DEFAULT_BATCH_SIZE
    max_pixels: Annotated[
        int,
        typer.Option(
            "--max-pixels", min=1, metavar="N", help="The most pixels of a picture; larger ones are not decoded."
        ),
    ] = MAX_PIXELS
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many threads compute in each worker.", show_default="the cores, divided by the workers"
        ),
    ] = None


@dataclass(frozen=True)
class ServerOptions(Settings):
    """How the server listens, what it takes, and how it ends."""

    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of the machine's.")] = (
        Settings.host
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = Settings.port
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that run the model; the cores are divided among them.")
    ] = Settings.workers
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="How long an idle engine waits for a batch to fill, in milliseconds.")
    ] = Settings.max_wait_ms
    max_queue: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures that may wait; further requests get 503.",
            show_default="two batches for each worker",
        ),
    ] = Settings.max_queue
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Megabytes of a request's body.")] = Settings.max_body_mb
    max_buffered_mb: Annotated[
        float, typer.Option(min=0.001, help="Megabytes of the bodies of all requests together.")
    ] = Settings.max_buffered_mb
    max_files: Annotated[int, typer.Option(min=1, help="Pictures in one request.")] = Settings.max_files
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds until a request without an answer gets 504.")] = (
        Settings.deadline
    )
    header_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds in which a request's headers have to come.")
    ] = Settings.header_timeout
    body_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds in which its body has to come, and the answer to be taken.")
    ] = Settings.body_timeout
    idle_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a connection may stay open between two requests.")
    ] = Settings.idle_timeout
    max_connections: Annotated[int, typer.Option(min=1, help="Connections that are open at once.")] = (
        Settings.max_connections
    )
    batch_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds after which a worker that does not answer is replaced.")
    ] = Settings.batch_timeout
    api_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The keys that requests need, on each line a name and a key.",
            show_default="no key is needed",
        ),
    ] = Settings.api_key_file
    quota: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures a minute of each key whose line has no quota.", show_default="any number"),
    ] = Settings.quota
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="An origin whose pages may read the answers, such as https://example.org; may be repeated.",
            show_default="none",
        ),
    ] = None  # type: ignore[assignment]  # what typer gives is made a tuple of below
    drain_delay: Annotated[
        float, typer.Option(min=0, help="Seconds that requests are still taken after SIGTERM, while /readyz fails.")
    ] = Settings.drain_delay
    grace: Annotated[float, typer.Option(min=0, help="Seconds that what was accepted then has to be finished in.")] = (
        Settings.grace
    )
    access_log_rate: Annotated[
        int, typer.Option(min=0, help="Lines a second of the access log, for each kind of outcome.")
    ] = Settings.access_log_rate

    def __post_init__(self) -> None:
        object.__setattr__(self, "cors_origins", tuple(self.cors_origins or ()))


def serve(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help=f"{MODELS}; or a bundle that vit-hybrid export wrote.")
    ] = BUILT_IN_MODEL,
    engine: ServedOptions = ServedOptions(),
    confidence: ConfidenceOptions = ConfidenceOptions(),  # noqa: B008 - it is frozen
    server: ServerOptions = ServerOptions(),
) -> None:
    """Say over HTTP what is in pictures: POST /v1/classify with a picture as the body.

    Its log, a JSON object a line, goes to standard error. SIGTERM ends it in order, Ctrl-C likewise but at once, and
    SIGHUP has it load the model anew. What is wrong with the options or the model is said in one line, before anything
    listens, with exit status 2; it is 1 where the model cannot be run any more.
    """
    from importlib import util

    missing = [name for name in PACKAGES if util.find_spec(name) is None]
    if missing:
        raise ImportError(needs("the server", missing, EXTRA))
    with ExitStack() as until_it_listens:
        tell = until_it_listens.enter_context(loading(model))
        from ..serve.server import run

        def hear(kind: str, text: str) -> None:
            if kind == "progress":
                tell(text)
            else:
                warnings.warn(EngineWarning(text), stacklevel=1)

        said = {"coverage": confidence.coverage, "false_alarms": confidence.false_alarms}
        how = engine_arguments(model, engine, tell)
        options = {"name": model, **how, "confidence": not confidence.uncalibrated, **said}
        run(options, server, standard_error(), hear, until_it_listens.close)


__all__ = ["serve"]
