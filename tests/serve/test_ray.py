"""The application on a Ray of this machine alone: the answers and refusals of `vit-hybrid serve`."""

from __future__ import annotations

import http.client
import socket
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import PATIENCE, Answer, as_json, multipart, photo

from vit_hybrid import Predictor
from vit_hybrid.assets import BUILT_IN_MODEL

pytest.importorskip("ray.serve", reason="needs the extra ray-serve")
pytest.importorskip("fastapi", reason="needs the extra ray-serve")

KEY = "a-key-of-somebody"
BATCH = 4


class Cluster:
    """An application that runs.

    Attributes:
        port: Where Ray's proxy listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, headers: Any = ()) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, f"/vit{path}", body, {"X-API-Key": KEY, **dict(headers)})
            answer = connection.getresponse()
            told = {name.lower(): ", ".join(answer.headers.get_all(name, ())) for name in answer.headers}
            return Answer(answer.status, told, answer.read())
        finally:
            connection.close()

    def classify(self, body: bytes, kind: str = "image/jpeg", query: str = "") -> Answer:
        return self.ask("POST", f"/v1/classify{query}", body, {"Content-Type": kind})


@pytest.fixture(scope="module")
def cluster(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Ray with one replica of a tiny model, below a prefix, which a key opens."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of sockets that it leaves open
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_register_timeout_seconds", "300")  # of a machine that is busy with other things
        import ray
        from ray import serve

        from vit_hybrid.serve.ray import Arguments, build

        keys = tmp_path_factory.mktemp("keys") / "keys"
        keys.write_text(f"ann {KEY}\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        limits = {"max_body_mb": 1, "max_files": 4, "max_pixels": 10_000, "max_batch": BATCH}
        how = {"model": str(tiny_folder), "engine": "torch", "device": "cpu", "num_cpus": 0.5, "max_replicas": 1}
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            arguments = Arguments(**how, **limits, api_key_file=str(keys))
            serve.run(build(arguments), name="vit", route_prefix="/vit")
            yield Cluster(port)
        finally:
            serve.shutdown()
            ray.shutdown()


def test_answers_are_those_of_classify_however_pictures_come(cluster: Cluster, tiny_folder: Path) -> None:
    pictures = [photo(seed) for seed in range(BATCH)]
    predictor = Predictor.from_pretrained(tiny_folder, engine="torch", device="cpu")
    expected = [{one["label"]: one["probability"] for one in predictor(picture)} for picture in pictures]

    def said(answer: Answer) -> list[dict[str, float]]:
        assert answer.status == 200, answer
        assert answer.json.keys() == {"model", "pictures", "timing"}
        assert answer.json["model"] == tiny_folder.name
        return [
            {one["label"]: one["probability"] for one in record["predictions"]} for record in answer.json["pictures"]
        ]

    together = said(cluster.classify(*multipart(pictures)))
    encoded = said(cluster.classify(as_json(pictures), "application/json"))
    with ThreadPoolExecutor(8) as pool:  # which come into batches with each other
        alone = [said(answer)[0] for answer in pool.map(cluster.classify, pictures * 3)]
    for position, one in enumerate(expected):
        for found in (together[position], encoded[position], *alone[position::BATCH]):
            assert found == pytest.approx(one, abs=1e-5)
    assert len(said(cluster.classify(pictures[0], query="?top_k=1"))[0]) == 1
    [record] = cluster.ask("POST", "/v1/embed", pictures[0], {"Content-Type": "image/jpeg"}).json["pictures"]
    assert np.isfinite(record["embedding"]).all()
    told = cluster.ask("GET", "/v1/model").json
    assert (told["max_batch"], told["limits"]["files"], told["engine"]) == (BATCH, 4, "torch")


def test_one_of_several_that_cannot_be_read_has_its_error_in_its_place(cluster: Cluster) -> None:
    told = cluster.classify(*multipart([photo(), b"no picture", photo()])).json["pictures"]
    assert [one.get("status") for one in told] == [None, 415, None]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"text", "image/png", 415),
        (photo()[:300], "image/jpeg", 422),
        (photo(size=(101, 101)), "image/jpeg", 422),
        (photo(), "text/plain", 415),
        (b"{", "application/json", 422),
        (as_json([photo()] * 5), "application/json", 413),
        (as_json([photo()] * 4, top_k=0), "application/json", 422),
        (b"x" * ((1 << 20) + 1), "image/jpeg", 413),
    ],
)
def test_what_is_refused_is_refused_as_by_the_server(cluster: Cluster, body: bytes, kind: str, status: int) -> None:
    answer = cluster.classify(body, kind)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["request_id"] in answer.headers["x-request-id"].split(", ")  # the other is Ray's


def test_a_body_is_counted_while_it_comes(cluster: Cluster) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (1 << 16)

    answer = cluster.ask("POST", "/v1/classify", chunks())  # in chunks, as it has no length
    assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")


def test_who_has_no_key_is_refused(cluster: Cluster) -> None:
    answer = cluster.ask("POST", "/v1/classify", photo(), {"X-API-Key": "another-key-of-one"})
    assert (answer.status, answer.headers["content-type"]) == (401, "application/problem+json")


def test_what_is_rays_to_do_is_not_done_by_one_replica(cluster: Cluster) -> None:
    for method, path in (("GET", "/metrics"), ("GET", "/readyz"), ("POST", "/v1/admin/reload"), ("GET", "/nothing")):
        assert cluster.ask(method, path).status == 404
    assert cluster.ask("GET", "/healthz").json == {"status": "alive"}
    assert cluster.ask("GET", "/docs").status == 200


def test_who_gives_up_leaves_no_picture_behind(cluster: Cluster) -> None:
    body = photo()
    head = f"POST /vit/v1/classify HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(12):  # more than a replica holds
        with socket.create_connection(("127.0.0.1", cluster.port), timeout=PATIENCE) as connection:
            connection.sendall(head.encode() + body)
    answers = [cluster.classify(*multipart([photo()] * 4)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]


class TestBuilding:
    def test_the_default_is_the_model_in_the_package(self) -> None:
        from ray.serve import Application

        from vit_hybrid.serve.ray import app

        assert isinstance(app, Application)
        assert self.config(app).max_ongoing_requests >= 2 * 16
        assert app._bound_deployment.name == "vit-hybrid"

    @staticmethod
    def config(application: Any) -> Any:
        return application._bound_deployment._deployment_config

    def test_what_follows_from_arguments(self) -> None:
        from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as called

        from vit_hybrid.serve.ray import build

        # As `serve run` hands them on: texts.
        made = self.config(called(build, {"model": "m", "max_batch": "8", "max_replicas": "3", "max_queue": "40"}))
        assert (made.max_ongoing_requests, made.max_queued_requests) == (48, 16)
        scaling = made.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 3, 8)
        few = {"max_batch": 8, "max_queue": 2, "max_queued_requests": 9, "grace": 7, "max_ongoing_requests": None}
        made = self.config(called(build, few))
        assert (made.max_ongoing_requests, made.max_queued_requests, made.graceful_shutdown_timeout_s) == (16, 9, 7)
        assert self.config(called(build, {**few, "max_ongoing_requests": 16})).max_ongoing_requests == 16
        given = {"num_cpus": 3, "num_gpus": 0.5, "min_replicas": 0}
        assert called(build, given)._bound_deployment.ray_actor_options == {"num_cpus": 3, "num_gpus": 0.5}

    @pytest.mark.parametrize(
        ("given", "threads"), [({"num_cpus": 3}, 3), ({"num_cpus": 0.5}, 1), ({"num_cpus": 3, "threads": 7}, 7)]
    )
    def test_what_the_model_is_opened_with(self, given: dict[str, Any], threads: int) -> None:
        from vit_hybrid.serve.ray import Arguments

        how = {"engine": "onnx", "precision": "f32", "device": "cpu", "fast_decode": True, "max_pixels": 7}
        levels = {"coverage": 0.8, "false_alarms": 0.1}
        arguments = Arguments(model="m", max_batch=5, **how, **levels, **given)
        expected = {"name": "m", "batch_size": 5, "threads": threads, "may_race": False, **how, **levels}
        assert arguments.options() == expected

    def test_what_is_so_where_nobody_says_it(self) -> None:
        from vit_hybrid.serve.ray import Arguments
        from vit_hybrid.serve.settings import Settings

        assert Arguments().settings() == Settings()
        assert Arguments().options() == {
            **{"name": BUILT_IN_MODEL, "engine": "auto", "precision": "auto", "device": None, "threads": 1},
            **{"batch_size": 16, "may_race": False, "fast_decode": False, "max_pixels": 50_000_000},
            **{"coverage": 0.9, "false_alarms": 0.05},
        }

    def test_what_is_said_of_the_server_is_its_own(self) -> None:
        from vit_hybrid.serve.ray import Arguments
        from vit_hybrid.serve.settings import Settings

        given = {"max_wait_ms": 0.0, "max_queue": 7, "max_body_mb": 2.5, "max_buffered_mb": 3.5, "max_files": 5}
        given |= {"deadline": 6.5, "body_timeout": 7.5, "batch_timeout": 8.5, "grace": 0.0, "access_log_rate": 0}
        assert Arguments(**given, api_key_file="keys").settings() == Settings(**given, api_key_file="keys")

    def test_the_least_of_each_argument(self) -> None:
        from vit_hybrid.serve.ray import Arguments

        least = {
            0: "max_wait_ms grace access_log_rate num_cpus num_gpus min_replicas",
            1: "threads max_batch max_pixels max_queue max_files max_replicas max_queued_requests",
            0.001: "max_body_mb max_buffered_mb deadline body_timeout batch_timeout",
        }
        for value, names in least.items():
            for name in names.split():
                assert getattr(Arguments(**{name: value}), name) == value
                with pytest.raises(ValueError, match=name):
                    Arguments(**{name: {0: -1, 1: 0, 0.001: 0}[value]})

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"max_batch": 8, "max_ongoing_requests": 15}, "max_ongoing_requests is 15; expected at least"),
            ({"min_replicas": 5}, "min_replicas is 5; expected at most max_replicas, 4"),
            ({"max_batch": 0}, "greater than or equal to 1"),
            ({"max_queued_requests": 0}, "greater than or equal to 1"),  # as Ray has it
            ({"modle": "m"}, "modle"),
        ],
    )
    def test_what_cannot_be(self, given: dict[str, Any], words: str) -> None:
        from vit_hybrid.serve.ray import Arguments, build

        with pytest.raises(ValueError, match=words):
            build(Arguments(**given))
