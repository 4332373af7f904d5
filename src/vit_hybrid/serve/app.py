"""The server's routes, as FastAPI has them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from .. import __version__
from ..images.reading import pixel_limit
from ..outputs.problems import DEFAULT_TOP_K
from . import bodies, schema
from .asking import asked_of
from .batching import Batching, Job, Picture
from .decoding import Decoders
from .explaining import JSON_FORMAT, MEDIA_TYPES
from .explanations import Explanations
from .gate import EXCHANGE, Exchange, Gate
from .logs import Log
from .metrics import Metrics
from .pages import Pages
from .problems import Disconnected, Problem
from .settings import Settings
from .worker import CLASSIFY, EMBED, Facts

# What stands beside a PNG: see `Explained.note`.
NOTE_HEADER = "X-Explained"


@dataclass
class Service:
    """What the routes work with.

    Attributes:
        settings: The server's.
        batching: The queue.
        metrics: What is measured.
        log: What is said.
        decoders: Threads that decode; they read bodies, too, that have to be taken apart.
        reload: Loads the model anew.
        is_ending: Whether the server is about to end.
        explanations: What explains; None where nothing does.
        gate: What requests pass before; set once the application is there.
    """

    settings: Settings
    batching: Batching
    metrics: Metrics
    log: Log
    decoders: Decoders
    reload: Callable[[], Awaitable[None]]
    is_ending: bool = False
    explanations: Explanations | None = None
    gate: Gate = field(init=False)

    async def answers(self, request: Request, task: str) -> bytes:
        """What a request's pictures are, as JSON.

        Raises:
            Problem: It is refused, or none of its pictures has an answer.
            Disconnected: Nobody waits for it any more.
        """
        if task not in _facts(self).tasks:
            raise Problem(404, "the server has a bundle that was exported for labels alone, without vectors", "task")
        exchange: Exchange = request.scope[EXCHANGE]
        top_k = bodies.top_k_of(request.query_params.get(bodies.TOP_K_FIELD))
        found = await self._received(request, exchange, self.settings.max_files)
        wanted = found.top_k or top_k or DEFAULT_TOP_K
        job = self.batching.submit(found.pictures, task, wanted, exchange.headers_at + self.settings.deadline)
        exchange.when_gone(lambda: self.batching.abandon(job, Disconnected()))
        await job.done
        exchange.when_gone(None)
        return self._composed(job, exchange)

    async def explanation(self, request: Request) -> Response:
        """What the model looked at in a request's picture.

        Raises:
            Problem: It is refused, or there is nothing that explains.
            Disconnected: Nobody waits for it any more.
        """
        if self.explanations is None:
            raise Problem(501, "this server does not explain; vit-hybrid serve does", "no explanations")
        exchange: Exchange = request.scope[EXCHANGE]
        how = asked_of(request.query_params, request.headers.get("accept", ""))
        found = await self._received(request, exchange, 1)
        explained = await self.explanations.answer(replace(how, source=found.pictures[0]), exchange)
        exchange.noted |= {"pictures": 1, **explained.timing}
        if how.format == JSON_FORMAT:
            name, timing = (json.dumps(one).encode() for one in (self.batching.model.name, explained.timing))
            return JSONBytes(b'{"model": %b, %b, "timing": %b}' % (name, explained.content, timing))
        beside = {} if explained.note is None else {NOTE_HEADER: quote(explained.note, safe=" ,;()")}
        return Response(explained.content, media_type=MEDIA_TYPES[how.format], headers=beside)

    async def _received(self, request: Request, exchange: Exchange, limit: int) -> bodies.Body:
        """The pictures that a request sends, at most so many, once its key and the queue have room for them."""
        content_type = request.headers.get("content-type", "")
        kind = bodies.kind_of(content_type, request.headers.get("content-encoding", ""))
        self._charge(exchange, 1, take=False)
        self.batching.check_room()  # before the body is asked for
        body = await self.gate.read(exchange, request.receive)
        if kind == bodies.RAW:
            found = bodies.Body([body])
        else:
            found = await self.decoders.run(bodies.read, kind, content_type, body, limit)
        self._charge(exchange, len(found.pictures), take=True)
        return found

    def _charge(self, exchange: Exchange, pictures: int, take: bool) -> None:
        """Raises `Problem` (429) where a key has no quota left for so many pictures; else it has fewer left."""
        if exchange.key is None:
            return
        seconds = exchange.key.wait_for(pictures, time.monotonic())
        if seconds:
            headers = {} if math.isinf(seconds) else {"Retry-After": str(math.ceil(seconds))}
            raise Problem(429, f"this key may send {exchange.key.quota} pictures a minute", "quota", headers)
        if take:
            exchange.key.take(pictures)

    def _composed(self, job: Job, exchange: Exchange) -> bytes:
        problems = [picture.problem for picture in job.pictures if picture.problem is not None]
        serious = [problem for problem in problems if problem.status >= 500]
        if serious:
            raise serious[0]
        if len(problems) == len(job.pictures):
            raise Problem(problems[0].status, "; ".join(one.detail for one in problems), problems[0].reason)
        timing = {
            "queue_ms": round(1000 * max(picture.queue_seconds for picture in job.pictures), 3),
            "decode_ms": round(1000 * max(picture.decode_seconds for picture in job.pictures), 3),
            "model_ms": round(1000 * max(picture.model_seconds for picture in job.pictures), 3),
        }
        exchange.noted |= {"pictures": len(job.pictures), **timing}
        # What the workers wrote is JSON already.
        return b'{"model": %b, "pictures": [%b], "timing": %b}' % (
            json.dumps(job.model.name).encode(),
            b", ".join(_record(picture) for picture in job.pictures),
            json.dumps(timing).encode(),
        )


def _record(picture: Picture) -> bytes:
    if picture.problem is None:
        return b'{"path": %b, %b}' % (json.dumps(picture.name).encode(), picture.answer or b"")
    error = {"path": picture.name, "error": picture.problem.detail, "status": picture.problem.status}
    return json.dumps(error).encode()


class JSONBytes(Response):
    """An answer that is JSON already."""

    media_type = "application/json"


class Direct(APIRoute):
    """A route whose function takes the request as it is, without FastAPI's work of finding out its arguments."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        return self.endpoint


