"""The server as a process: it opens the model, listens, answers, loads models anew, and ends in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, TextIO

import uvicorn
import uvloop
from starlette.middleware.cors import CORSMiddleware
from uvicorn.server import ServerState

from ..errors import JobStopped, reason, shown
from ..images.preparing import preparing
from ..runtimes import usable_cores
from .app import NOTE_HEADER, Service, application
from .batching import Batching, Model, public_name
from .connection import Connection
from .decoding import Decoders
from .explanations import Explanations
from .gate import Gate
from .keys import Keys, opened_keys
from .logs import Log, without_folders
from .metrics import Metrics
from .problems import Problem
from .settings import Settings
from .workers import CannotStart, Crew

BACKLOG = 2048
# A thread that decodes holds Python's lock for so long at most while the event loop has something to do (seconds); by
# default it is 5 ms, as long as a refusal may take altogether.
SWITCH_INTERVAL = 0.0005
MOST_DECODERS = 16
TICK = 1.0  # seconds between looks at the file of keys
POLL = 0.02  # seconds, while connections end


def run(
    options: Mapping[str, Any],
    settings: Settings,
    log_stream: TextIO | None,
    on_word: Callable[[str, str], None] = lambda kind, text: None,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serves until it is told to end.

    Args:
        options: What `Predictor.from_pretrained` takes, by its names: `name` is the model, `batch_size` the most
            pictures of a batch, `threads` those of each worker, by default its share of the cores.
        settings: All else.
        log_stream: Where the log goes, a JSON object a line.
        on_word: Called with "progress" or "warning" and what the workers say before the server listens.
        on_listening: Called when the server listens.

    Raises:
        ValueError: Before anything listens: the address cannot be listened on, there is no such model, or the file of
            keys cannot be used.
        JobStopped: No worker can live any more.
        KeyboardInterrupt: Ctrl-C ended it, in order.
    """
    keys = opened_keys(settings.api_key_file, settings.quota)
    listening = bound(settings.host, settings.port)
    sys.setswitchinterval(SWITCH_INTERVAL)
    log = Log(log_stream)
    try:
        with listening, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            server = Server(options, settings, keys, listening, log, on_word, on_listening)
            runner.run(server.serve())
    finally:
        log.close()
    if server.is_interrupted:
        raise KeyboardInterrupt


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet.

    Raises:
        ValueError: There is no such address here, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        why = reason(error).partition("] ")[2] or reason(error)
        raise ValueError(
            f"cannot listen on {shown(host)}, port {port}: {why}; give another --host or --port."
        ) from error
    return bound


