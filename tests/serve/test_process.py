"""What the server does beside its answers, with a crew that only seems to be one: what it hands on, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_worker import PREPROCESSING, Colors
from serving import PATIENCE, fake, photo, until

from vit_hybrid.images.preparing import Exactly, Fast

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from uvicorn.server import ServerState

from vit_hybrid.serve import server as server_module
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.problems import Problem
from vit_hybrid.serve.server import Server, bound, run
from vit_hybrid.serve.settings import Settings
from vit_hybrid.serve.worker import Facts

OPTIONS = {"name": "some/model", "batch_size": 4, "max_pixels": 5000}


class Seeming:
    """A crew whose model is there at once.

    Attributes:
        given: What it was made of.
        is_closed: Whether it has ended.
    """

    def __init__(self, *given: Any) -> None:
        self.given, self.is_closed = given, False
        self.facts = Facts(replace(Colors.spec, preprocessing=PREPROCESSING), "fake", "f32", "cpu", 4, False)
        self.on_word: Callable[[str, str], None]
        self.on_end: Callable[[str], None]

    async def open(self) -> None:
        self.on_word("progress", "opening")

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("is_interrupted", "error", "ends_with"),
    [(False, None, None), (True, None, KeyboardInterrupt), (False, OSError("it fails"), OSError)],
)
def test_however_it_ends_the_log_is_written_and_the_port_free(
    is_interrupted: bool, error: Exception | None, ends_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    class Serving:
        def __init__(self, options: Any, settings: Any, keys: Any, listening: Any, log: Any, *told: Any) -> None:
            self.is_interrupted = is_interrupted
            steps.append((options, settings, keys, told))
            self._listening = listening

        async def serve(self) -> None:
            steps.append((self._listening.getsockname()[0], sys.getswitchinterval()))
            steps.append(self._listening)
            if error is not None:
                raise error

    monkeypatch.setattr(server_module, "Server", Serving)
    monkeypatch.setattr(server_module, "Log", lambda _: SimpleNamespace(close=lambda: steps.append("written")))
    before, settings = sys.getswitchinterval(), Settings(port=0)
    hear, listens = lambda kind, text: None, lambda: None
    try:
        with nullcontext() if ends_with is None else pytest.raises(ends_with):
            run(OPTIONS, settings, None, hear, listens)
    finally:
        sys.setswitchinterval(before)
    made, (host, interval), listening, last = steps
    assert made == (OPTIONS, settings, None, (hear, listens))
    assert (host, last) == ("127.0.0.1", "written")
    assert interval == pytest.approx(0.0005)  # of a second, so that no refusal waits for a picture's decoding
    assert listening.fileno() == -1


def protocol(taken: asyncio.Event) -> Any:
    """What says that a connection was taken."""
    return SimpleNamespace(
        connection_made=lambda _: taken.set(), connection_lost=lambda _: None, eof_received=lambda: None
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a server, within an event loop."""
    monkeypatch.setattr(server_module, "Crew", Seeming)
    monkeypatch.setattr(server_module, "usable_cores", lambda: 7)
    servers: list[Server] = []

    def make(options: Any = OPTIONS, listening: Any = None, said: list[Any] | None = None, **settings: Any) -> Server:
        told = [] if said is None else said
        hear = lambda *word: told.append(word)  # noqa: E731
        servers.append(Server(options, Settings(**settings), None, listening, Log(None), hear, lambda: None))
        return servers[-1]

    yield make
    for server in servers:
        server._decoders.close()


@pytest.mark.parametrize(("given", "workers", "threads"), [({}, 3, 2), ({}, 9, 1), ({"threads": 5}, 3, 5)])
def test_workers_share_the_cores(made: Any, given: Any, workers: int, threads: int) -> None:
    assert made({**OPTIONS, **given}, workers=workers)._options["threads"] == threads


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (5, 5), (99, 16)])
def test_pictures_are_decoded_by_a_thread_a_core(
    made: Any, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "usable_cores", lambda: cores)
    assert made()._decoders.count == threads


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_model_is_opened_and_pictures_are_prepared_as_was_asked(made: Any, is_fast: bool) -> None:
    async def test() -> None:
        said: list[Any] = []
        server = made({**OPTIONS, "fast_decode": is_fast}, said=said, workers=2, max_queue=11, batch_timeout=3.0)
        model = await server._opened()
        assert server._crews == {model.crew}
        options, count, waiting, _, batch_timeout = model.crew.given
        assert options == {**OPTIONS, "fast_decode": is_fast, "threads": 3}
        # Each picture that waits, or that a thread decodes for somebody who has gone, has a place.
        assert (count, waiting, batch_timeout) == (2, 11 + 7, 3.0)
        assert type(model.preparing) is (Fast if is_fast else Exactly)
        assert model.preparing(photo(size=(70, 71)), "a").shape == (3, 8, 8)
        with pytest.raises(ValueError, match="more pixels"):
            model.preparing(photo(size=(71, 71)), "a")
        assert (model.name, model.version, model.max_pixels) == ("some/model", 1, 5000)
        assert said == [("progress", "opening")]
        assert (await server._opened()).version == 2
        assert type((await made()._opened()).preparing) is Exactly  # where nobody says how

    asyncio.run(test())


