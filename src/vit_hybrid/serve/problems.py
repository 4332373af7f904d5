"""What is answered where a request cannot be: `application/problem+json` (RFC 9457). Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from ..errors import one_line

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: Of HTTP.
        detail: What is the matter, and what to do, for whoever sent the request.
        reason: The same in a word, for metrics and logs.
        headers: Further ones of the answer.
    """

    def __init__(self, status: int, detail: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = one_line(detail)
        self.reason = reason
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The answer's content."""
        return json.dumps(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
                "request_id": request_id,
            }
        ).encode()


class Disconnected(Exception):
    """Whoever sent a request no longer waits for the answer."""


__all__ = ["MEDIA_TYPE", "Disconnected", "Problem"]
