"""What explains, asked without a process: what it is asked for, and what becomes of who gives up or is refused."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from vit_hybrid.images.reading import NOT_A_PICTURE, ImageReadError

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from vit_hybrid.serve import explaining, explanations
from vit_hybrid.serve.decoding import Decoders
from vit_hybrid.serve.explaining import How
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.settings import Settings


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

    asyncio.run(main())
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

    asyncio.run(main())
