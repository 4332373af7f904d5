"""What becomes of a request as a whole: its key's quota, and an answer out of those of its pictures."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

import vit_hybrid
from vit_hybrid.engines.protocol import Specification
from vit_hybrid.images.reading import EMPTY, MEMORY, NOT_A_PICTURE, TOO_LARGE, UNREADABLE, ImageReadError

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from vit_hybrid.serve import bodies
from vit_hybrid.serve.app import Service, Shortcut, _card, application
from vit_hybrid.serve.batching import Job, Picture, decoding_problem
from vit_hybrid.serve.bodies import Body
from vit_hybrid.serve.connection import Connection
from vit_hybrid.serve.explanations import Explained
from vit_hybrid.serve.gate import EXCHANGE, Gate
from vit_hybrid.serve.metrics import Metrics
from vit_hybrid.serve.problems import Problem
from vit_hybrid.serve.settings import Settings
from vit_hybrid.serve.worker import Facts

NOTHING: Any = None  # of which these parts have no use


@pytest.fixture
def service() -> Service:
    return Service(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


def made(*pictures: dict[str, Any]) -> Job:
    job = Job("classify", 1, 0.0, SimpleNamespace(name='the "model"'), NOTHING)  # type: ignore[arg-type]
    for position, fields in enumerate(pictures, start=1):
        job.pictures.append(Picture(job, f"image {position}", None, **fields))
    return job


GOOD = {"answer": b'"predictions": []', "queue_seconds": 0.001, "decode_seconds": 0.5001236, "model_seconds": 0.25}
DAMAGED = {"problem": Problem(422, "image 2: is damaged", "picture"), "queue_seconds": 0.0021236}
OTHER = {"problem": Problem(415, "image 1: is none", "format")}
LOST = {"problem": Problem(503, "the process ended", "worker", {"Retry-After": "1"})}
FAILED = {"problem": Problem(500, "the model failed", "engine")}


def test_pictures_have_their_answers_in_their_order_and_the_slowest_ones_timing(service: Service) -> None:
    exchange: Any = SimpleNamespace(noted={"before": 1})
    told = json.loads(service._composed(made(GOOD, DAMAGED, {**GOOD, "model_seconds": 1.0001236}), exchange))
    assert told["model"] == 'the "model"'
    assert told["pictures"] == [
        {"path": "image 1", "predictions": []},
        {"path": "image 2", "error": "image 2: is damaged", "status": 422},
        {"path": "image 3", "predictions": []},
    ]
    assert told["timing"] == {"queue_ms": 2.124, "decode_ms": 500.124, "model_ms": 1000.124}
    assert exchange.noted == {"before": 1, "pictures": 3, **told["timing"]}


@pytest.mark.parametrize(
    ("pictures", "status", "reason", "detail"),
    [
        ([GOOD, LOST], 503, "worker", "the process ended"),  # which may come again, and then has all of them
        ([DAMAGED, LOST], 503, "worker", "the process ended"),
        ([LOST, FAILED], 503, "worker", "the process ended"),
        ([GOOD, FAILED], 500, "engine", "the model failed"),
        ([FAILED, FAILED], 500, "engine", "the model failed"),
        ([OTHER, DAMAGED], 415, "format", "image 1: is none; image 2: is damaged"),
    ],
)
def test_a_request_fails_where_the_server_does_or_no_picture_can_be_read(
    service: Service, pictures: list[dict[str, Any]], status: int, reason: str, detail: str
) -> None:
    with pytest.raises(Problem) as told:
        service._composed(made(*pictures), SimpleNamespace(noted={}))  # type: ignore[arg-type]
    assert (told.value.status, told.value.reason, told.value.detail) == (status, reason, detail)
    assert told.value.headers == ({"Retry-After": "1"} if status == 503 else {})


@pytest.mark.parametrize(
    ("seconds", "headers"), [(0.2, {"Retry-After": "1"}), (2.1, {"Retry-After": "3"}), (math.inf, {})]
)
def test_a_quota_that_is_used_up_says_when_it_is_not(service: Service, seconds: float, headers: dict[str, str]) -> None:
    taken: list[int] = []
    key = SimpleNamespace(quota=60, wait_for=lambda pictures, now: seconds if pictures > 2 else 0.0, take=taken.append)
    exchange: Any = SimpleNamespace(key=key)
    service._charge(exchange, 2, take=False)
    assert taken == []
    service._charge(exchange, 2, take=True)
    assert taken == [2]
    with pytest.raises(Problem) as told:
        service._charge(exchange, 3, take=True)
    assert (told.value.status, told.value.reason, told.value.headers) == (429, "quota", headers)
    assert told.value.detail == "this key may send 60 pictures a minute"
    assert taken == [2]
    service._charge(SimpleNamespace(key=None), 99, take=True)  # type: ignore[arg-type]


def test_the_time_that_a_request_has_begins_with_its_headers() -> None:
    class Submitted(Exception):
        pass

    def submit(*asked: Any) -> None:
        raise Submitted(*asked)

    reads: list[int] = []

    async def read(*_: Any) -> bytes:
        reads.append(1)
        return b"a picture"

    facts = SimpleNamespace(tasks=("classify",))
    batching: Any = SimpleNamespace(
        model=SimpleNamespace(crew=SimpleNamespace(facts=facts)), check_room=lambda: None, submit=submit
    )
    service = Service(Settings(deadline=30.0), batching, NOTHING, NOTHING, NOTHING, NOTHING)
    service.gate = SimpleNamespace(read=read)  # type: ignore[assignment]
    exchange = SimpleNamespace(key=None, headers_at=1000.0)
    request: Any = SimpleNamespace(scope={EXCHANGE: exchange}, headers={}, receive=None)
    for query, top_k in (({}, 5), ({"top_k": "2"}, 2)):
        request.query_params = query
        with pytest.raises(Submitted) as asked:
            asyncio.run(service.answers(request, "classify"))
        assert asked.value.args == ([b"a picture"], "classify", top_k, 1030.0)
    reads.clear()
    request.query_params = {"top_k": "x"}
    with pytest.raises(Problem, match="top_k"):
        asyncio.run(service.answers(request, "classify"))
    with pytest.raises(Problem, match="labels alone, without vectors"):
        asyncio.run(service.answers(request, "embed"))
    assert reads == []  # what is wrong already without the body does not wait for it


@pytest.mark.parametrize("note", [None, "explained by its twin caf\u00e9, (f32)"])
def test_an_explanation_says_what_was_explained_and_the_log_how_long_it_took(note: str | None) -> None:
    timing = {"queue_ms": 0.5, "decode_ms": 1.5, "model_ms": 30.25}
    asked: list[Any] = []

    async def answer(how: Any, exchange: Any) -> Explained:
        asked.append(how)
        return Explained(b'"maps": []' if how.format == "json" else b"a picture", note, timing)

    async def received(*given: Any) -> Body:
        asked.append(given[2])
        return Body([b"a picture"])

    batching: Any = SimpleNamespace(model=SimpleNamespace(name='the "model"'))
    service = Service(NOTHING, batching, NOTHING, NOTHING, NOTHING, NOTHING)
    service.explanations, service._received = SimpleNamespace(answer=answer), received  # type: ignore[assignment]
    for format, media_type in (("json", "application/json"), ("png", "image/png"), ("heat", "image/png")):
        exchange = SimpleNamespace(noted={"before": 1})
        query = SimpleNamespace(getlist=lambda name, format=format: [format] if name == "format" else [])
        request: Any = SimpleNamespace(scope={EXCHANGE: exchange}, query_params=query, headers={})
        told = asyncio.run(service.explanation(request))
        most, how = asked[-2:]
        assert (most, how.source, how.format) == (1, b"a picture", format)
        assert exchange.noted == {"before": 1, "pictures": 1, **timing}
        assert told.headers["content-type"] == media_type
        if format == "json":
            assert json.loads(told.body) == {"model": 'the "model"', "maps": [], "timing": timing}
            continue
        assert told.body == b"a picture"
        said = told.headers.get("x-explained")
        assert said == (None if note is None else "explained by its twin caf%C3%A9, (f32)")


@pytest.mark.parametrize(("output", "size", "pixels"), [("logits", None, None), ("both", 7, 99)])
def test_what_a_model_is_called_and_may_be_sent(output: str, size: int | None, pixels: int | None) -> None:
    spec = Specification(("a", "b"), "regression", 3, (24, 40), output=output, feature_size=7)
    facts = Facts(spec, "onnx", "bf16", "cpu", 6, True, "# A card")
    model = SimpleNamespace(crew=SimpleNamespace(facts=facts), name="m", version=3, loaded_at=1.5, max_pixels=pixels)
    batching: Any = SimpleNamespace(model=model)
    settings = Settings(max_body_mb=0.5, max_files=9, deadline=2.5)
    told = _card(Service(settings, batching, NOTHING, NOTHING, NOTHING, NOTHING))
    assert told["image_size"] == {"height": 24, "width": 40}
    limits = {"body_bytes": 1 << 19, "files": 9, "deadline_seconds": 2.5}
    assert told["limits"] == {**limits, "pixels": pixels or 250_000_000}
    assert (told["name"], told["version"], told["loaded_at"]) == ("m", 3, 1.5)
    assert (told["problem_type"], told["labels"]) == ("regression", ["a", "b"])
    assert (told["engine"], told["precision"], told["max_batch"]) == ("onnx", "bf16", 6)
    assert (told["calibrated"], told["card"], told["way"]) == (True, "# A card", None)
    assert (told["embedding_size"], told["package_version"]) == (size, vit_hybrid.__version__)


def test_a_fault_of_a_route_is_told_as_others_are_and_logged() -> None:
    class Broken:
        @property
        def model(self) -> Any:
            raise KeyError("/home/ann/model")

    lines: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    def log(event: str, level: str = "info", **fields: Any) -> None:
        lines.append({"level": level, **fields})

    settings, metrics = Settings(), Metrics()
    service = Service(settings, Broken(), metrics, NOTHING, NOTHING, NOTHING)  # type: ignore[arg-type]
    service.gate = Gate(application(service), settings, None, metrics, log)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/v1/model", "headers": [], "query_string": b""}
    asyncio.run(service.gate(scope, receive, send))
    told = json.loads(sent[1]["body"])
    assert (told["status"], told["title"], told["detail"]) == (500, "Internal Server Error", "the server failed")
    [line] = lines
    assert (line["level"], line["status"], line["fault"], line["reason"]) == ("error", 500, "KeyError", "fault")
    assert line["id"] == told["request_id"]
    assert "ann" not in str(sent) + str(lines)


@pytest.mark.parametrize(
    ("status", "allow", "detail", "allowed"),
    [
        (404, None, "there is nothing here", None),
        (405, "POST", "not with this method", "POST"),
        (405, "GET", "not with this method", "GET, HEAD"),
        (405, "POST, GET", "not with this method", "POST, GET, HEAD"),
        (400, None, "this cannot be answered", None),
    ],
)
def test_what_no_route_answers(status: int, allow: str | None, detail: str, allowed: str | None) -> None:
    told: list[Any] = []
    service = Service(Settings(), NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    service.gate = SimpleNamespace(told=lambda *given: told.append(given) or (b"", given[0].headers))  # type: ignore[assignment]
    answer: Any = application(service)._app.exception_handlers[HTTPException]
    error = HTTPException(status, "of starlette", None if allow is None else {"Allow": allow})
    found = asyncio.run(answer(SimpleNamespace(scope={EXCHANGE: "an exchange"}), error))
    [(problem, exchange)] = told
    assert (found.status_code, found.headers.get("allow")) == (status, allowed)
    assert (problem.status, problem.detail, problem.reason, exchange) == (status, detail, "route", "an exchange")


def test_what_is_no_request_goes_to_who_has_all_routes() -> None:
    asked: list[Any] = []

    async def app(*given: Any) -> None:
        asked.append(given)

    scope = {"type": "lifespan"}
    asyncio.run(Shortcut(app, APIRouter())(scope, 1, 2))  # type: ignore[arg-type]
    assert asked == [(scope, 1, 2)]


def test_a_body_is_asked_for_only_where_there_is_room_for_a_picture() -> None:
    steps: list[Any] = []

    async def read(*_: Any) -> bytes:
        steps.append("read")
        return b"a body"

    async def decoded(function: Any, *given: Any) -> Body:
        steps.append((function, *given))
        return Body([b"one", b"two"], 3)

    def full() -> None:
        raise Problem(503, "too many pictures are waiting", "queue full")

    batching: Any = SimpleNamespace(check_room=lambda: steps.append("room"))
    service = Service(NOTHING, batching, NOTHING, NOTHING, SimpleNamespace(run=decoded), NOTHING)  # type: ignore[arg-type]
    service.gate = SimpleNamespace(read=read)  # type: ignore[assignment]
    service._charge = lambda _, pictures, take: steps.append((pictures, take))  # type: ignore[method-assign]

    def received(content_type: str) -> list[bytes]:
        steps.clear()
        request: Any = SimpleNamespace(headers={"content-type": content_type}, receive=None)
        return asyncio.run(service._received(request, NOTHING, 4)).pictures

    assert received("image/png") == [b"a body"]
    assert steps == [(1, False), "room", "read", (1, True)]
    assert received("application/json; x=y") == [b"one", b"two"]
    taken_apart = (bodies.read, bodies.JSON, "application/json; x=y", b"a body", 4)
    assert steps == [(1, False), "room", "read", taken_apart, (2, True)]
    with pytest.raises(Problem, match="not supported"):
        received("text/plain")
    assert steps == []
    batching.check_room = full
    with pytest.raises(Problem, match="too many"):
        received("image/png")
    assert steps == [(1, False)]


def test_a_client_that_has_gone_is_told_of_once() -> None:
    """Where it is refused and then loses its connection, too."""
    told: list[int] = []
    connection = Connection.__new__(Connection)
    connection.on_gone = lambda: told.append(1)
    connection._tell_gone()
    connection._tell_gone()
    assert told == [1]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ImageReadError("image 1", "is empty", EMPTY), 422, "picture"),
        (ImageReadError("image 1", "is a HEIC picture", UNREADABLE), 415, "format"),
        (ImageReadError("image 1", "is not a picture", NOT_A_PICTURE), 415, "format"),
        (ImageReadError("image 1", "has more pixels", TOO_LARGE), 422, "pixels"),
        (ImageReadError("image 1", "is too large", MEMORY), 503, "memory"),
        (MemoryError(), 503, "memory"),
        (ValueError("preprocessing\nmade another"), 422, "picture"),
        (OSError("broken data stream"), 422, "picture"),
        (RuntimeError("a bug"), 422, "decoder"),
    ],
)
def test_what_is_answered_where_a_picture_is_not_decoded(error: Exception, status: int, reason: str) -> None:
    found = decoding_problem(error, "image 1")
    assert (found.status, found.reason) == (status, reason)
    assert "image 1" in found.detail
    assert "bug" not in found.detail


def test_a_problem_is_told_on_one_line_by_its_status_and_what_is_the_matter() -> None:
    problem = Problem(404, "nothing\n  here", "route", {"Retry-After": "1"})
    assert json.loads(problem.body("7")) == {
        **{"type": "about:blank", "title": "Not Found", "status": 404},
        **{"detail": "nothing here", "request_id": "7"},
    }
    assert (problem.detail, problem.reason, problem.headers) == ("nothing here", "route", {"Retry-After": "1"})
