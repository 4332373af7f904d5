"""The server on a Ray cluster: the same routes, limits and answers, from as many replicas as the load asks for.

    serve run vit_hybrid.serve.ray:app
    serve run vit_hybrid.serve.ray:build model=my-model precision=bf16 max_replicas=8

Ray's proxies take the connections and share requests out among the replicas, each of which runs one engine behind the
gate, the routes and the queue of the other files here. `serve.batch` gets from that queue what is to be a batch, and
only while the engine is idle: left to itself, it forms batches while the engine is busy, too, of what came between two
turns of the event loop, and they are as small as that.
"""

# Ray reads the annotation of what `build` takes, so that annotations are not to become texts here.
import asyncio
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from inspect import signature
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from ..assets import BUILT_IN_MODEL
from ..errors import EngineWarning, one_line, reason
from ..images.preparing import preparing
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE
from .app import Service, application
from .batching import Batching, Model, public_name
from .decoding import Decoders
from .gate import Gate
from .keys import opened_keys
from .logs import Log, without_folders
from .memory import Places, shared_memory
from .metrics import Metrics
from .problems import Problem
from .settings import BATCHES_WAITING, MAX_PIXELS, Settings
from .worker import Asked, Facts, opened

NAME = "vit-hybrid"
# What Ray does in its own way, for all replicas together.
OF_RAY = {
    "/metrics": "Ray's own metrics have those of all replicas",
    "/readyz": "Ray sends requests to replicas that are ready; /-/healthz is its own",
    "/v1/admin/reload": "deploy the application again, and Ray replaces its replicas one by one",
}
KEYS_SECONDS = 1.0  # between looks at the file of keys


class Arguments(BaseModel):
    """What `build` takes; of what `vit-hybrid serve` has as options, too, the names are those of its options.

    Attributes:
        model: What `Predictor.from_pretrained` opens; on every node where a replica may run.
        max_batch: The most pictures that go through the model at once.
        num_cpus: The cores of a replica, with as many threads unless `threads` says otherwise.
        num_gpus: Its GPUs; a part of 1 where several replicas share one.
        min_replicas: Replicas that are always there.
        max_replicas: Those that there are at most.
        max_ongoing_requests: What a replica takes at once, at least twice `max_batch`; by default what fills its engine
            and its queue.
        max_queued_requests: What waits in each of Ray's proxies for a replica that has room; more gets 503 from Ray.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = BUILT_IN_MODEL
    engine: str = AUTO
    precision: str = AUTO
    device: str | None = None
    threads: int | None = Field(None, ge=1)
    max_batch: int = Field(DEFAULT_BATCH_SIZE, ge=1)
    fast_decode: bool = False
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    coverage: float = DEFAULT_COVERAGE
    false_alarms: float = DEFAULT_FALSE_ALARMS
    max_wait_ms: float = Field(Settings.max_wait_ms, ge=0)
    max_queue: int | None = Field(Settings.max_queue, ge=1)
    max_body_mb: float = Field(Settings.max_body_mb, gt=0)
    max_buffered_mb: float = Field(Settings.max_buffered_mb, gt=0)
    max_files: int = Field(Settings.max_files, ge=1)
    deadline: float = Field(Settings.deadline, gt=0)
    body_timeout: float = Field(Settings.body_timeout, gt=0)
    batch_timeout: float = Field(Settings.batch_timeout, gt=0)
    grace: float = Field(Settings.grace, ge=0)
    api_key_file: str | None = None
    access_log_rate: int = Field(Settings.access_log_rate, ge=0)
    num_cpus: float = Field(1, ge=0)
    num_gpus: float = Field(0, ge=0)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    max_ongoing_requests: int | None = None
    max_queued_requests: int | None = Field(None, ge=1)

    def settings(self) -> Settings:
        """Those of them that are the server's."""
        return Settings(
            **{field.name: getattr(self, field.name) for field in fields(Settings) if hasattr(self, field.name)}
        )

    def options(self) -> dict[str, Any]:
        """Those of them that `worker.opened` takes."""
        names = ("engine", "precision", "device", "fast_decode", "max_pixels", "coverage", "false_alarms")
        threads = self.threads or max(1, int(self.num_cpus))
        given = {name: getattr(self, name) for name in names}
        return {"name": self.model, "batch_size": self.max_batch, "threads": threads, "may_race": False, **given}


class EngineHere:
    """The engine of this process, as `Batching` knows engines.

    Args:
        facts: What it runs.
        answer: Has a picture answered, together with all that are asked for in the same turn of the event loop.
        waiting: Pictures that wait at once, and those that are being decoded.
    """

    def __init__(self, facts: Facts, answer: Callable[[Asked], Awaitable[tuple[bool, bytes]]], waiting: int) -> None:
        self._answer = answer
        count = waiting + facts.max_batch
        memory = shared_memory()
        self.facts: Facts | None = facts
        self.places: Places | None = Places(memory, count, facts.shape)
        os.close(memory)
        self.free = deque(range(count))
        self.busy_since: float | None = None
        self.on_idle: Callable[[Any], None] = lambda _: None
        self.on_done: Callable[[Sequence[Any], str, Sequence[Any]], None] = lambda *_: None
        self.on_lost: Callable[[Sequence[Any]], None] = lambda _: None
        self.on_restart: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> Sequence["EngineHere"]:
        return [self]

    def idle(self) -> Sequence["EngineHere"]:
        return [self] if self.busy_since is None else []

    async def close(self) -> None:
        """It ends with the process."""

    def run(self, batch: Sequence[Any], asked: Sequence[Asked]) -> None:
        """Begins with a batch."""
        self.busy_since = time.monotonic()
        self._task = asyncio.ensure_future(self._run(batch, asked))

    async def _run(self, batch: Sequence[Any], asked: Sequence[Asked]) -> None:
        start = time.perf_counter()
        kind, content = "done", []
        try:
            answers = await asyncio.gather(*(self._answer(one) for one in asked))
            content = [time.perf_counter() - start, answers]
        except Exception as error:  # fails this batch, and no other
            kind, content = "raised", [type(error).__name__]
        self.busy_since = None
        self.on_done(batch, kind, content)


