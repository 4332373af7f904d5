"""Bodies, taken apart: what went in comes out, and no more than may be."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st
from serving import as_json, multipart

pytest.importorskip("python_multipart", reason="needs the extra serve")

from vit_hybrid.serve import bodies
from vit_hybrid.serve.problems import Problem

odd = st.sampled_from([b"--boundary", b"--boundary--", b"\r\n\r\n", b"\r\n--", b""])
pictures = st.lists(st.binary(max_size=200) | odd, min_size=1, max_size=4)


@hypothesis.given(pictures, st.none() | st.integers(1, 999))
def test_forms_and_json(content: list[bytes], top_k: int | None) -> None:
    fields = {} if top_k is None else {"top_k": str(top_k)}
    hypothesis.assume(not any(b"\r\n--boundary" in picture for picture in content))
    form, kind = multipart(content, **fields)
    assert bodies.read(bodies.MULTIPART, kind, form, 4) == bodies.Body(content, top_k)
    told = {} if top_k is None else {"top_k": top_k}
    assert bodies.read(bodies.JSON, "application/json", as_json(content, **told), 4) == bodies.Body(content, top_k)


def test_a_part_has_no_other_ones_headers() -> None:
    form, kind = multipart([b"first"])
    boundary = form.partition(b"\r\n")[0]
    nameless = boundary + b"\r\nContent-Disposition: form-data\r\n\r\nsecond\r\n"
    with pytest.raises(Problem, match="expected the field"):
        bodies.read(bodies.MULTIPART, kind, form.replace(boundary + b"--", nameless + boundary + b"--"), 4)


@hypothesis.given(st.sampled_from([bodies.MULTIPART, bodies.JSON]), st.binary(max_size=500))
def test_anything_else_is_refused_and_not_a_fault(kind: str, body: bytes) -> None:
    with pytest.raises(Problem) as told:
        bodies.read(kind, multipart([])[1], body, 4)
    assert told.value.status == 422


@pytest.mark.parametrize(("most", "said"), [(1, "1 picture"), (3, "3 pictures")])
def test_how_many_pictures_a_request_may_have(most: int, said: str) -> None:
    for kind, made in ((bodies.JSON, as_json), (bodies.MULTIPART, lambda given: multipart(given)[0])):
        assert len(bodies.read(kind, multipart([])[1], made([b"a"] * most), most).pictures) == most
        with pytest.raises(Problem, match=f"a request may have {said}; send several requests") as told:
            bodies.read(kind, multipart([])[1], made([b"a"] * (most + 1)), most)
        assert told.value.status == 413


@pytest.mark.parametrize(
    ("kind", "content_type", "body", "status", "reason", "words"),
    [
        (bodies.MULTIPART, multipart([])[1], multipart([b"a"] * 5)[0], 413, "files", "4 pictures"),
        (bodies.MULTIPART, multipart([])[1], multipart([], top_k="3")[0], 422, "no picture", "with the field file, or"),
        (
            bodies.MULTIPART,
            multipart([])[1],
            multipart([b"a"], top="3")[0],
            422,
            "multipart",
            "field file, .* and top_k",
        ),
        (bodies.MULTIPART, multipart([])[1], multipart([b"a"])[0][:-9], 422, "multipart", "breaks off"),
        *(
            (bodies.MULTIPART, multipart([])[1], multipart([b"a"])[0].replace(*change), 422, "multipart", "field file,")
            for change in ((b' name="file";', b""), (b"Content-Disposition", b"X-Disposition"))
        ),
        (bodies.MULTIPART, multipart([])[1], b"a", 422, "multipart", "no multipart/form-data as"),
        (bodies.MULTIPART, "multipart/form-data; charset=x", b"a", 422, "multipart", "names no boundary"),
        (bodies.JSON, "", b'{"images": []}', 422, "no picture", "base64 in images"),
        (bodies.JSON, "", b'{"images": ["QQ==", "QQ=", "?"]}', 422, "json", "^image 2 is no base64"),
        (bodies.JSON, "", b'{"images": ["QQ=="], "top_k": 0}', 422, "top_k", "^top_k is how many labels"),
    ],
)
def test_why_a_body_is_refused(kind: str, content_type: str, body: bytes, status: int, reason: str, words: str) -> None:
    with pytest.raises(Problem, match=words) as told:
        bodies.read(kind, content_type, body, 4)
    assert (told.value.status, told.value.reason) == (status, reason)


def test_a_picture_as_it_is() -> None:
    assert bodies.read(bodies.RAW, "image/png", b"a picture", 1) == bodies.Body([b"a picture"], None)


@pytest.mark.parametrize("said", [{"images": ["QQ=="], "size": 5}, {"top_k": 5}, {"images": "QQ=="}, ["QQ=="]])
def test_json_that_says_something_else_is_refused(said: object) -> None:
    with pytest.raises(Problem, match=r"^expected (\{\"images\": |a list of base64)") as told:
        bodies.read(bodies.JSON, "application/json", json.dumps(said).encode(), 4)
    assert (told.value.status, told.value.reason) == (422, "json")


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("image/jpeg", bodies.RAW),
        ("Image/PNG; q=1", bodies.RAW),
        ("", bodies.RAW),
        ("application/octet-stream", bodies.RAW),
        ("Multipart/Form-Data; boundary=x", bodies.MULTIPART),
        (" application/JSON ; charset=utf-8", bodies.JSON),
    ],
)
def test_kinds_of_bodies_by_their_headers(content_type: str, kind: str) -> None:
    assert bodies.kind_of(content_type, "") == bodies.kind_of(content_type, "identity") == kind
    with pytest.raises(Problem, match="Content-Encoding") as told:
        bodies.kind_of(content_type, "gzip")
    assert (told.value.status, told.value.reason) == (415, "encoding")


@pytest.mark.parametrize("content_type", ["text/plain", "image", "application/jsonp", "multipart/mixed; boundary=x"])
def test_what_is_no_kind_of_body(content_type: str) -> None:
    with pytest.raises(Problem, match="Content-Type is not supported; send a picture as it is") as told:
        bodies.kind_of(content_type, "")
    assert (told.value.status, told.value.reason) == (415, "content type")


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("7", 7), (3, 3), ("000000001", 1)])
def test_numbers_of_labels(given: object, expected: int | None) -> None:
    assert bodies.top_k_of(given) == expected


@pytest.mark.parametrize("given", ["", "0", "-1", "1.0", "1" * 10, "\u0663", True, 0, 1.0, [1]])
def test_what_is_no_number_of_labels(given: object) -> None:
    with pytest.raises(Problem, match="1 or more"):
        bodies.top_k_of(given)
