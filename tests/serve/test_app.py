"""What becomes of a request as a whole: its key's quota, and an answer out of those of its pictures."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.images.reading import EMPTY, MEMORY, NOT_A_PICTURE, TOO_LARGE, UNREADABLE, ImageReadError

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from vit_hybrid.serve.app import Service
from vit_hybrid.serve.batching import Job, Picture, decoding_problem
from vit_hybrid.serve.connection import Connection
from vit_hybrid.serve.gate import EXCHANGE
from vit_hybrid.serve.problems import Problem
from vit_hybrid.serve.settings import Settings

NOTHING: Any = None  # of which these parts have no use


@pytest.fixture
def service() -> Service:
    return Service(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


def made(*pictures: dict[str, Any]) -> Job:
    job = Job("classify", 1, 0.0, SimpleNamespace(name='the "model"'), NOTHING)  # type: ignore[arg-type]
    for position, fields in enumerate(pictures, start=1):
        job.pictures.append(Picture(job, f"image {position}", None, **fields))
    return job


GOOD = {"answer": b'"predictions": []', "queue_seconds": 0.001, "decode_seconds": 0.5, "model_seconds": 0.25}
DAMAGED = {"problem": Problem(422, "image 2: is damaged", "picture"), "queue_seconds": 0.002}
OTHER = {"problem": Problem(415, "image 1: is none", "format")}
LOST = {"problem": Problem(503, "the process ended", "worker", {"Retry-After": "1"})}


def test_pictures_have_their_answers_in_their_order_and_the_slowest_ones_timing(service: Service) -> None:
    exchange: Any = SimpleNamespace(noted={"before": 1})
    told = json.loads(service._composed(made(GOOD, DAMAGED, {**GOOD, "model_seconds": 1.0}), exchange))
    assert told["model"] == 'the "model"'
    assert told["pictures"] == [
        {"path": "image 1", "predictions": []},
        {"path": "image 2", "error": "image 2: is damaged", "status": 422},
        {"path": "image 3", "predictions": []},
    ]
    assert told["timing"] == {"queue_ms": 2.0, "decode_ms": 500.0, "model_ms": 1000.0}
    assert exchange.noted == {"before": 1, "pictures": 3, **told["timing"]}


@pytest.mark.parametrize(
    ("pictures", "status", "detail"),
    [
        ([GOOD, LOST], 503, "the process ended"),  # which may come again, and then has all of them
        ([DAMAGED, LOST], 503, "the process ended"),
        ([OTHER, DAMAGED], 415, "image 1: is none; image 2: is damaged"),
    ],
)
def test_a_request_fails_where_the_server_does_or_no_picture_can_be_read(
    service: Service, pictures: list[dict[str, Any]], status: int, detail: str
) -> None:
    with pytest.raises(Problem) as told:
        service._composed(made(*pictures), SimpleNamespace(noted={}))  # type: ignore[arg-type]
    assert (told.value.status, told.value.detail) == (status, detail)
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
    assert (told.value.status, told.value.headers) == (429, headers)
    assert taken == [2]
    service._charge(SimpleNamespace(key=None), 99, take=True)  # type: ignore[arg-type]


def test_the_time_that_a_request_has_begins_with_its_headers() -> None:
    class Submitted(Exception):
        pass

    def submit(*asked: Any) -> None:
        raise Submitted(*asked)

    async def read(*_: Any) -> bytes:
        return b"a picture"

    facts = SimpleNamespace(tasks=("classify",))
    batching: Any = SimpleNamespace(
        model=SimpleNamespace(crew=SimpleNamespace(facts=facts)), check_room=lambda: None, submit=submit
    )
    service = Service(Settings(deadline=30.0), batching, NOTHING, NOTHING, NOTHING, NOTHING)
    service.gate = SimpleNamespace(read=read)  # type: ignore[assignment]
    exchange = SimpleNamespace(key=None, headers_at=1000.0)
    for query, top_k in (({}, 5), ({"top_k": "2"}, 2)):
        request: Any = SimpleNamespace(scope={EXCHANGE: exchange}, query_params=query, headers={}, receive=None)
        with pytest.raises(Submitted) as asked:
            asyncio.run(service.answers(request, "classify"))  # type: ignore[arg-type]
        assert asked.value.args == ([b"a picture"], "classify", top_k, 1030.0)


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
