"""Debian's chromium, driven by playwright, for the tests of pages; without either they skip with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAM = Path(os.environ.get("VIT_HYBRID_CHROMIUM", "/usr/bin/chromium"))
# No sandbox, since tests may run as root; and nothing that a browser does by itself, such as looking for updates.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser, for a fixture of a module: its start takes a second.

    Args:
        arguments: Further ones for the program.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")
    if not os.access(PROGRAM, os.X_OK):
        pytest.skip(f"no browser at {PROGRAM}: apt-get install chromium, or VIT_HYBRID_CHROMIUM names another place")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=PROGRAM, args=[*ARGUMENTS, *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visiting(browser: Browser, origin: str, expected: Sequence[str] = (), **context: Any) -> Iterator[Page]:
    """A new page, whose visit may give no cause for complaint: no error or warning in the console, no request that
    failed, none to another place than `origin`.

    Args:
        browser: As `chromium` gives it.
        origin: What every address begins with; the page is not yet there.
        expected: Words of complaints that there have to be, such as the status of a request that is refused.
        context: What `Browser.new_context` takes, such as `color_scheme="dark"`.
    """
    complaints: list[str] = []
    with browser.new_context(**{"viewport": DESK, **context}) as place:
        page = place.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: complaints.append(f"{said.type}: {said.text}") if said.type in ("error", "warning") else None,
        )
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url} {request.failure}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((origin, "data:", f"blob:{origin}"))
                else complaints.append(f"elsewhere: {request.url}")
            ),
        )
        yield page
    for words in expected:
        found = [complaint for complaint in complaints if words in complaint]
        assert found, f"nothing with {words}"
        complaints = [complaint for complaint in complaints if complaint not in found]
    assert not complaints, "\n".join(complaints)


def faults(page: Page) -> list[str]:
    """What axe finds that keeps people from using the page: faults that are serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): {fault['help']}: {node['html']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


__all__ = ["DESK", "PHONE", "chromium", "faults", "scrolls_sideways", "visiting"]
