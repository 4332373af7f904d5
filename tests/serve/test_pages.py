"""The files of the pages, as they come over the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, fake

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from vit_hybrid.explain.drawing import STOPS
from vit_hybrid.serve.pages import FOLDER, Pages

TYPES = {
    **dict.fromkeys(("", ".html"), "text/html; charset=utf-8"),
    **{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"},
}
NAMES = ["/", "/docs", *(f"/page/{path.name}" for path in sorted(FOLDER.iterdir()))]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake() as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_pages_have_their_own_files_alone_and_are_sent_once(server: Server, name: str) -> None:
    answer = server.get(name)
    assert answer.status == 200
    file = {"/": "home.html", "/docs": "docs.html"}.get(name, name.removeprefix("/page/"))
    assert answer.body == (FOLDER / file).read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "img-src 'self' data: blob:; connect-src 'self';" in policy  # what is chosen, and what is said of it
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["permissions-policy"] == "camera=(self), geolocation=(), microphone=()"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    tag = answer.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = server.get(name, **{"If-None-Match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        for header in ("content-security-policy", "cache-control"):  # which take the place of those that were kept
            assert again.headers[header] == answer.headers[header]
    assert server.get(name, **{"If-None-Match": '"other"'}).body == answer.body
    head = server.ask("HEAD", name)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.body))
    assert head.headers["content-type"] == answer.headers["content-type"] == TYPES[Path(name).suffix]


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_place_or_has_a_script_within(server: Server, name: str) -> None:
    text = server.get(name).body.decode()
    addresses = [word for word in text.replace('"', " ").replace("'", " ").split() if word.startswith(("http", "//"))]
    assert [one for one in addresses if one not in ("http://www.w3.org/2000/svg", "//")] == []
    assert "<script>" not in text
    assert " style=" not in text
    assert " onclick=" not in text


def test_what_differs_is_not_taken_for_what_somebody_has() -> None:
    tags = set()
    for needs_key, explains in ((False, False), (True, False), (False, True)):
        answer = Pages(needs_key, explains).answer("settings.json", {})
        told = {"needs_key": needs_key, "heat_colors": [list(color) for color in STOPS] if explains else None}
        assert json.loads(answer.body) == told
        assert answer.headers["content-type"] == "application/json"
        tags.add(answer.headers["etag"])
    assert len(tags) == 3


def test_only_files_of_the_pages_are_there(server: Server) -> None:
    for name in ("/page/", "/page", "/page/nothing.js", "/page/../pages.py", "/page/%2e%2e/pages.py", "/page/a/b.js"):
        assert server.get(name).status == 404
    assert server.ask("POST", "/page/home.js").status == 405
    told = server.get("/page/settings.json").json
    assert told == {"needs_key": False, "heat_colors": [list(color) for color in STOPS]}


def test_the_description_says_nothing_of_them(server: Server) -> None:
    assert not {"/", "/docs", "/page/{name}"} & {*server.get("/openapi.json").json["paths"]}
    assert server.get("/v1/model").json["card"] is None
