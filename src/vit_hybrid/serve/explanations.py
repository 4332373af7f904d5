"""Explanations, asked of a process of their own: one after the other, out of the same queue as all that is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..images.preparing import Preparing
from .batching import Batching, Model, decoding_problem, public_name
from .decoding import Decoders
from .explaining import NAME, How, taken_apart
from .gate import Exchange
from .logs import Log, without_folders
from .problems import Disconnected, Problem
from .settings import Settings
from .workers import CannotStart, Crew

START = "from vit_hybrid.serve.explaining import main; main()"
NO_TWIN = "this model cannot be explained here"


@dataclass
class Explained:
    """An answer.

    Attributes:
        content: A PNG, or the members of a JSON object.
        note: What is said of the model that was explained in the place of the one that answers for labels.
        timing: Milliseconds, as answers have them.
    """

    content: bytes
    note: str | None
    timing: dict[str, float]


class Explanations:
    """What explains, while there is a model to be explained.

    Args:
        options: What the model was opened with.
        settings: The server's.
        batching: The queue, whose room is shared.
        decoders: Threads that decode.
        log: Where it is said what happens.
    """

    def __init__(
        self, options: Mapping[str, Any], settings: Settings, batching: Batching, decoders: Decoders, log: Log
    ) -> None:
        self._options = dict(options)
        self._settings = settings
        self._batching = batching
        self._decoders = decoders
        self._log = log
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Explained]] = set()
        self._is_ending = False
        self._crew: Crew | None = None
        self._idle = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self._version: int | None = None
        self._failure: Problem | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def answer(self, how: How, exchange: Exchange) -> Explained:
        """A picture's explanation.

        Raises:
            Problem: 503, there is no room for it, or the process ended; 415 and 422, it cannot be read, or not be
                asked for this; 501, there is nothing that can be explained; 504, the deadline is over.
            Disconnected: Nobody waits for it any more.
        """
        self._batching.check_room()
        deadline = exchange.headers_at + self._settings.deadline
        task = asyncio.ensure_future(self._answer(how, deadline))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        is_gone = False

        def gone() -> None:
            nonlocal is_gone
            is_gone = True
            task.cancel()

        exchange.when_gone(gone)
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            if is_gone:
                raise Disconnected from None
            detail = "the server is ending" if self._is_ending else "what explains cannot run now; try again later"
            raise Problem(503, detail, "ending", {"Retry-After": "1"}) from None
        finally:
            exchange.when_gone(None)

    async def end(self) -> None:
        """Ends what is under way, and the process."""
        self._is_ending = True
        for task in list(self._tasks):
            task.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._crew is not None:
            await self._crew.close()

    async def _answer(self, how: How, deadline: float) -> Explained:
        model = self._batching.model
        loop = asyncio.get_running_loop()
        arrived = time.monotonic()
        self._batching.waiting += 1
        waits = True
        try:
            async with asyncio.timeout(deadline - arrived):
                await self._decoders.run(_check, model.preparing, how.source)
                decoded = time.monotonic()
                async with self._turn:
                    crew = await self._opened(model)
                    while not crew.idle():
                        self._idle.clear()
                        await self._idle.wait()
                    self._batching.waiting -= 1
                    waits = False
                    began = time.monotonic()
                    done: asyncio.Future[tuple[bool, bytes]] = loop.create_future()
                    crew.idle()[0].run([done], [how])
                    is_answer, content = await done
        except TimeoutError:
            raise Problem(504, "there was no answer within the time that a request has", "deadline") from None
        finally:
            if waits:
                self._batching.waiting -= 1
        if not is_answer:
            raise Problem(422, content.decode(), "explanation")
        told, note = taken_apart(content)
        seconds = {"queue": began - decoded, "decode": decoded - arrived, "model": time.monotonic() - began}
        return Explained(told, note, {f"{name}_ms": round(1000 * value, 3) for name, value in seconds.items()})

    # --- The process --------------------------------------------------------------------------------------------------

    async def _opened(self, model: Model) -> Crew:
        """The process, which is started where there is none, or the model has been loaded anew."""
        if self._opening is not None and not self._opening.done():
            await asyncio.shield(self._opening)  # of a request that is over
        if self._version != model.version:
            if self._crew is not None:
                await self._crew.close()
            self._crew, self._failure, self._version = None, None, model.version
        if self._crew is None and self._failure is None:
            self._opening = asyncio.ensure_future(self._open(model))
            await asyncio.shield(self._opening)  # it goes on where this request is over, for those that follow
        if self._crew is None:
            failure = self._failure
            assert failure is not None
            if failure.status == 503:  # which may pass
                self._failure = None
            raise failure
        return self._crew

    async def _open(self, model: Model) -> None:
        facts = model.crew.facts
        assert facts is not None
        options = {**self._options, "runs": (facts.engine, facts.precision)}
        crew = Crew(options, 1, 0, self._log, self._settings.batch_timeout, START)
        crew.on_idle = lambda _: self._idle.set()
        crew.on_done = self._finish
        crew.on_lost = self._lose
        crew.on_end = lambda line: self._give_up(crew, line)
        try:
            await crew.open()
        except CannotStart as error:
            await crew.close()
            name = str(options["name"])
            why = without_folders(str(error).replace(name, public_name(name)))
            self._log("no explanations", "error", reason=why)
            if error.may_pass:
                self._failure = Problem(
                    503, f"the process that explains does not run: {why}; try again later", "worker"
                )
            else:
                self._failure = Problem(501, f"{NO_TWIN}: {why}", "no twin")
        except BaseException:
            await crew.close()
            raise
        else:
            self._crew = crew

    def _give_up(self, crew: Crew, line: str) -> None:
        """No such process can live: the next request tries again."""
        self._log("no explanations", "error", reason=without_folders(line))
        if self._crew is crew:
            self._crew = None
        for task in list(self._tasks):
            task.cancel()
        closing = asyncio.ensure_future(crew.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _finish(self, batch: Sequence[asyncio.Future[tuple[bool, bytes]]], kind: str, content: Sequence[Any]) -> None:
        self._idle.set()
        for done in batch:
            if done.done():  # whoever asked no longer waits
                continue
            if kind == "done":
                done.set_result(content[1][0])
            else:
                self._log("explanation failed", "error", reason=content[0])
                done.set_exception(Problem(500, "the model failed on this picture", "engine"))

    def _lose(self, batch: Sequence[asyncio.Future[tuple[bool, bytes]]]) -> None:
        for done in batch:
            if not done.done():
                problem = Problem(503, "the process that explains ended; try again", "worker", {"Retry-After": "1"})
                done.set_exception(problem)


def _check(preparing: Preparing, source: bytes) -> None:
    """In a thread: raises `Problem` where a picture cannot be read, as where its labels are asked for."""
    try:
        preparing(source, NAME)
    except Exception as error:
        raise decoding_problem(error, NAME) from None


__all__ = ["Explained", "Explanations"]
