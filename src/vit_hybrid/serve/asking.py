"""How a picture is to be explained, as the query and the headers of a request say it."""

from __future__ import annotations

import re
from typing import Any, Protocol

from ..explain.methods import DEFAULT_FUSION, DEFAULT_METHOD, FUSIONS, METHODS, OF_LABELS
from .bodies import MOST_DIGITS
from .explaining import FORMATS, JSON_FORMAT, PNG_FORMAT, How
from .problems import Problem

MOST_LABELS = 16
SHARE = re.compile(r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?")


class Query(Protocol):
    """The parameters of a request, each of which may stand there several times."""

    def getlist(self, key: Any) -> list[str]: ...


def asked_of(query: Query, accept: str) -> How:
    """What is asked, but for the picture.

    Args:
        query: The parameters `method`, `label` (repeated), `layer`, `head`, `fusion`, `discard`, `format`.
        accept: The header, which says the format where no parameter does.

    Raises:
        Problem: 422, that cannot be asked.
    """
    wants_png = "image/png" in accept and "application/json" not in accept
    format = _word(query, "format", FORMATS) or (PNG_FORMAT if wants_png else JSON_FORMAT)
    method = _word(query, "method", METHODS) or DEFAULT_METHOD
    labels = query.getlist("label")
    if len(labels) > (MOST_LABELS if format == JSON_FORMAT else 1):
        raise _refused(f"label may stand there {MOST_LABELS} times, and once where a PNG is wanted")
    if labels and method not in OF_LABELS:
        raise _refused(f"label is for {', '.join(OF_LABELS)}; {method} is the same for all labels")
    head, discard = _single(query, "head"), _single(query, "discard")
    if head is not None and not (head.isascii() and head.isdigit() and int(head[: MOST_DIGITS + 1] or 0) > 0):
        raise _refused("head is the number of an attention head, from 1")
    if discard is not None and not (SHARE.fullmatch(discard) and float(discard) < 1):
        raise _refused("discard is a share of 0 or more and below 1")
    return How(
        b"",
        format,
        method,
        tuple(labels),
        _single(query, "layer"),
        None if head is None else int(head[: MOST_DIGITS + 1]),
        _word(query, "fusion", FUSIONS) or DEFAULT_FUSION,
        0.0 if discard is None else float(discard),
    )


def _single(query: Query, name: str) -> str | None:
    found = query.getlist(name)
    if len(found) > 1:
        raise _refused(f"{name} may stand there once")
    return found[0] if found else None


def _word(query: Query, name: str, words: tuple[str, ...]) -> str | None:
    found = _single(query, name)
    if found is not None and found not in words:
        raise _refused(f"{name} is one of {', '.join(words)}")
    return found


def _refused(detail: str) -> Problem:
    return Problem(422, detail, "parameter")


__all__ = ["MOST_LABELS", "asked_of"]
