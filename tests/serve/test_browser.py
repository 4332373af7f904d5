"""The server's pages in a real browser, with the model in the package behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from chromium import DESK, PHONE, chromium, faults, scrolls_sideways, visiting
from serving import Server, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with running("--engine", "torch", "--device", "cpu", "--threads", "1") as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_the_description(browser: Browser, server: Server, scheme: str) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    with visiting(browser, origin, color_scheme=scheme) as page:
        page.goto(f"{origin}/docs")
        page.get_by_role("heading", name="POST /v1/classify").wait_for()
        assert page.locator("section").count() >= 7
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            assert not scrolls_sideways(page)
            assert not faults(page)


def misbehave(page: Page, origin: str) -> None:
    """Does all that a visit and axe are to notice."""
    page.route("http://example.org/*", lambda route: route.fulfill(body=""))
    page.set_content("<img alt='' src='http://example.org/a.png'>")
    page.goto(f"{origin}/docs")
    page.get_by_role("heading", name="POST /v1/classify").wait_for()
    page.evaluate("document.body.append(document.createElement('button'))")
    [fault] = faults(page)
    assert fault.startswith("button-name (critical)")
    page.evaluate("setTimeout(() => { throw new Error('wrong') })")
    with page.expect_console_message():
        page.evaluate("fetch('http://example.org/').catch(() => 0)")


def test_what_a_visit_notices(browser: Browser, server: Server) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    visit = visiting(browser, origin)
    misbehave(visit.__enter__(), origin)
    with pytest.raises(AssertionError) as complaint:
        visit.__exit__(None, None, None)
    lines = str(complaint.value).splitlines()
    assert lines[0] == "elsewhere: http://example.org/a.png"
    assert "error: wrong" in lines
    assert any("Content Security Policy" in line for line in lines)
