"""`POST /v1/explain`: the maps of `vit_hybrid.explain`, under the limits of all that is asked."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import PATIENCE, Server, as_json, fake, is_alive, multipart, photo, plain, running, until

from vit_hybrid.explain import Explainer, heat_png, overlay_png
from vit_hybrid.explain.twins import Twin

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from vit_hybrid.serve import explaining as explaining_module
from vit_hybrid.serve import explanations
from vit_hybrid.serve.decoding import Decoders
from vit_hybrid.serve.explaining import HEAT_FORMAT, PNG_FORMAT, How, composed, drawn
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.settings import Settings

PICTURE = photo(3, (50, 40))


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Server]:
    with running(
        str(tiny_folder), "--engine", "torch", "--device", "cpu", "--precision", "bf16", "--threads", "1"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def explainer(tiny_folder: Path) -> Explainer:
    return Explainer.from_pretrained(tiny_folder, "cpu")


@pytest.mark.parametrize(
    ("query", "how"),
    [
        ("", {}),
        ("?method=rollout&fusion=max&discard=0.5", {"method": "rollout", "fusion": "max", "discard": 0.5}),
        ("?method=attention&layer=1&head=2", {"method": "attention", "layer": "1", "head": 2}),
        ("?method=grad-cam&label=LABEL_2&label=0&layer=stem", {"method": "grad-cam", "labels": ["LABEL_2", "0"]}),
    ],
)
def test_maps_are_those_of_the_explainer(server: Server, explainer: Explainer, query: str, how: dict[str, Any]) -> None:
    if "stem" in query:
        how = {**how, "layer": "stem"}
    told = server.post(f"/v1/explain{query}", PICTURE).json
    expected = explainer.explain(PICTURE, **how)
    assert len(told["maps"]) == len(expected)
    for one, other in zip(told["maps"], expected, strict=True):
        assert (one["label"], one["layer"], one["head"]) == (other.label, other.layer, other.head)
        np.testing.assert_allclose(one["map"], other.map, rtol=1e-4, atol=1e-6)
    first = expected[0]
    assert told["size"] == {"height": 40, "width": 50}
    assert told["seen"] == pytest.approx(first.view.corners(), abs=0.01)
    assert [one["label"] for one in told["predictions"]] == [one["label"] for one in first.predictions[:5]]
    assert told["layers"] == explainer.model.config.num_hidden_layers
    assert set(told["timing"]) == {"queue_ms", "decode_ms", "model_ms"}
    # What answers for labels computes otherwise than what is explained.
    assert told["note"].startswith("explained by its PyTorch twin tiny")
    assert "bf16 on torch" in told["note"]


def test_pictures_of_it(server: Server, explainer: Explainer) -> None:
    [expected] = explainer.explain(PICTURE)
    answers = [
        server.post("/v1/explain", PICTURE, Accept="image/png"),
        server.post("/v1/explain?format=png", *multipart([PICTURE])),
        server.post("/v1/explain?format=heat", as_json([PICTURE]), "application/json"),
    ]
    for answer, content in zip(answers, [overlay_png(expected)] * 2 + [heat_png(expected)], strict=True):
        assert answer.status == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-explained"].startswith("explained by its PyTorch twin tiny")
        with Image.open(io.BytesIO(answer.body)) as found, Image.open(io.BytesIO(content)) as wanted:
            assert found.size == (50, 40)
            np.testing.assert_allclose(np.asarray(found, int), np.asarray(wanted, int), atol=1)


@pytest.mark.parametrize(
    ("size", "shown"), [((1500, 600), (1024, 410)), ((30, 2048), (15, 1024)), ((90, 70), (90, 70))]
)
def test_large_pictures_are_shown_no_larger_than_a_page_needs(
    explainer: Explainer, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    found = explainer.explain(Image.new("RGB", size, "teal"), "attention")
    for format in (PNG_FORMAT, HEAT_FORMAT):
        with Image.open(io.BytesIO(drawn(found, format, None, 2))) as image:
            assert image.size == shown


def test_an_explanation_in_numbers_has_the_first_five_labels() -> None:
    predictions = [{"label": str(number), "probability": 0.1} for number in range(7)]
    view = SimpleNamespace(corners=lambda: (0.0, 1.254, 50.0, 39.0))
    found: Any = SimpleNamespace(
        method="legrad", picture=Image.new("RGB", (50, 40)), view=view, predictions=predictions
    )
    found.label, found.layer, found.head, found.is_empty = "2", "layer1", 3, False
    found.map = np.float32([[1 / 3, 0], [2e-9, 1]])
    told = json.loads(b"{%b}" % drawn([found], "json", "a note", 4))
    assert told == {
        **{"method": "legrad", "size": {"height": 40, "width": 50}, "seen": [0, 1.25, 50, 39], "layers": 4},
        **{"predictions": predictions[:5], "note": "a note"},
        "maps": [
            {"label": "2", "layer": "layer1", "head": 3, "is_empty": False, "map": [[0.333333, 0], [2e-9, 1]]},
        ],
    }


@pytest.mark.parametrize(
    ("runs", "twin", "note"),
    [
        (("torch", "f32"), None, None),
        (("onnx", "f32"), None, "f32 on onnx"),
        (("torch", "bf16"), None, "bf16 on torch"),
        (("torch", "f32"), Twin("/home/ann/theirs", "int8", "openvino"), "int8 on openvino"),
    ],
)
def test_a_twin_is_opened_as_the_model_was(
    runs: tuple[str, str], twin: Twin | None, note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    config = SimpleNamespace(num_labels=2, problem_type=None)

    def from_pretrained(*given: Any, **options: Any) -> Any:
        asked.append((given, options))
        return SimpleNamespace(twin=twin, hybrid=SimpleNamespace(device="cpu", config=config), labels=["a", "b"])

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(Explainer, "from_pretrained", from_pretrained)
    how = {"name": "/home/ann/model", "threads": 3, "device": "cpu", "max_pixels": 99, "confidence": False}
    found = explaining_module.opened({**how, "runs": runs})
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert asked == [(("/home/ann/model", "cpu"), {"max_pixels": 99, "confidence": False})]
    assert (found._note is None) == (note is None)
    assert note is None or note in str(found._note)
    assert (found.facts.max_batch, found.facts.device, found.facts.shape) == (1, "cpu", (1, 1, 1))
    explaining_module.opened({"name": "m", "threads": 1, "runs": runs})
    assert asked[1] == (("m", None), {"max_pixels": None, "confidence": True})


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("label=nothing", "labels has 'nothing'; expected one of the model's 3 labels"),
        ("method=grad-cam&layer=2", "zero by structure"),
        ("method=rollout&label=LABEL_0", "rollout is the same for all labels"),
        ("method=rollout&head=1", "head is for attention"),
        ("method=attention&head=99", "the layers have heads 1 to"),
        ("method=lime", "method is one of rollout, attention, grad-cam, relevance, legrad"),
        ("method=rollout&method=attention", "method may stand there once"),
        ("head=x", "head is the number of an attention head"),
        ("discard=1", "discard is a share"),
        ("discard=nan", "discard is a share"),
        ("format=gif", "format is one of json, png, heat"),
        ("format=png&label=LABEL_0&label=LABEL_1", "once where a PNG is wanted"),
    ],
)
def test_what_cannot_be_asked(server: Server, query: str, words: str) -> None:
    answer = server.post(f"/v1/explain?{query}", PICTURE)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert words in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"words", "image/png", 415),
        (PICTURE[:300], "image/png", 422),
        (b"", "image/png", 422),
        (multipart([PICTURE] * 2)[0], multipart([])[1], 413),
        (PICTURE, "text/plain", 415),
        (bytes(21 << 20), "image/png", 413),
    ],
)
def test_pictures_that_are_refused(server: Server, body: bytes, content_type: str, status: int) -> None:
    assert server.post("/v1/explain", body, content_type).status == status


def explaining(server: Server) -> int:
    """The process that explains: the youngest."""

    def started(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])

    return max(server.children(), key=started)


def test_its_process_comes_when_it_is_needed_and_again_when_it_dies() -> None:
    with fake("--workers", "2") as server:
        assert len(server.children()) == 2
        assert server.post("/v1/explain", plain("#20c040")).status == 200
        assert len(server.children()) == 3
        os.kill(explaining(server), signal.SIGKILL)
        statuses = {server.post("/v1/explain", plain("#20c040")).status for _ in range(3)}
        assert statuses <= {200, 503}
        assert until(lambda: server.post("/v1/explain", plain("#20c040")).status == 200, "it does not come back")
        blue = server.post("/v1/explain", plain("#0000ff"))  # whose explanation ends the process
        assert (blue.status, blue.headers["retry-after"]) == (503, "1")
        red = server.post("/v1/explain", plain("#ff0000"))
        assert red.status == 500
        assert "red.py" not in red.json["detail"]
        assert server.post("/v1/explain", plain("#20c040")).status == 200
        assert server.post("/v1/classify", plain("#20c040")).status == 200
        before = explaining(server)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reloaded")
        assert server.post("/v1/explain", plain("#20c040")).status == 200
        assert until(lambda: not is_alive(before), "the old one is still there")
        assert until(lambda: len(server.children()) == 3, "more processes than there should be")
        assert server.terminate() == 0


def test_a_model_that_cannot_be_explained() -> None:
    with fake(VIT_HYBRID_FAKE_NO_TWIN="here") as server:
        for _ in range(2):
            answer = server.post("/v1/explain", plain("#20c040"))
            assert answer.status == 501
            assert answer.json["detail"].startswith("this model cannot be explained here: ")
            assert "there is no twin" in answer.json["detail"]
            assert "secret" not in answer.json["detail"]
        line = server.wait_for("no explanations")
        assert line["level"] == "error"
        assert line["reason"].endswith(": there is no twin in here")
        assert len(server.events("no explanations")) == 1  # it was tried once
        assert server.post("/v1/classify", plain("#20c040")).status == 200


def test_a_process_that_cannot_start_is_tried_again() -> None:
    with fake(VIT_HYBRID_FAKE_NO_TWIN="ends") as server:
        for _ in range(2):
            answer = server.post("/v1/explain", plain("#20c040"))
            assert (answer.status, answer.json["detail"]) == (
                503,
                "the process that explains does not run: ended with status 9; try again later",
            )
        until(lambda: len(server.events("no explanations")) == 2, "it is not told twice")
        assert len(server.children()) == 1


def test_the_deadline_and_the_queue_and_clients_that_go_away() -> None:
    limits = ("--max-queue", "2", "--max-batch", "1", "--deadline", "1")
    with fake(*limits, VIT_HYBRID_FAKE_SECONDS="2") as server:
        until(lambda: server.post("/v1/explain", plain("#20c040")).status == 504, "it takes no time")
        picture = plain("#20c040")
        head = b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b"
        waiting = []
        for _ in range(4):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            connection.sendall(head % (len(picture), picture))
            waiting.append(connection)
        until(lambda: server.metric("vit_hybrid_queue_pictures") >= 2, "nothing waits")
        refused = server.post("/v1/explain", picture)
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert server.post("/v1/classify", picture).status == 503  # it is one queue
        for connection in waiting:
            connection.close()
        until(lambda: server.metric("vit_hybrid_queue_pictures") == 0, "they wait for ever")
        until(lambda: server.metric("vit_hybrid_open_requests") == 1, "requests are open for ever")
        assert server.metric("vit_hybrid_cancelled_total") > 0
        start = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - start < 20


def test_what_an_explanation_waited_for_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.2501236, 10.75, 12.75])  # it came, was decoded, had its turn and its answer

    class Engine:
        def run(self, batch: Any, asked: Any) -> None:
            batch[0].set_result((True, composed(b"a map", None)))

    async def opened(*_: Any) -> Any:
        return SimpleNamespace(idle=lambda: [Engine()])

    async def main() -> dict[str, float]:
        decoders = Decoders(1)
        batching: Any = SimpleNamespace(model=SimpleNamespace(preparing=lambda source, name: None), waiting=0)
        found = explanations.Explanations({}, Settings(), batching, decoders, Log(None))
        monkeypatch.setattr(found, "_opened", opened)
        try:
            return (await found._answer(How(b"a picture"), deadline=1000.0)).timing
        finally:
            decoders.close()
            assert batching.waiting == 0

    monkeypatch.setattr(explanations, "time", SimpleNamespace(monotonic=lambda: next(times)))
    assert asyncio.run(main()) == {"queue_ms": 499.876, "decode_ms": 250.124, "model_ms": 2000.0}


def test_what_explains_is_opened_as_what_answers_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    made: list[Any] = []

    closed: list[int] = []

    class Opened:
        error: Exception | None = None

        def __init__(self, *given: Any) -> None:
            made.append(given)

        async def open(self) -> None:
            if self.error is not None:
                raise self.error

        async def close(self) -> None:
            closed.append(1)

    async def main() -> None:
        log = Log(None)
        found = explanations.Explanations({"name": "m"}, Settings(batch_timeout=3.0), nothing, nothing, log)
        facts = SimpleNamespace(engine="onnx", precision="bf16")
        await found._open(SimpleNamespace(crew=SimpleNamespace(facts=facts)))  # type: ignore[arg-type]
        assert isinstance(found._crew, Opened)
        assert made == [({"name": "m", "runs": ("onnx", "bf16")}, 1, 0, log, 3.0, explanations.START)]
        found._crew, Opened.error = None, OSError("no descriptors are left")
        with pytest.raises(OSError, match="descriptors"):
            await found._open(SimpleNamespace(crew=SimpleNamespace(facts=facts)))  # type: ignore[arg-type]
        assert (found._crew, closed) == (None, [1])

    monkeypatch.setattr(explanations, "Crew", Opened)
    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_what_was_wrong_with_a_model_is_not_said_of_the_one_that_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    opened: list[int] = []

    async def main() -> list[Any]:
        found = explanations.Explanations({}, Settings(), nothing, nothing, Log(None))

        async def opening(model: Any) -> None:
            opened.append(model.version)
            if model.version == 1:
                found._failure = explanations.Problem(501, "there is no twin", "no twin")
            else:
                found._crew = SimpleNamespace(close=asyncio.Event().wait)  # type: ignore[assignment]

        monkeypatch.setattr(found, "_open", opening)
        told: list[Any] = []
        for version in (1, 1, 2, 2):
            try:
                told.append(await found._opened(SimpleNamespace(version=version)))  # type: ignore[arg-type]
            except explanations.Problem as problem:
                told.append(problem.status)
        return told

    first, second, third, fourth = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert (first, second) == (501, 501)
    assert third is fourth is not None
    assert opened == [1, 2]


@pytest.mark.parametrize(
    ("is_ending", "detail"),
    [(True, "the server is ending"), (False, "what explains cannot run now; try again later")],
)
def test_why_there_is_no_explanation_any_more(monkeypatch: pytest.MonkeyPatch, is_ending: bool, detail: str) -> None:
    nothing: Any = None
    batching: Any = SimpleNamespace(check_room=lambda: None)
    exchange: Any = SimpleNamespace(headers_at=1000.0, when_gone=lambda action: None)
    asked: list[Any] = []

    async def main() -> explanations.Problem:
        found = explanations.Explanations({}, Settings(deadline=7.5), batching, nothing, Log(None))
        monkeypatch.setattr(found, "_answer", lambda *given: asked.append(given) or asyncio.Event().wait())
        waiting = asyncio.ensure_future(found.answer(How(b""), exchange))
        await asyncio.sleep(0)
        assert asked == [(How(b""), 1007.5)]  # which begins with its headers
        if is_ending:
            await found.end()
        else:
            closed = asyncio.Event()

            async def close() -> None:
                closed.set()

            gone: Any = SimpleNamespace(close=close)
            found._crew = another = SimpleNamespace(close=close)  # type: ignore[assignment]
            lines: list[tuple[Any, ...]] = []
            found._log = lambda *given, **fields: lines.append((*given, fields))  # type: ignore[assignment]
            found._give_up(gone, "/home/ann/model: it cannot live")
            assert lines == [("no explanations", "error", {"reason": "model: it cannot live"})]
            assert found._crew is another
            found._crew = gone
            found._give_up(gone, "it cannot live")
            assert found._crew is None  # another is started when it is asked for
            await asyncio.wait_for(closed.wait(), 60)
        with pytest.raises(explanations.Problem) as told:
            await waiting
        return told.value

    told = asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert (told.status, told.detail, told.headers) == (503, detail, {"Retry-After": "1"})


def test_keys_and_quotas(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ann CyKvPpgzHw4nE2rNq7dN quota=2\n")
    with fake("--api-key-file", str(tmp_path / "keys")) as server:
        assert server.post("/v1/explain", PICTURE).status == 401
        key = {"X-API-Key": "CyKvPpgzHw4nE2rNq7dN"}
        assert [server.post("/v1/explain", PICTURE, **key).status for _ in range(3)] == [200, 200, 429]


def test_an_explanation_that_nobody_waits_for_any_more_harms_no_other() -> None:
    async def test() -> None:
        gone, waited, failed = (asyncio.get_running_loop().create_future() for _ in range(3))
        gone.cancel()
        lines: list[tuple[Any, ...]] = []
        made: Any = SimpleNamespace(_idle=asyncio.Event(), _log=lambda *one, **more: lines.append((*one, more)))
        finish = explanations.Explanations._finish
        finish(made, [gone, waited], "done", [0.5, [(True, b"a map")]])
        assert waited.result() == (True, b"a map")
        finish(made, [gone, failed], "raised", ["RuntimeError"])
        assert "failed on this picture" in str(failed.exception())
        assert lines == [("explanation failed", "error", {"reason": "RuntimeError"})]
        assert made._idle.is_set()
        lost = asyncio.get_running_loop().create_future()
        explanations.Explanations._lose(made, [gone, waited, lost])
        told: Any = lost.exception()
        assert (told.status, told.detail) == (503, "the process that explains ended; try again")
        assert waited.result() == (True, b"a map")

    asyncio.run(test())
