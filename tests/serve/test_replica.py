"""A replica of the application on Ray, in this process: its engine, its path, its keys and its health."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_worker import PREPROCESSING, Colors
from serving import PATIENCE, photo, plain
from waiting import until

from vit_hybrid.errors import EngineWarning
from vit_hybrid.images.preparing import Exactly, Fast
from vit_hybrid.inference.predictor import Predictor

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")
pytest.importorskip("fastapi", reason="needs the extra ray-serve")

from vit_hybrid.serve import ray as ray_module
from vit_hybrid.serve.ray import EngineHere, Replica, Through
from vit_hybrid.serve.worker import CLASSIFY, Asked, Facts, Running

FACTS = Facts(Colors.spec, "fake", "f32", "cpu", 2, False)
KEY, OTHER = "a-key-of-somebody", "another-key-of-one"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE))


def test_its_engine_answers_a_batch_or_says_that_it_failed_and_is_idle_again() -> None:
    async def answer(one: Asked) -> tuple[bool, bytes]:
        if one.top_k == 99:
            raise ValueError("/somewhere")
        return True, b"%d" % one.place

    async def test() -> None:
        engine, done = EngineHere(FACTS, answer, 5), list[Any]()

        def on_done(batch: Any, kind: str, content: Any) -> None:
            assert engine.idle() == [engine]  # for the next batch, which is then formed
            done.append((batch, kind, content))

        engine.on_done = on_done
        # A place for each picture that waits, and for those of the batch that runs.
        assert engine.places is not None
        assert len(engine.places.pixels) == 7
        assert list(engine.free) == list(range(7))
        assert engine.idle() == engine.ready == [engine]
        for batch, tops in ((["a", "b"], (1, 2)), (["c"], (99,)), (["d"], (1,))):
            engine.run(batch, [Asked(3 + place, CLASSIFY, top_k) for place, top_k in enumerate(tops)])
            assert engine.idle() == []
            assert engine._task is not None
            await engine._task
            assert engine.idle() == [engine]
        assert done[1] == (["c"], "raised", ["ValueError"])
        for (batch, kind, (seconds, answers)), expected in (
            (done[0], (["a", "b"], [(True, b"3"), (True, b"4")])),
            (done[2], (["d"], [(True, b"3")])),
        ):
            assert (batch, answers) == expected
            assert kind == "done"
            assert 0 <= seconds < PATIENCE

    run(test())


@pytest.mark.parametrize(
    ("path", "prefix", "expected"),
    [
        ("/vit/v1/model", "/vit", "/v1/model"),
        ("/vit", "/vit", "/"),
        ("/v1/model", "", "/v1/model"),
        ("/vit/vit", "/vit", "/vit"),
    ],
)
def test_paths_are_those_within_the_application(path: str, prefix: str, expected: str) -> None:
    asked: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append(scope)

    run(Through(app)({"path": path, "root_path": prefix, "method": "GET"}, None, None))
    assert asked == [{"path": expected, "root_path": "", "method": "GET"}]


class Together:
    """What stands for Ray's batches: each picture is answered by itself."""

    def __init__(self) -> None:
        self.most = 0
        self.replica: Any = None

    def set_max_batch_size(self, most: int) -> None:
        self.most = most

    async def __call__(self, one: Asked) -> tuple[bool, bytes]:
        [answer] = self.replica._running.answers(self.replica._engine.places.batch([one.place]), [one])
        return answer


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a replica, whose model says a word of warning."""

    def opened(options: dict[str, Any]) -> Running:
        warnings.warn(EngineWarning("/home/ann/model runs\n slowly"), stacklevel=1)
        return Running(Predictor(Colors(), PREPROCESSING, options["batch_size"]))

    monkeypatch.setattr(ray_module, "opened", opened)
    monkeypatch.setattr(ray_module, "KEYS_SECONDS", 0.01)

    async def make(**given: Any) -> Any:
        together = Together()
        monkeypatch.setattr(Replica, "answer", together)
        together.replica = replica = Replica.__new__(Replica)
        await replica.__init__({"model": "some/model", **given})  # type: ignore[misc]
        return replica

    return make


async def asked(replica: Any, method: str, path: str, body: bytes = b"", key: str = KEY) -> tuple[int, Any]:
    """The status, and what is said in JSON."""
    waiting, sent = [{"type": "http.request", "body": body, "more_body": False}], list[dict[str, Any]]()
    headers = [(b"content-type", b"image/png"), (b"content-length", b"%d" % len(body)), (b"x-api-key", key.encode())]
    scope = {"type": "http", "method": method, "path": f"/vit{path}", "root_path": "/vit", "query_string": b""}

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await (await replica(None))({**scope, "headers": headers}, receive, send)
    return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent))


def lines(text: str) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("is_fast", [False, True])
def test_it_answers_as_it_was_told_to_and_says_what_its_model_warned_of(
    made: Any, is_fast: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepares, inner = list[Any](), ray_module.preparing
    monkeypatch.setattr(ray_module, "preparing", lambda *one, **how: prepares.append(inner(*one, **how)) or prepares[0])
    warmed: list[Running] = []
    monkeypatch.setattr(Running, "warm_up", lambda running: warmed.append(running))

    async def test() -> None:
        replica = await made(fast_decode=is_fast, max_pixels=5000, max_batch=3, max_queue=5, num_cpus=3)
        assert warmed == [replica._running]
        assert replica.answer.most == 3
        assert len(replica._engine.free) == 5 + 3 + 3  # pictures that wait, are decoded, and are in the batch
        status, told = await asked(replica, "POST", "/v1/classify", plain("#20c040"))
        assert status == 200, told
        assert [one["label"] for one in told["pictures"][0]["predictions"]] == ["green", "blue", "red"]
        assert (await asked(replica, "POST", "/v1/classify", photo(size=(71, 71))))[0] == 422
        status, card = await asked(replica, "GET", "/v1/model")
        assert (card["name"], card["max_batch"], card["limits"]["pixels"]) == ("some/model", 3, 5000)
        assert card["version"] == 1
        assert abs(card["loaded_at"] - time.time()) < PATIENCE
        assert (await asked(replica, "GET", "/page/settings.json"))[1] == {"needs_key": False, "heat_colors": None}
        for method, path, why in (
            ("GET", "/metrics", "Ray's own metrics have those of all replicas"),
            ("GET", "/readyz", "Ray sends requests to replicas that are ready"),
            ("POST", "/v1/admin/reload", "deploy the application again"),
            ("GET", "/nothing", "there is nothing here"),
        ):
            status, told = await asked(replica, method, path)
            assert (status, told["detail"].startswith(why)) == (404, True)
        status, told = await asked(replica, "POST", "/v1/explain", plain("#20c040"))
        assert (status, told["detail"]) == (501, "this server does not explain; vit-hybrid serve does")
        assert [type(one) for one in prepares] == [Fast if is_fast else Exactly]
        replica._log.close()

    run(test())
    [warning] = [line for line in lines(capsys.readouterr().err) if line["event"] == "warning"]
    assert warning["text"] == "model runs slowly"


def test_keys_are_read_again_and_a_file_that_is_none_is_told_of(made: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann {KEY}\n")
    said: list[tuple[str, str, str | None]] = []

    async def test() -> None:
        replica = await made(api_key_file=str(file))
        assert (await asked(replica, "GET", "/v1/model", key=OTHER))[0] == 401
        assert (await asked(replica, "GET", "/v1/model"))[0] == 200
        replica._log.close()
        replica._log = lambda event, level="info", **fields: said.append((event, level, fields.get("reason")))
        for number, (content, known) in enumerate(
            ((f"bob {OTHER}\n", OTHER), ("bob short\n", OTHER), (f"ann {KEY}\n", KEY)), start=1
        ):
            file.write_text(content)
            await until(lambda number=number: len(said) >= number)
            assert (await asked(replica, "GET", "/v1/model", key=known))[0] == 200
        replica._watching.cancel()

    run(test())
    again = ("keys read again", "info", None)
    assert (said[0], said[1][:2], said[2]) == (again, ("keys not read", "error"), again)
    assert str(said[1][2]).startswith("keys, line 1 has no key of 16 characters")


def test_it_is_ill_only_where_a_batch_takes_longer_than_it_may(made: Any) -> None:
    async def test() -> None:
        replica = await made(batch_timeout=50)
        assert len(replica._engine.free) == 32 + 2 + 16  # where nothing is said: with one core two threads decode
        await replica.check_health()
        for seconds in (1.0, 49.0):
            replica._engine.busy_since = time.monotonic() - seconds
            await replica.check_health()
        replica._engine.busy_since = time.monotonic() - 51
        with pytest.raises(RuntimeError, match="a batch has taken more than 50 seconds"):
            await replica.check_health()
        replica._log.close()

    run(test())
