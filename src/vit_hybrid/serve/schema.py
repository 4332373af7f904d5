"""What the OpenAPI description says: the shapes of answers, and an example of each way to ask."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from ..explain.methods import DEFAULT_METHOD, FUSIONS, METHODS
from ..outputs.problems import DEFAULT_TOP_K
from . import bodies
from .asking import MOST_LABELS
from .explaining import FORMATS
from .problems import MEDIA_TYPE

# A picture of one pixel, a GIF, that an example can have in full.
ONE_PIXEL = "R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="


class Prediction(BaseModel):
    """A label and its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class Value(BaseModel):
    """What a regression model says of one of its outputs."""

    label: str
    value: float


class Classified(BaseModel):
    """What became of one picture: predictions, best first; or values; or what is the matter with it."""

    path: str = Field(description="Which of the request's pictures it is.")
    predictions: list[Prediction] | None = Field(None, description="Of a model that has labels.")
    values: list[Value] | None = Field(None, description="Of a regression model.")
    set: list[str] | None = Field(None, description="Of a calibrated model: labels among which the truth is.")
    coverage: float | None = Field(None, description="In which share of all pictures it is.")
    familiarity: float | None = Field(
        None, description="Of the held-out pictures and this one, the share that is at most as familiar."
    )
    none_of_these: bool | None = Field(None, description="Whether it is likely nothing that the model knows.")
    error: str | None = Field(None, description="In place of an answer, where another picture has one.")
    status: int | None = Field(None, description="Beside an error: what a request with this picture alone gets.")


class Timing(BaseModel):
    """Milliseconds that the slowest picture of the request took."""

    queue_ms: float = Field(description="Waiting, to be decoded and for its batch.")
    decode_ms: float = Field(description="Decoding and preprocessing.")
    model_ms: float = Field(description="In the model, with its batch.")


class Classification(BaseModel):
    """The answer of `/v1/classify`."""

    model: str
    pictures: list[Classified]
    timing: Timing


class Embedded(BaseModel):
    """What became of one picture: its vector, or what is the matter with it."""

    path: str
    embedding: list[float] | None = None
    error: str | None = None
    status: int | None = None


class Embedding(BaseModel):
    """The answer of `/v1/embed`."""

    model: str
    pictures: list[Embedded]
    timing: Timing


class Map(BaseModel):
    """What the model looked at, on a grid over what it saw of the picture."""

    label: str | None = Field(description="Whose it is; null where it is the same for all labels.")
    layer: str | None = Field(description="What it was made from, where the method goes by a layer.")
    head: int | None = Field(description="The attention head; null for all.")
    is_empty: bool = Field(description="Whether it is 0 everywhere: nothing in the picture raises the label.")
    map: list[list[float]] = Field(description="Rows from top to bottom; what counts more is larger, nothing below 0.")


class Said(BaseModel):
    """What the model that was explained says of the picture: a label's probability, or an output's value."""

    label: str
    probability: float | None = None
    value: float | None = None


class Size(BaseModel):
    """In pixels."""

    height: int
    width: int


class Explained(BaseModel):
    """The answer of `/v1/explain`."""

    model: str
    method: str
    size: Size = Field(description="Of the picture, upright.")
    seen: list[float] = Field(description="What of it the maps lie over: left, top, right, bottom, in its pixels.")
    layers: int = Field(description="How many the encoder has.")
    predictions: list[Said]
    maps: list[Map]
    note: str | None = Field(description="Which model was explained, where another engine or precision answers.")
    timing: Timing


class Limits(BaseModel):
    """What a request may have."""

    body_bytes: int
    files: int
    pixels: int
    deadline_seconds: float


class Way(BaseModel):
    """How the model runs."""

    name: str = Field(description="All of it, for a person.")
    engine: str
    precision: str
    attention: str | None = Field(description="eager or sdpa; null where the engine has no choice.")
    compiled: bool
    channels_last: bool | None = Field(description="The layout of maps; null where the engine has no choice.")
    threads: int | None = Field(description="Those of each worker; null for the engine's own number.")
    token_merging: int | None = Field(description="Tokens that each layer merges away; null for none.")


class ModelCard(BaseModel):
    """What answers."""

    name: str
    version: int = Field(description="Counts the models that the server has loaded.")
    loaded_at: float = Field(description="Seconds since 1970.")
    problem_type: str
    labels: list[str]
    image_size: Size
    engine: str
    precision: str
    way: Way | None = Field(description="How the model runs; null where the engine does not say.")
    calibrated: bool = Field(description="Whether probabilities were fitted on held-out pictures.")
    card: str | None = Field(description="The README.md beside the model's weights, Markdown; null where it has none.")
    max_batch: int
    embedding_size: int | None = Field(description="Numbers in a vector; null where the model gives none.")
    limits: Limits
    package_version: str


class Health(BaseModel):
    """How the server is."""

    status: str


class Readiness(BaseModel):
    """Whether the server answers, and if not, why."""

    ready: bool
    reason: str | None = None
    workers: int = Field(description="That live and have the model loaded and warmed.")
    of: int = Field(description="That there are to be.")


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str