class Shortcut:
    """An ASGI application in which requests to direct routes take the shortest way, past FastAPI's middleware, which
    costs more than all else that is done for a small picture here. What it raises is the gate's to answer. HEAD is
    answered wherever GET is, as by it; what holds the connection leaves out the body.

    Args:
        app: What has all routes.
        direct: The direct ones, all of them POST.
    """

    def __init__(self, app: FastAPI, direct: APIRouter) -> None:
        self._app = app
        self._direct = {route.path: route.endpoint for route in direct.routes if isinstance(route, Direct)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint = self._direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            is_head = scope["type"] == "http" and scope["method"] == "HEAD"
            await self._app({**scope, "method": "GET"} if is_head else scope, receive, send)
        else:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)


REFUSALS = schema.problems(401, 408, 413, 415, 422, 429, 503, 504)


def application(service: Service) -> Shortcut:
    """The routes."""
    app = FastAPI(
        title="vit-hybrid",
        version=__version__,
        description="Says what is in pictures.",
        docs_url=None,
        redoc_url=None,
    )
    _answer_problems(app, service)

    direct = APIRouter(route_class=Direct)

    @direct.post(
        "/v1/classify",
        summary="What is in pictures",
        response_model=schema.Classification,
        responses={**schema.answer(schema.CLASSIFIED), **REFUSALS},
        openapi_extra={"requestBody": schema.pictures_body(with_top_k=True), "parameters": [schema.TOP_K]},
    )
    async def classify(request: Request) -> Response:
        """Ranked labels with their probabilities of each picture; of a regression model its values.

        The body is a picture as it is, which is the fastest way; a form with the field `file`, repeated; or JSON with
        base64. A picture that cannot be read gets an error in its place, unless it is the only one.
        """
        request.scope[EXCHANGE].route = "/v1/classify"
        return JSONBytes(await service.answers(request, CLASSIFY))

    @direct.post(
        "/v1/embed",
        summary="Vectors of pictures",
        response_model=schema.Embedding,
        responses={**schema.answer(schema.EMBEDDED), **REFUSALS, **schema.problems(404)},
        openapi_extra={"requestBody": schema.pictures_body(with_top_k=False)},
    )
    async def embed(request: Request) -> Response:
        """What the model's classifier takes of each picture: a vector that is near those of like pictures.

        Bodies and errors are those of `/v1/classify`.
        """
        request.scope[EXCHANGE].route = "/v1/embed"
        return JSONBytes(await service.answers(request, EMBED))

    @direct.post(
        "/v1/explain",
        summary="What the model looked at",
        response_model=schema.Explained,
        responses={**schema.EXPLANATION, **REFUSALS, **schema.problems(501)},
        openapi_extra={"requestBody": schema.pictures_body(with_top_k=False, most=1), "parameters": schema.HOW},
    )
    async def explain(request: Request) -> Response:
        """A map of what raised a label in a picture, or of where the model looked: in numbers, or, with
        `Accept: image/png` or `format`, in colors.

        The body is one picture, as for `/v1/classify`. A process of its own explains, one picture after the other; it
        is started with the first, which takes longer. A model that runs in int8, from a bundle or by another engine is
        explained by its PyTorch twin, and `note` (of PNG the header `X-Explained`) says so.
        """
        request.scope[EXCHANGE].route = "/v1/explain"
        return await service.explanation(request)

    app.include_router(direct)

    @app.get(
        "/v1/model", summary="Which model answers", response_model=schema.ModelCard, responses=schema.problems(401)
    )
    async def model(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/v1/model"
        return JSONResponse(_card(service))

    @app.post(
        "/v1/admin/reload",
        summary="Load the model anew",
        response_model=schema.ModelCard,
        responses=schema.problems(401, 403, 409, 422),
    )
    async def reload(request: Request) -> Response:
        """Loads the model from where it came from, beside the old one, and switches when it is ready; no request fails.
        One that cannot be loaded is refused, and the old one stays. Needs a key that is marked `admin`."""
        exchange: Exchange = request.scope[EXCHANGE]
        exchange.route = "/v1/admin/reload"
        if exchange.key is None or not exchange.key.is_admin:
            raise Problem(403, "this needs a key that is marked admin", "key")
        await service.reload()
        return JSONResponse(_card(service))

    @app.get("/healthz", summary="Whether the process lives", response_model=schema.Health)
    async def healthz(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/healthz"
        return JSONResponse({"status": "alive"})

    @app.get(
        "/readyz",
        summary="Whether it answers",
        response_model=schema.Readiness,
        responses={503: {"model": schema.Readiness, "description": "It does not: no worker lives, or it is ending."}},
    )
    async def readyz(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/readyz"
        alive = len(service.batching.model.crew.ready)
        reason = "ending" if service.is_ending else None if alive else "no worker is ready"
        told = {"ready": reason is None, "reason": reason, "workers": alive, "of": service.settings.workers}
        return JSONResponse(told, 200 if reason is None else 503)

    @app.get("/metrics", summary="Measurements, for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/metrics"
        content, media_type = service.metrics.text()
        return Response(content, headers={"content-type": media_type})

    pages = Pages(needs_key=service.settings.api_key_file is not None, explains=service.explanations is not None)

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/"
        return pages.answer("home.html", request.headers)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        request.scope[EXCHANGE].route = "/docs"
        return pages.answer("docs.html", request.headers)

    @app.get("/page/{name}", include_in_schema=False)
    async def file_of_a_page(request: Request, name: str) -> Response:
        request.scope[EXCHANGE].route = "/page"
        return pages.answer(name, request.headers)

    described = app.openapi()  # which takes a while, and keeps it
    described["components"]["schemas"] |= schema.COMPONENTS
    return Shortcut(app, direct)


def _card(service: Service) -> dict[str, Any]:
    model, settings, facts = service.batching.model, service.settings, _facts(service)
    height, width = facts.spec.image_size
    limits = {
        "body_bytes": settings.max_body,
        "files": settings.max_files,
        "pixels": pixel_limit(model.max_pixels),
        "deadline_seconds": settings.deadline,
    }
    return {
        "name": model.name,
        "version": model.version,
        "loaded_at": model.loaded_at,
        "problem_type": facts.spec.problem_type,
        "labels": list(facts.spec.labels),
        "image_size": {"height": height, "width": width},
        "engine": facts.engine,
        "precision": facts.precision,
        "way": None if facts.way is None else {"name": facts.way.name, **asdict(facts.way)},
        "calibrated": facts.is_calibrated,
        "card": facts.card,
        "max_batch": facts.max_batch,
        "embedding_size": facts.spec.feature_size if EMBED in facts.tasks else None,
        "limits": limits,
        "package_version": __version__,
    }


def _facts(service: Service) -> Facts:
    facts = service.batching.model.crew.facts
    assert facts is not None
    return facts


def _answer_problems(app: FastAPI, service: Service) -> None:
    """Has all errors, FastAPI's own too, answered as problems."""

    @app.exception_handler(Problem)
    async def answered(request: Request, problem: Problem) -> Response:
        body, headers = service.gate.told(problem, request.scope[EXCHANGE])
        return Response(body, problem.status, headers)

    @app.exception_handler(Exception)
    async def on_fault(request: Request, error: Exception) -> Response:
        return await answered(request, Problem(500, "the server failed", "fault"))  # and the gate hears of the error

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        details = {404: "there is nothing here", 405: "not with this method"}
        detail = details.get(error.status_code, "this cannot be answered")
        headers = {**(error.headers or {})}
        if "GET" in headers.get("Allow", "").split(", "):
            headers["Allow"] += ", HEAD"
        return await answered(request, Problem(error.status_code, detail, "route", headers))


__all__ = ["NOTE_HEADER", "Service", "application"]
