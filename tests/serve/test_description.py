"""What the OpenAPI description says of each route: what it is for, what it takes, and with what it may answer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

import vit_hybrid
from vit_hybrid.serve.app import Service, application
from vit_hybrid.serve.settings import Settings

NOTHING: Any = None
# What answers have, by the names of their shapes.
SHAPES = {
    "Classification": "model pictures timing",
    "Classified": "path predictions values set coverage familiarity none_of_these error status",
    "Prediction": "label probability",
    "Value": "label value",
    "Embedding": "model pictures timing",
    "Embedded": "path embedding error status",
    "Timing": "queue_ms decode_ms model_ms",
    "Explained": "model method size seen layers predictions maps note timing",
    "Map": "label layer head is_empty map",
    "Said": "label probability value",
    "Size": "height width",
    "ModelCard": "name version loaded_at problem_type labels image_size engine precision way calibrated card max_batch "
    "embedding_size limits package_version",
    "Way": "name engine precision attention compiled channels_last threads token_merging",
    "Limits": "body_bytes files pixels deadline_seconds",
    "Health": "status",
    "Readiness": "ready reason workers of",
    "ProblemDetails": "type title status detail request_id",
}
# What an answer need not have; all else is always there.
MAY_BE_LEFT_OUT = {
    "Classified": "predictions values set coverage familiarity none_of_these error status",
    "Embedded": "embedding error status",
    "Said": "probability value",
    "Readiness": "reason",
}
REFUSED = {401, 408, 413, 415, 422, 429, 503, 504}
ROUTES = {
    "/v1/classify": ("post", "What is in pictures", "Classification", REFUSED),
    "/v1/embed": ("post", "Vectors of pictures", "Embedding", REFUSED | {404}),
    "/v1/explain": ("post", "What the model looked at", "Explained", REFUSED | {501}),
    "/v1/model": ("get", "Which model answers", "ModelCard", {401}),
    "/v1/admin/reload": ("post", "Load the model anew", "ModelCard", {401, 403, 409, 422}),
    "/healthz": ("get", "Whether the process lives", "Health", set()),
    "/readyz": ("get", "Whether it answers", "Readiness", {503}),
    "/metrics": ("get", "Measurements, for Prometheus", None, set()),
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return application(Service(Settings(), NOTHING, NOTHING, NOTHING, NOTHING, NOTHING))._app.openapi()


def test_it_names_the_routes_and_the_answers_of_each(described: dict[str, Any]) -> None:
    assert (described["info"]["title"], described["info"]["version"]) == ("vit-hybrid", vit_hybrid.__version__)
    assert described["paths"].keys() == ROUTES.keys()
    for path, (method, summary, model, statuses) in ROUTES.items():
        [(found, route)] = described["paths"][path].items()
        assert (found, route["summary"]) == (method, summary)
        assert {*route["responses"]} == {"200", *map(str, statuses)}
        for status in statuses:
            [(kind, content)] = route["responses"][str(status)]["content"].items()
            is_problem = path != "/readyz"
            assert kind == ("application/problem+json" if is_problem else "application/json")
            name = "ProblemDetails" if is_problem else "Readiness"
            assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
        if model is not None:
            answer = route["responses"]["200"]["content"]["application/json"]["schema"]
            assert answer == {"$ref": f"#/components/schemas/{model}"}
    assert "image/png" in described["paths"]["/v1/explain"]["post"]["responses"]["200"]["content"]


def test_no_reference_in_it_leads_nowhere(described: dict[str, Any]) -> None:
    named = {*re.findall(r"#/components/schemas/(\w+)", json.dumps(described))}
    assert named == {*described["components"]["schemas"]} == {*SHAPES}


@pytest.mark.parametrize("name", SHAPES)
def test_it_names_all_that_an_answer_has(described: dict[str, Any], name: str) -> None:
    schema = described["components"]["schemas"][name]
    assert [*schema["properties"]] == SHAPES[name].split()
    optional = MAY_BE_LEFT_OUT.get(name, "").split()
    assert schema.get("required", []) == [one for one in SHAPES[name].split() if one not in optional]


def test_only_labels_have_a_number(described: dict[str, Any]) -> None:
    for route, has_number in (("classify", True), ("embed", False), ("explain", False)):
        asked = described["paths"][f"/v1/{route}"]["post"]
        assert asked["requestBody"]["required"] is True
        content = asked["requestBody"]["content"]
        assert {*content} == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
        for kind, field in (("multipart/form-data", "file"), ("application/json", "images")):
            schema = content[kind]["schema"]
            assert {*schema["properties"]} == {field, *(["top_k"] if has_number else [])}
            assert (schema["properties"][field]["minItems"], schema["additionalProperties"]) == (1, False)
        assert ("top_k" in content["application/json"]["example"]) is has_number
        names = [one["name"] for one in asked.get("parameters", ())]
        assert ("top_k" in names) is has_number


def test_words_that_an_explanation_is_asked_with(described: dict[str, Any]) -> None:
    parameters = described["paths"]["/v1/explain"]["post"]["parameters"]
    asked = {one["name"]: one["schema"] for one in parameters}
    assert [*asked] == ["method", "label", "layer", "head", "fusion", "discard", "format"]
    assert asked["method"]["enum"] == ["rollout", "attention", "grad-cam", "relevance", "legrad"]
    assert (asked["fusion"]["enum"], asked["format"]["enum"]) == (["mean", "max", "min"], ["json", "png", "heat"])
    assert (asked["label"]["type"], asked["label"]["items"]) == ("array", {"type": "string"})
    assert all((one["in"], one["required"]) == ("query", False) for one in parameters)