def test_a_reload_for_which_nothing_is_left_is_refused_and_may_be_asked_for_again(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(crew: Seeming) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test() -> None:
        server = made()
        for count in (1, 2):
            with pytest.raises(Problem) as told:
                await server._reload()
            assert (told.value.status, told.value.reason) == (422, "reload")
            refused = server.metrics.registry.get_sample_value("vit_hybrid_reloads_total", {"outcome": "refused"})
            assert refused == count
        assert not server._crews
        server._is_loading = True
        with pytest.raises(Problem, match="being loaded already") as told:
            await server._reload()
        assert told.value.status == 409
        server._is_loading = False
        server._stop(1000.0)
        with pytest.raises(Problem, match="or the server is ending"):
            await server._reload()

    monkeypatch.setattr(Seeming, "open", full)
    asyncio.run(test())


def test_of_a_model_that_another_took_the_place_of_nothing_is_kept(made: Any) -> None:
    async def test() -> None:
        server, lines = made(), list[Any]()
        server.log = lambda event, **fields: lines.append((event, fields))
        server._batching = SimpleNamespace(model=await server._opened())
        server._batching.use = lambda model: setattr(server._batching, "model", model)
        for version in (2, 3):
            await server._reload()
            model = server._batching.model
            assert (model.version, server._crews, server._is_loading) == (version, {model.crew}, False)
            assert lines.pop() == ("reloaded", {"model": "some/model", "version": version})

    asyncio.run(test())


def test_a_crew_of_which_none_can_live_ends_the_server_at_once(made: Any) -> None:
    async def test() -> None:
        server = made(drain_delay=1000.0)
        (await server._opened()).crew.on_end("no worker can run the model: it is gone")
        assert server._end.is_set()
        assert (server._fatal, server._delay) == ("no worker can run the model: it is gone", 0.0)

    asyncio.run(test())


def test_an_interrupt_does_not_wait_for_others_to_notice(made: Any) -> None:
    async def test() -> None:
        server = made(drain_delay=1000.0)
        server._interrupt()
        assert (server._end.is_set(), server._hurry.is_set(), server._delay) == (True, False, 0.0)
        assert server.is_interrupted
        server._interrupt()
        assert server._hurry.is_set()

    asyncio.run(test())


def test_a_server_that_is_to_end_before_its_model_is_there_waits_no_longer(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    crews: list[Seeming] = []

    async def wait(crew: Seeming) -> None:
        crews.append(crew)
        await asyncio.Event().wait()

    async def test() -> None:
        server = made()
        server._reload_later()  # for which it is too early
        assert not server._tasks
        serving = asyncio.ensure_future(server.serve())
        async with asyncio.timeout(PATIENCE):
            while not crews:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
        assert [crew.is_closed for crew in crews] == [True]

    monkeypatch.setattr(Seeming, "open", wait)
    asyncio.run(test())


def test_it_is_told_when_it_listens_and_the_log_hears_its_workers_from_then_on(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, said, frozen = list[tuple[Any, ...]](), list[Any](), list[int]()
    monkeypatch.setattr(server_module, "gc", SimpleNamespace(freeze=lambda: frozen.append(1)))

    async def test() -> None:
        with bound("127.0.0.1", 0) as listening:
            address = listening.getsockname()
            server = made(listening=listening, said=said)
            server.log = lambda event, *level, **fields: lines.append((event, *level, fields))

            def listens() -> None:
                with socket.create_connection(address):
                    said.append("listens")
                asyncio.get_running_loop().call_soon(server._stop, 0.0)

            server._on_listening = listens
            async with asyncio.timeout(PATIENCE):
                await server.serve()
            server._on_word("warning", "/home/ann/model: is slow")
        [crew] = server._crews
        assert crew.is_closed

    asyncio.run(test())
    assert said == [("progress", "opening"), "listens"]
    model = {"model": "some/model", "pid": os.getpid()}
    assert lines[0][0] == "listening"
    assert lines[0][1].items() >= model.items()
    assert lines[-1] == ("warning", {"text": "model: is slow"})
    assert frozen == [1]


class Last:
    """A connection that does not end.

    Attributes:
        told: What becomes of it.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self.transport = SimpleNamespace(abort=lambda: self.told.append("cut"))

    def shutdown(self) -> None:
        self.told.append("shut down")


def test_its_end_takes_who_is_there_already_and_waits_for_nobody_where_none_can_answer(made: Any) -> None:
    async def test() -> None:
        lines: list[tuple[str, dict[str, Any]]] = []
        last, taken = Last(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
            listening.setblocking(False)
            server = made(listening=listening, grace=1000.0, drain_delay=1000.0)
            server.log = lambda event, **fields: lines.append((event, fields))
            abandoned: list[Any] = []

            async def end() -> None:
                last.told.append(f"explained to the end of {len(abandoned)}")

            server._service = SimpleNamespace(is_ending=False, explanations=SimpleNamespace(end=end))
            server._gate = SimpleNamespace(is_ending=False)
            server._batching = SimpleNamespace(jobs={"a", "b"}, abandon=lambda *given: abandoned.append(given))
            server._state = ServerState()
            server._state.connections.add(last)  # type: ignore[arg-type]
            client.connect(listening.getsockname())  # which nobody has accepted yet
            server._give_up("no worker can run the model")
            async with asyncio.timeout(PATIENCE):
                await server._drain(lambda: protocol(taken))
                await taken.wait()
        assert (server._service.is_ending, server._gate.is_ending) == (True, True)
        assert last.told == ["shut down", "explained to the end of 2", "cut"]
        assert {job for job, _ in abandoned} == {"a", "b"}
        for _, problem in abandoned:
            assert (problem.status, problem.detail, problem.reason) == (503, "the server is ending", "ending")
            assert problem.headers == {"Retry-After": "1"}
        assert lines == [("ending", {"drain_delay": 0.0, "grace": 1000.0}), ("ended", {"connections_cut": 1})]

    asyncio.run(test())


def test_the_time_that_answers_name_goes_on(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 86400.0, 2 * 86400.0])
    monkeypatch.setattr(server_module, "time", SimpleNamespace(time=lambda: next(seconds)))
    monkeypatch.setattr(server_module, "TICK", 0.001)

    async def test() -> None:
        server = made()
        server._state = ServerState()
        told: list[bytes] = []
        ticking = asyncio.ensure_future(server._tick())
        async with asyncio.timeout(PATIENCE):
            while not ticking.done():
                for name, value in server._state.default_headers:
                    assert name == b"date"
                    told += [value] if value not in told else []
                await asyncio.sleep(0)
        assert isinstance(ticking.exception(), RuntimeError)  # of the clock, which has come to its end
        assert told == [b"%b Jan 1970 00:00:00 GMT" % day for day in (b"Thu, 01", b"Fri, 02", b"Sat, 03")]

    asyncio.run(test())


def test_an_address_can_be_listened_on_again_at_once() -> None:
    """While the system still remembers connections that the server before has ended."""
    with bound("127.0.0.1", 0) as first:
        first.listen()
        address = first.getsockname()
        with socket.create_connection(address) as client:
            first.setblocking(True)
            taken, _ = first.accept()
            taken.close()
            assert client.recv(1) == b""
    with bound(*address) as again:
        assert again.getsockname() == address


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (OSError(99, "Cannot assign requested address"), "Cannot assign requested address"),
        (UnicodeError("label empty or too long"), "label empty or too long"),
    ],
)
def test_why_an_address_cannot_be_listened_on(error: Exception, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match="cannot listen") as told:
        bound("a..b", 8000)
    assert str(told.value) == f"cannot listen on a..b, port 8000: {why}; give another --host or --port."


def test_a_port_that_another_process_was_quicker_to_listen_on(made: Any) -> None:
    async def test() -> None:
        with bound("127.0.0.1", 0) as first, bound(*first.getsockname()) as second:
            first.listen()
            port = first.getsockname()[1]
            with pytest.raises(ValueError, match=f"cannot listen on port {port}: Address already in use; give another"):
                await made(listening=second, port=port).serve()

    asyncio.run(test())


def test_where_no_descriptors_are_left_others_are_taken_later(made: Any) -> None:
    class Full(socket.socket):
        """One that cannot accept at first."""

        refusals = 2

        def accept(self) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    async def test() -> None:
        lines: list[tuple[Any, ...]] = []
        with Full() as listening, socket.socket() as client:
            listening.bind(("127.0.0.1", 0))
            listening.setblocking(False)
            listening.listen()
            server = made(listening=listening)
            server.log = lambda event, level, **fields: lines.append((event, level, fields))
            loop, taken = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(listening.fileno(), server._accept, lambda: protocol(taken))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(listening.getsockname())
            async with asyncio.timeout(PATIENCE):
                await taken.wait()
            loop.remove_reader(listening.fileno())
        assert lines == [("cannot accept", "error", {"reason": "Too many open files"})] * 2

    asyncio.run(test())


def test_an_address_of_version_6_is_told_as_browsers_take_it() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no address of version 6")
    with fake("--host", "::1") as server:
        assert server.events("listening")[0]["url"] == f"http://[::1]:{server.port}/"


def test_a_second_signal_ends_it_at_once_and_tells_who_waits() -> None:
    with fake("--drain-delay", "1000", "--grace", "1000", VIT_HYBRID_FAKE_SECONDS="1000") as server:
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/classify", photo())))
        asking.start()
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        server.process.terminate()
        assert server.wait_for("ending")["drain_delay"] == 1000
        assert server.get("/healthz").headers["connection"] == "close"  # still taken, and no further one behind it
        assert server.terminate() == 0
        asking.join(PATIENCE)
        [answer] = answers
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["detail"] == "the server is ending"
