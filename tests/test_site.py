"""The documentation site: it builds without a warning or a network, and says all there is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from chromium import PHONE, chromium, faults, scrolls_sideways, visiting
from repository import REPOSITORY, loaded

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("sphinx", reason="needs the extra docs")

DOCS = REPOSITORY / "docs"
# Where anybody comes for something, and how far it may be from the start.
WANTED = {"pictures.html", "weights.html", "transformers4.html", "serving.html", "speed.html"}
CLICKS = 2


class Addresses(HTMLParser):
    """What a page loads, where it leads, and what can be led to in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "href" in given:
            self.loaded.append(given["href"])
        self.loaded += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        self.loaded += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, where no name of another machine can be looked up."""
    out = tmp_path_factory.mktemp("site")
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    [command] = [line.strip() for line in lines if "-m sphinx" in line]
    options = command.partition("-m sphinx")[2].split()[:-2]  # but for where from and where to
    assert {"-n", "-W"} <= set(options)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    arguments = [sys.executable, "-m", "sphinx", *options, "-d", out / "doctrees", DOCS, out / "html"]
    done = subprocess.run(arguments, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Addresses]:
    return {path.name: Addresses(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}


def is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc) or address.startswith("//")


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Addresses]) -> None:
    assert len(pages) > 15
    for name, page in pages.items():
        assert not [address for address in page.loaded if is_elsewhere(address)], name
    for sheet in site.rglob("*.css"):
        found = re.findall(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)", sheet.read_text(encoding="utf-8"))
        assert not [address for address in found if is_elsewhere(address)], sheet
    for drawing in site.rglob("*.svg"):
        assert not re.findall(r"(?:href|src)=\"https?:|url\(.?https?:", drawing.read_text(encoding="utf-8")), drawing


def test_links_within_the_site_lead_somewhere(site: Path, pages: dict[str, Addresses]) -> None:
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path) or name
            assert (site / target).exists(), f"{name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{name}: {link}"


def test_what_people_come_for_is_two_clicks_from_the_start(pages: dict[str, Addresses]) -> None:
    reached = {"index.html"}
    for _ in range(CLICKS):
        reached |= {urlsplit(link).path for name in reached & pages.keys() for link in pages[name].links}
    assert reached >= WANTED


def test_every_page_begins_with_something_to_run() -> None:
    """Behind the title comes what one came for: a command or a few lines that work."""
    listed = {"index.md", "layout.md", "measured.md"}  # what these are for is to be read
    for path in sorted(DOCS.glob("*.md")):
        if path.name in listed:
            continue
        first = path.read_text(encoding="utf-8").split("\n```", 2)
        assert len(first) > 1, path.name
        assert first[1].startswith(("sh\n", "python\n")), path.name
        assert first[0].count("\n## ") <= 1, path.name


def test_every_public_name_is_in_the_reference(site: Path, pages: dict[str, Addresses]) -> None:
    import vit_hybrid

    reference = loaded("docs/reference.py")
    names = {(module, name) for module, name, _ in reference.public_names()}
    anchors = pages["python.html"].anchors
    assert {f"{module}.{name}" for module, name in names} <= anchors
    met = {name for _, name in names}
    assert {name for name in vit_hybrid.__all__ if name not in reference.public_modules()} <= met
    # All that README and pages import is there, too.
    for path in (REPOSITORY / "README.md", *DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for module, listed in re.findall(r"^from (vit_hybrid[\w.]*) import (.+)$", text, re.MULTILINE):
            for name in re.findall(r"\w+", listed.partition("#")[0]):
                known = name in met or f"{module}.{name}" in reference.MODULES or f"{module}.{name}" in anchors
                assert known, f"{path.name}: {module}.{name}"


def test_every_option_of_every_command_is_in_the_commands_reference(site: Path) -> None:
    import typer

    from vit_hybrid.cli.main import app

    page = (site / "commands.html").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    for name, subcommand in command.commands.items():  # type: ignore[attr-defined]
        start = page.index(f'<section id="{name}">')
        part = page[start : page.index("</section>", start)]
        said = set(re.findall(r'<span class="pre">(--?[\w-]+)</span>', part))
        options = {
            option
            for parameter in subcommand.params
            if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False)
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert options <= said, name
        first_column = set(re.findall(r'<td><p><code[^>]*><span class="pre">(--[\w-]+)</span>', part))
        assert first_column <= options, name


@pytest.mark.parametrize(
    ("folder", "first", "last", "least"),
    [
        ("amd-epyc-2-cores-1-and-8", "## How fast", "With ONNX Runtime and timm", 16),
        ("amd-epyc-2-cores", "With ONNX Runtime and timm", "Against the image's size", 20),
        ("amd-epyc-2-cores-32-merged", "| R | tokens at the end", "With 24 and 40", 4),
        ("intel-xeon-amx-2-cores-1-and-8", "On two cores of an Intel Xeon with AMX, by", "In an earlier run", 10),
        ("intel-xeon-amx-2-cores-32-merged", "With 32 tokens merged a layer", "[All results]", 8),
    ],
)
def test_the_tables_of_speed_are_what_was_measured(folder: str, first: str, last: str, least: int) -> None:
    results = json.loads((REPOSITORY / f"benchmarks/results/{folder}/results.json").read_text())
    ratios = {(row["contender"], row["batch_size"]): row["ratio"] for row in results["rows"] if "ratio" in row}
    page = (DOCS / "speed.md").read_text(encoding="utf-8")
    table = page.partition(first)[2].partition(last)[0]
    heading, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in f"{first}{table}".splitlines()
        if line.startswith("|")
    ]
    names = {
        "transformers 4.49 sdpa float32": "transformers 4.49.0 f32 sdpa",
        "transformers 4.49 sdpa bfloat16": "transformers 4.49.0 bf16 sdpa",
        "none": "openvino int8",
        "32": "openvino int8, merging 32",
        "openvino bf16 merging 32": "openvino bf16, merging 32",
        "openvino int8 merging 32": "openvino int8, merging 32",
    }
    # Of the batch that a heading before it names.
    batches: list[int | None] = []
    for title in heading:
        found = re.fullmatch(r"(?:batch (?:of )?(\d+)|one picture)", title)
        said = None if found is None else int(found[1] or 1)
        batches.append(batches[-1] if title.startswith("times as fast") and batches[-1] else said)
    checked = 0
    for path, *figures in rows:
        told = re.sub(r" \(.*\)|,", "", path)  # what stands beside a contender's name
        for batch, figure in zip(batches[1:], figures, strict=True):
            if batch and (names.get(told, told), batch) in ratios and re.fullmatch(r"[\d.]+", figure):
                assert figure == f"{1 / ratios[names.get(told, told), batch]:.2f}", (told, batch)
                checked += 1
    assert checked >= least


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--allow-file-access-from-files") as browser:
        yield browser


class TestInABrowser:
    def test_search_finds_head_mask(self, site: Path, browser: Browser) -> None:
        with visiting(browser, site.as_uri()) as page:
            page.goto(f"{(site / 'index.html').as_uri()}")
            page.fill("input[name=q]", "head_mask")
            page.keyboard.press("Enter")
            page.wait_for_selector("#search-results li a")
            found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
            assert any("transformers4.html" in link for link in found), found

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("name", ["index", "start", "pictures", "speed", "serving"])
    def test_anybody_can_read_it(self, name: str, scheme: str, site: Path, browser: Browser) -> None:
        with visiting(browser, site.as_uri(), color_scheme=scheme) as page:
            page.goto((site / f"{name}.html").as_uri())
            found = faults(page)
            assert not found, "\n".join(found)

    def test_on_a_phone_nothing_is_wider_than_the_window(self, site: Path, browser: Browser) -> None:
        with visiting(browser, site.as_uri(), viewport=PHONE) as page:
            for name in ("index", "start", "transformers4", "speed"):
                page.goto((site / f"{name}.html").as_uri())
                assert not scrolls_sideways(page), name