# What FastAPI does not find by itself: that of answers of another media type than its own.
COMPONENTS = {"ProblemDetails": ProblemDetails.model_json_schema()}
PROBLEMS = {
    400: "It is no request that the server understands.",
    401: "The server needs a key, and this is none.",
    403: "The key may not do this.",
    404: "There is nothing of that name.",
    405: "Not with this method.",
    408: "The body did not come in time.",
    409: "The model is being loaded already.",
    413: "The body is too large, or has too many pictures.",
    415: "The body, or a picture in it, is of an unsupported kind.",
    422: "A picture is damaged or has too many pixels, or the body is not what its type says.",
    429: "The key's quota is used up; `Retry-After` says for how long.",
    501: "The model cannot be explained here: it is a bundle, and what it was exported from is not at hand.",
    503: "Too many pictures are waiting (`Retry-After` says for about how long), or what ran the model ended.",
    504: "There was no answer in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's description of these answers."""
    reference = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    return {status: {"description": PROBLEMS[status], "content": {MEDIA_TYPE: reference}} for status in statuses}


def answer(example: Any) -> dict[int | str, dict[str, Any]]:
    """FastAPI's description of an answer that is as it should be."""
    return {200: {"content": {"application/json": {"example": example}}}}


TOP_K = {
    "name": bodies.TOP_K_FIELD,
    "in": "query",
    "required": False,
    "description": f"How many labels to give of each picture; {DEFAULT_TOP_K} by default.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10**bodies.MOST_DIGITS - 1},
}


def pictures_body(with_top_k: bool, most: int | None = None) -> dict[str, Any]:
    """What the body of a request is, of which labels or vectors are asked, or explanations of `most` pictures."""
    binary = {"type": "string", "format": "binary"}
    top_k = {bodies.TOP_K_FIELD: {"type": "integer", "minimum": 1}} if with_top_k else {}

    def fields(name: str, item: dict[str, Any]) -> dict[str, Any]:
        pictures = {"type": "array", "minItems": 1, "items": item, **({} if most is None else {"maxItems": most})}
        properties = {name: pictures, **top_k}
        return {"type": "object", "required": [name], "additionalProperties": False, "properties": properties}

    example = {bodies.IMAGES_FIELD: [ONE_PIXEL], **({bodies.TOP_K_FIELD: 3} if with_top_k else {})}
    base64 = {"type": "string", "contentEncoding": "base64"}
    return {
        "required": True,
        "content": {
            "image/*": {"schema": binary},
            "application/octet-stream": {"schema": binary},
            bodies.MULTIPART: {"schema": fields(bodies.FILE_FIELD, binary)},
            bodies.JSON: {"schema": fields(bodies.IMAGES_FIELD, base64), "example": example},
        },
    }


CLASSIFIED = {
    "model": "vit-hybrid-tiny-imagenet",
    "pictures": [{"path": "image 1", "predictions": [{"label": "Egyptian cat", "probability": 0.71}]}],
    "timing": {"queue_ms": 0.4, "decode_ms": 1.2, "model_ms": 6.8},
}
EXPLAINED = {
    "model": "vit-hybrid-tiny-imagenet",
    "method": "relevance",
    "size": {"height": 360, "width": 480},
    "seen": [60.0, 0.0, 420.0, 360.0],
    "layers": 2,
    "predictions": [{"label": "Egyptian cat", "probability": 0.71}],
    "maps": [{"label": "Egyptian cat", "layer": None, "head": None, "is_empty": False, "map": [[0.1, 0.7]]}],
    "note": None,
    "timing": {"queue_ms": 0.1, "decode_ms": 1.2, "model_ms": 41.3},
}
EXPLANATION: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"example": EXPLAINED},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


HOW = [
    _parameter("method", f"{DEFAULT_METHOD} by default.", type="string", enum=[*METHODS]),
    _parameter(
        "label",
        "A label by its name or number, also several; by default the first that the model gives.",
        type="array",
        maxItems=MOST_LABELS,
        items={"type": "string"},
    ),
    _parameter("layer", "Of attention and grad-cam: a layer, or a map of the ResNet's such as stage2.", type="string"),
    _parameter("head", "Of attention: a single head.", type="integer", minimum=1, maximum=10**bodies.MOST_DIGITS - 1),
    _parameter("fusion", "Of rollout and attention: what makes one of all heads.", type="string", enum=[*FUSIONS]),
    _parameter("discard", "Of rollout: the share that counts as zero.", type="number", minimum=0, exclusiveMaximum=1),
    _parameter("format", "Numbers, colors over the picture, or colors alone.", type="string", enum=[*FORMATS]),
]
EMBEDDED = {
    "model": "vit-hybrid-tiny-imagenet",
    "pictures": [{"path": "image 1", "embedding": [0.318, -1.402, 0.077]}],
    "timing": {"queue_ms": 0.4, "decode_ms": 1.2, "model_ms": 6.8},
}

__all__ = [
    *(
        "CLASSIFIED",
        "COMPONENTS",
        "EMBEDDED",
        "Classification",
        "Embedding",
        "Health",
        "ModelCard",
        "ProblemDetails",
        "Readiness",
        "answer",
    ),
    *("pictures_body", "problems"),
]