class Through(Response):
    """An answer that an ASGI application gives.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, prefix = scope["path"], scope.get("root_path", "")  # the application's, where Ray has several
        await self._app({**scope, "path": path.removeprefix(prefix) or "/", "root_path": ""}, receive, send)


class Replica:
    """One of the processes that answer.

    Args:
        given: `Arguments`, by their names.
    """

    async def __init__(self, given: Mapping[str, Any]) -> None:  # type: ignore[misc]  # Ray waits for it
        arguments = Arguments(**given)
        self._settings = settings = arguments.settings()
        self._log = log = Log(sys.stderr)
        self._keys = opened_keys(settings.api_key_file, settings.quota)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", EngineWarning)
            self._running = running = opened(arguments.options())
            running.warm_up()
        for warning in heard:
            log("warning", text=without_folders(one_line(warning.message)))
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        decoders = Decoders(max(2, int(arguments.num_cpus)))
        facts, queue = running.facts, settings.queue_for(arguments.max_batch)
        self._engine = EngineHere(facts, self.answer, queue + decoders.count)
        self.answer.set_max_batch_size(arguments.max_batch)
        assert facts.spec.preprocessing is not None
        prepares = preparing(facts.spec.preprocessing, arguments.fast_decode, max_pixels=arguments.max_pixels)
        name = public_name(arguments.model)
        model = Model(name, self._engine, prepares, 1, time.time(), arguments.max_pixels)
        metrics = Metrics()
        batching = Batching(settings, model, arguments.max_batch, decoders, metrics, log)
        service = Service(settings, batching, metrics, log, decoders, _no_reload)
        routes = application(service)

        async def ours(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] in OF_RAY:
                raise Problem(404, OF_RAY[scope["path"]], "route")
            await routes(scope, receive, send)

        self._gate = service.gate = Gate(ours, settings, self._keys, metrics, log)
        self._watching = asyncio.ensure_future(self._watch_keys()) if self._keys is not None else None

    @serve.batch(batch_wait_timeout_s=0)
    async def answer(self, asked: list[Asked]) -> list[tuple[bool, bytes]]:
        """What the model says of pictures that wait in their places, in a thread."""
        assert self._engine.places is not None
        pixels = self._engine.places.batch([one.place for one in asked])
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._engine_thread, self._running.answers, pixels, asked)

    async def __call__(self, request: Request) -> Response:
        return Through(self._gate)

    async def check_health(self) -> None:
        """Raises where the engine is stuck, and Ray replaces the replica."""
        since = self._engine.busy_since
        if since is not None and time.monotonic() - since > self._settings.batch_timeout:
            raise RuntimeError(f"a batch has taken more than {self._settings.batch_timeout:g} seconds")

    async def _watch_keys(self) -> None:
        assert self._keys is not None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            try:
                if await loop.run_in_executor(None, self._keys.refresh):
                    self._log("keys read again")
            except (OSError, ValueError) as error:
                self._log("keys not read", "error", reason=without_folders(reason(error)))


async def _no_reload() -> None:
    raise Problem(404, OF_RAY["/v1/admin/reload"], "route")


def build(arguments: Arguments) -> serve.Application:
    """The application, as `serve run` and Ray's configuration files ask for it.

    Raises:
        ValueError: `max_ongoing_requests` is less than two batches, or `min_replicas` more than `max_replicas`.
    """
    batch, replicas = arguments.max_batch, (arguments.min_replicas, arguments.max_replicas)
    ongoing = arguments.max_ongoing_requests
    if ongoing is None:  # what waits, and the batch that runs
        ongoing = max(2 * batch, arguments.settings().queue_for(batch) + batch)
    elif ongoing < 2 * batch:
        raise ValueError(f"max_ongoing_requests is {ongoing}; expected at least twice max_batch, {2 * batch}.")
    if replicas[0] > replicas[1]:
        raise ValueError(f"min_replicas is {replicas[0]}; expected at most max_replicas, {replicas[1]}.")
    queued = arguments.max_queued_requests
    options: dict[str, Any] = {}
    if "backpressure_config" in signature(serve.deployment).parameters:  # not in Ray's older releases
        options["backpressure_config"] = {"retry_after_s": 1}
    deployment = serve.deployment(
        Replica,
        name=NAME,
        max_ongoing_requests=ongoing,
        max_queued_requests=BATCHES_WAITING * batch if queued is None else queued,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        autoscaling_config={
            "min_replicas": replicas[0],
            "max_replicas": replicas[1],
            "target_ongoing_requests": batch,  # one batch runs while the next one gathers
        },
        graceful_shutdown_timeout_s=arguments.grace,
        **options,
    )
    return deployment.bind(arguments.model_dump())


app = build(Arguments())

__all__ = ["Arguments", "app", "build"]
