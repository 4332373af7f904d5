"""What explains, asked without a process: what it is asked for, and what becomes of who gives up or is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import PATIENCE
from waiting import until

from vit_hybrid.images.reading import NOT_A_PICTURE, ImageReadError

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from vit_hybrid.serve import explaining, explanations
from vit_hybrid.serve.decoding import Decoders
from vit_hybrid.serve.explaining import How
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.settings import Settings
from vit_hybrid.serve.workers import CannotStart


def test_what_is_asked_of_the_explainer_and_what_it_cannot_do() -> None:
    asked: list[Any] = []

    def explain(source: Any, method: str, *labels: Any, **how: Any) -> Any:
        asked.append((source, method, *labels, how))
        raise ValueError("there is\n no such layer")

    config = SimpleNamespace(num_labels=2, problem_type=None, num_hidden_layers=3)
    made: Any = SimpleNamespace(hybrid=SimpleNamespace(config=config), labels=["a", "b"], explain=explain)
    found = explaining.Explaining(made, None, "cpu")
    facts = found.facts
    assert (facts.spec.labels, facts.spec.problem_type) == (("a", "b"), "single_label_classification")
    assert (facts.engine, facts.precision, facts.is_calibrated) == ("torch", "f32", False)
    more: dict[str, Any] = {"layer": "2", "head": 3, "fusion": "max", "discard": 0.25}
    for labels in ((), ("a", "b")):
        told = found.computed(None, [How(b"a picture", "json", "attention", labels, **more)])
        assert told() == [(False, b"there is no such layer")]
        assert asked.pop() == (b"a picture", "attention", labels or None, {**more, "name": "image 1"})
    with pytest.raises(ValueError, match="no such layer"):
        found.warm_up()
    [(picture, method, _)] = asked
    assert (picture.size, method) == ((64, 64), "grad-cam")  # which needs gradients, too


class Broken:
    """A crew that cannot start, or can."""

    error: Exception | None = None

    def __init__(self, *_: Any) -> None:
        self.is_closed = False
        self.on_end: Callable[[str], None]
        self.on_lost: Callable[[list[Any]], None]

    async def open(self) -> None:
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("may_pass", "status", "reason", "detail"),
    [
        (False, 501, "no twin", "this model cannot be explained here: mine: is broken"),
        (True, 503, "worker", "the process that explains does not run: mine: is broken; try again later"),
    ],
)
def test_why_there_is_nothing_that_explains(
    may_pass: bool, status: int, reason: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(explanations, "Crew", Broken)
    monkeypatch.setattr(Broken, "error", CannotStart("models/mine: is broken", may_pass=may_pass))
    lines: list[tuple[Any, ...]] = []
    facts = SimpleNamespace(engine="torch", precision="f32")
    model: Any = SimpleNamespace(version=1, crew=SimpleNamespace(facts=facts))
    nothing: Any = None

    async def main() -> None:
        log: Any = lambda *given, **fields: lines.append((*given, fields))  # noqa: E731
        found = explanations.Explanations({"name": "models/mine"}, Settings(), nothing, nothing, log)
        for _ in range(2):
            with pytest.raises(explanations.Problem) as told:
                await found._opened(model)
            assert (told.value.status, told.value.reason, told.value.detail) == (status, reason, detail)
        # What may pass is tried again.
        assert lines == [("no explanations", "error", {"reason": "mine: is broken"})] * (2 if may_pass else 1)
        monkeypatch.setattr(Broken, "error", None)
        model.version = 2
        crew: Any = await found._opened(model)
        lost = asyncio.get_running_loop().create_future()
        crew.on_lost([lost])
        assert "the process that explains ended" in str(lost.exception())
        crew.on_end("it cannot live")
        assert found._crew is None
        await until(lambda: crew.is_closed)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_who_gives_up_while_it_is_started_leaves_it_to_those_who_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    opened: list[int] = []

    async def main() -> None:
        found = explanations.Explanations({}, Settings(), nothing, nothing, Log(None))
        crew, is_there = nothing, asyncio.Event()

        async def opening(_: Any) -> None:
            nonlocal crew
            opened.append(1)
            await is_there.wait()
            found._crew = crew = SimpleNamespace()

        monkeypatch.setattr(found, "_open", opening)
        model: Any = SimpleNamespace(version=1)
        first = asyncio.ensure_future(found._opened(model))
        await until(lambda: opened)
        first.cancel()
        second = asyncio.ensure_future(found._opened(model))
        await asyncio.sleep(0)
        is_there.set()
        assert await second is crew is not None

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert opened == [1]


def test_what_is_not_explained_waits_no_longer() -> None:
    async def main() -> None:
        decoders, waiting = Decoders(1), asyncio.Event()

        def preparing(source: bytes, name: str) -> None:
            if source == b"words":
                raise ImageReadError(name, "is not a picture", NOT_A_PICTURE)

        batching: Any = SimpleNamespace(model=SimpleNamespace(preparing=preparing), waiting=0)
        found = explanations.Explanations({}, Settings(), batching, decoders, Log(None))
        found._opened = lambda _: waiting.wait()  # type: ignore[assignment, method-assign]
        for source, late, status in ((b"words", 60.0, 415), (b"a picture", 0.1, 504)):
            with pytest.raises(explanations.Problem) as told:
                await found._answer(How(source), time.monotonic() + late)
            assert (told.value.status, batching.waiting) == (status, 0)
        decoders.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