class Server:
    """See `run`."""

    def __init__(
        self,
        options: Mapping[str, Any],
        settings: Settings,
        keys: Keys | None,
        listening: socket.socket,
        log: Log,
        on_word: Callable[[str, str], None],
        on_listening: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.log = log
        self.metrics = Metrics()
        self._keys = keys
        self._listening = listening
        self._on_word = on_word
        self._on_listening = on_listening
        cores = usable_cores()
        threads = options.get("threads") or max(1, cores // settings.workers)
        self._options = {**options, "threads": threads}
        self._decoders = Decoders(min(MOST_DECODERS, max(2, cores)))
        self._crews: set[Crew] = set()
        self._versions = 0
        self._is_loading = False
        self._end = asyncio.Event()
        self._hurry = asyncio.Event()
        self._delay = settings.drain_delay
        self._fatal: str | None = None
        self.is_interrupted = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self) -> None:
        """Serves until SIGTERM, SIGINT, or the end of all workers."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, self.settings.drain_delay)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._reload_later)
        try:
            opening = self._spawn(self._opened())
            ending = self._spawn(self._end.wait())
            await asyncio.wait((opening, ending), return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                await self._listen(opening.result())
        finally:
            if hasattr(self, "_service") and self._service.explanations is not None:
                await self._service.explanations.end()
            await asyncio.gather(*(crew.close() for crew in self._crews))
            for task in self._tasks:
                task.cancel()
            self._decoders.close()
        if self._fatal is not None:
            raise JobStopped(self._fatal)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _opened(self) -> Model:
        """The model, with workers that are ready.

        Raises:
            CannotStart: It cannot be opened.
        """
        queue = self.settings.queue_for(self._options["batch_size"])
        waiting = queue + self._decoders.count
        crew = Crew(self._options, self.settings.workers, waiting, self.log, self.settings.batch_timeout)
        crew.on_word = lambda kind, text: self._on_word(kind, text)  # which is another once the server listens
        crew.on_end = self._give_up
        self._crews.add(crew)
        try:
            await crew.open()
        except BaseException:
            await crew.close()
            self._crews.discard(crew)
            raise
        assert crew.facts is not None
        spec = crew.facts.spec
        assert spec.preprocessing is not None
        self._versions += 1
        max_pixels = self._options.get("max_pixels")
        prepares = preparing(spec.preprocessing, self._options.get("fast_decode", False), max_pixels=max_pixels)
        return Model(public_name(str(self._options["name"])), crew, prepares, self._versions, time.time(), max_pixels)

    async def _listen(self, model: Model) -> None:
        loop = asyncio.get_running_loop()
        settings, metrics = self.settings, self.metrics
        self._batching = Batching(settings, model, self._options["batch_size"], self._decoders, metrics, self.log)
        explanations = Explanations(self._options, settings, self._batching, self._decoders, self.log)
        self._service = Service(
            settings, self._batching, metrics, self.log, self._decoders, self._reload, explanations=explanations
        )
        app = application(self._service)
        self._gate = self._service.gate = Gate(app, settings, self._keys, metrics, self.log)
        metrics.gauge("queue_pictures", "Pictures that wait", lambda: self._batching.waiting)
        metrics.gauge("workers_ready", "Workers that live", lambda: len(self._batching.model.crew.ready))
        metrics.gauge("open_requests", "Requests that are not answered yet", lambda: self._gate.open)
        self._state = ServerState()
        try:
            self._listening.listen(BACKLOG)
        except OSError as error:  # another process was quicker
            raise ValueError(
                f"cannot listen on port {settings.port}: {error.strerror}; give another --port."
            ) from error
        connections = self._connections()
        loop.add_reader(self._listening.fileno(), self._accept, connections)
        ticking = self._spawn(self._tick())
        gc.freeze()  # what is there stays; to look through it for garbage would hold up requests
        self._on_listening()
        self._on_word = lambda kind, text: self.log(kind, text=without_folders(text))
        address = self._listening.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.log("listening", url=f"http://{host}:{address[1]}/", model=model.name, pid=os.getpid())
        await self._end.wait()
        await self._drain(connections)
        ticking.cancel()

    def _connections(self) -> Callable[[], Connection]:
        """What makes a connection, by uvicorn's rules and ours."""
        app: Any = self._gate
        if self.settings.cors_origins:
            app = CORSMiddleware(
                app,
                allow_origins=self.settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("Authorization", "Content-Type", "X-API-Key"),
                expose_headers=("Retry-After", "X-Request-ID", NOTE_HEADER),
            )
        shed = self.metrics.shed

        class OurConnection(Connection):
            settings = self.settings

            @staticmethod
            def on_refusal(reason: str) -> None:
                shed.labels(reason).inc()

        config = uvicorn.Config(
            app,
            http=OurConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=self.settings.idle_timeout,  # a number of seconds
        )
        config.load()
        return lambda: OurConnection(config, self._state, {})

    def _accept(self, connections: Callable[[], Connection]) -> None:
        """Takes all connections that wait."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # no descriptors are left, say: those that are open go on
                self.log("cannot accept", "error", reason=error.strerror)
                loop.remove_reader(self._listening.fileno())
                loop.call_later(0.1, loop.add_reader, self._listening.fileno(), self._accept, connections)
                return
            taken.setblocking(False)
            self._spawn(loop.connect_accepted_socket(connections, taken))

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
            if self._keys is not None:
                try:
                    if await loop.run_in_executor(None, self._keys.refresh):
                        self.log("keys read again")
                except (OSError, ValueError) as error:
                    self.log("keys not read", "error", reason=without_folders(reason(error)))
            await asyncio.sleep(TICK)

    # --- Loading anew -------------------------------------------------------------------------------------------------

    def _reload_later(self) -> None:
        async def reload() -> None:
            with suppress(Problem):  # the log has it
                await self._reload()

        if hasattr(self, "_service"):
            self._spawn(reload())

    async def _reload(self) -> None:
        """Loads the model anew, beside the old one, and switches.

        Raises:
            Problem: 409, it is doing so already; 422, the model cannot be loaded.
        """
        if self._is_loading or self._end.is_set():
            raise Problem(409, "the model is being loaded already, or the server is ending", "reload")
        self._is_loading = True
        try:
            model = await self._opened()
        except (CannotStart, OSError) as error:  # no descriptors are left, say
            self.metrics.reloads.labels("refused").inc()
            self.log("reload refused", "error", reason=without_folders(error))
            detail = "the model cannot be loaded, and the one before stays; the server's log says why"
            raise Problem(422, detail, "reload") from error
        finally:
            self._is_loading = False
        before = self._batching.model.crew
        self._batching.use(model)
        self._crews.discard(before)
        self.metrics.reloads.labels("done").inc()
        self.log("reloaded", model=model.name, version=model.version)

    # --- The end ------------------------------------------------------------------------------------------------------

    def _stop(self, delay: float) -> None:
        if self._end.is_set():
            self._hurry.set()
        self._delay = delay
        self._end.set()

    def _interrupt(self) -> None:
        self.is_interrupted = True
        self._stop(0.0)

    def _give_up(self, line: str) -> None:
        self._fatal = line
        self._delay = 0.0
        self._end.set()

    async def _drain(self, connections: Callable[[], Connection]) -> None:
        """Ends in order: `/readyz` says so while requests are still taken; then what was accepted is finished."""
        loop = asyncio.get_running_loop()
        self.log("ending", drain_delay=self._delay, grace=self.settings.grace)
        self._service.is_ending = self._gate.is_ending = True
        await self._pause(self._delay)
        loop.remove_reader(self._listening.fileno())
        self._accept(connections)  # those that were quick enough
        self._listening.close()
        await asyncio.sleep(POLL)  # what they have sent is read
        for connection in list(self._state.connections):
            connection.shutdown()
        until = loop.time() + (self.settings.grace if self._fatal is None else 0.0)
        while self._state.connections and loop.time() < until and not self._hurry.is_set():
            await asyncio.sleep(POLL)
        for job in list(self._batching.jobs):
            self._batching.abandon(job, Problem(503, "the server is ending", "ending", {"Retry-After": "1"}))
        if self._service.explanations is not None:
            await self._service.explanations.end()
        if self._state.connections:
            await asyncio.sleep(5 * POLL)  # for these answers
        left = len(self._state.connections)
        for connection in list(self._state.connections):
            connection.transport.abort()
        self.log("ended", connections_cut=left)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)


__all__ = ["bound", "run"]
