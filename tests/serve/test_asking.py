"""How a picture is to be explained, as a query says it."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

pytest.importorskip("python_multipart", reason="needs the extra serve")

from vit_hybrid.serve.asking import MOST_LABELS, asked_of
from vit_hybrid.serve.explaining import How
from vit_hybrid.serve.problems import Problem


class Query:
    def __init__(self, text: str) -> None:
        self._found = parse_qs(text, keep_blank_values=True)

    def getlist(self, key: str) -> list[str]:
        return self._found.get(key, [])


@pytest.mark.parametrize(
    ("text", "accept", "expected"),
    [
        ("", "", How(b"")),
        ("", "*/*", How(b"")),
        ("", "image/png", How(b"", "png")),
        ("", "image/png, application/json", How(b"")),
        ("format=heat", "image/png", How(b"", "heat")),
        ("format=json", "image/png", How(b"", "json")),
        ("method=grad-cam&label=a&label=b&layer=stem", "", How(b"", "json", "grad-cam", ("a", "b"), "stem")),
        ("method=attention&layer=1&head=12", "", How(b"", "json", "attention", (), "1", 12)),
        (
            "method=rollout&fusion=max&discard=.5",
            "",
            How(b"", "json", "rollout", (), None, None, fusion="max", discard=0.5),
        ),
        ("method=rollout&discard=0", "", How(b"", "json", "rollout")),
        ("method=rollout&discard=5e-1", "", How(b"", "json", "rollout", discard=0.5)),
        ("&".join(["method=legrad", *["label=a"] * MOST_LABELS]), "", How(b"", "json", "legrad", ("a",) * MOST_LABELS)),
        ("method=legrad&label=a", "image/png", How(b"", "png", "legrad", ("a",))),
        ("method=legrad&label=a&format=heat", "", How(b"", "heat", "legrad", ("a",))),
        ("method=rollout&discard=.999", "", How(b"", "json", "rollout", discard=0.999)),
        (f"method=attention&head={'9' * 400}", "", How(b"", "json", "attention", head=9_999_999_999)),
    ],
)
def test_what_is_asked(text: str, accept: str, expected: How) -> None:
    assert asked_of(Query(text), accept) == expected


@pytest.mark.parametrize(
    ("text", "accept", "said"),
    [
        ("&".join(["method=legrad", *["label=a"] * (MOST_LABELS + 1)]), "", f"{MOST_LABELS} times"),
        ("method=legrad&label=a&label=b", "image/png", "once where a PNG is wanted"),
        ("method=legrad&label=a&label=b&format=heat", "", "once where a PNG is wanted"),
        ("method=rollout&label=a", "", "label is for grad-cam, relevance, legrad; rollout is the same for all labels"),
        ("method=attention&label=a", "", "attention is the same for all labels"),
        ("head=0", "", "from 1"),
        ("head=", "", "from 1"),
        ("head=-1", "", "from 1"),
        ("head=%D9%A1", "", "from 1"),  # a digit, of Arabic
        ("head=1&head=1", "", "head may stand there once"),
        ("discard=1", "", "0 or more and below 1"),
        ("discard=1.5", "", "0 or more and below 1"),
        ("discard=-0.1", "", "0 or more and below 1"),
        ("discard=1e-9999", "", "0 or more and below 1"),
        ("discard=", "", "0 or more and below 1"),
        ("layer=1&layer=2", "", "layer may stand there once"),
        ("fusion=sum", "", "fusion is one of mean, max, min"),
    ],
)
def test_what_cannot_be_asked(text: str, accept: str, said: str) -> None:
    with pytest.raises(Problem, match=said) as told:
        asked_of(Query(text), accept)
    assert (told.value.status, told.value.reason) == (422, "parameter")
