"""The server's pages in a real browser, with models behind them: the one in the package, and a tiny one that was
calibrated, has no card, and is asked with a key."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import DESK, PHONE, chromium, faults, scrolls_sideways, visiting
from made_confidence import calibrated_copy
from serving import Server, photo, running, until

from vit_hybrid.assets import BUILT_IN_FOLDER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

EXAMPLES = Path(__file__).parents[2] / "examples"
CAT, COFFEE = EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"
KEY = "CyKvPpgzHw4nE2rNq7dN"
TORCH = ("--engine", "torch", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(*camera) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with running(*TORCH) as server:
        yield server


@pytest.fixture(scope="module")
def calibrated(browser: Browser, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = calibrated_copy(tiny_folder, tmp_path_factory.mktemp("served") / "calibrated")
    (folder.parent / "keys").write_text(f"ann {KEY}\n")
    keys = ("--api-key-file", str(folder.parent / "keys"))
    with running(str(folder), *TORCH, *keys, "--false-alarms", "0.5") as server:
        yield server


@contextmanager
def home(browser: Browser, server: Server, **context: Any) -> Iterator[Page]:
    """The page, once it knows the model."""
    origin = f"http://127.0.0.1:{server.port}"
    with visiting(browser, origin, **context) as page:
        page.on("filechooser", lambda chooser: None)  # from the start, or one may open before playwright looks
        page.goto(f"{origin}/")
        page.get_by_role("heading", name="The model").wait_for()
        yield page


def labels(server: Server, picture: bytes, **headers: str) -> list[str]:
    """What the server says of a picture where it is asked without the page."""
    [told] = server.post("/v1/classify", picture, **headers).json["pictures"]
    return [one["label"] for one in told["predictions"]]


def read(page: Page, name: str) -> list[str]:
    """The labels that the page shows of a picture, once it has them."""
    ranking = page.get_by_role("article", name=name).get_by_role("list").last
    ranking.get_by_role("listitem").first.wait_for()
    return ranking.locator(".label").all_inner_texts()


def transfer(page: Page, files: Sequence[tuple[str, str, bytes]]) -> Any:
    """What a browser hands on where files (name, type, content) are dropped or pasted."""
    given = [[name, kind, base64.b64encode(content).decode()] for name, kind, content in files]
    return page.evaluate_handle(
        """(given) => {
          const made = new DataTransfer();
          for (const [name, type, text] of given) {
            made.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name, { type }));
          }
          return made;
        }""",
        given,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_picked(browser: Browser, server: Server, scheme: str) -> None:
    with home(browser, server, color_scheme=scheme) as page:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Pick pictures").click()
        chooser.value.set_files([CAT, COFFEE])
        assert read(page, "cat.jpg") == labels(server, CAT.read_bytes())
        assert read(page, "coffee.jpg") == labels(server, COFFEE.read_bytes())
        cat, coffee = (page.get_by_role("article", name=name).bounding_box() for name in ("cat.jpg", "coffee.jpg"))
        assert cat is not None
        assert coffee is not None
        assert cat["y"] == coffee["y"]  # side by side
        assert cat["x"] + cat["width"] <= coffee["x"]
        bars = page.get_by_role("article", name="cat.jpg").locator(".bar")
        widths = bars.evaluate_all("(bars) => bars.map((bar) => bar.getBoundingClientRect().width)")
        [told] = server.post("/v1/classify", CAT.read_bytes()).json["pictures"]
        shares = [one["probability"] for one in told["predictions"]]
        assert [width / widths[0] for width in widths] == pytest.approx(
            [share / shares[0] for share in shares], abs=0.02
        )
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            assert not scrolls_sideways(page)
            assert not faults(page)


def test_a_picture_is_dropped(browser: Browser, server: Server) -> None:
    with home(browser, server) as page:
        dropped = transfer(page, [("notes.txt", "text/plain", b"words"), ("cat.jpg", "image/jpeg", CAT.read_bytes())])
        page.dispatch_event("main", "dragenter", {"dataTransfer": dropped})
        assert "dragging" in (page.get_attribute("body", "class") or "")
        page.dispatch_event("main", "drop", {"dataTransfer": dropped})
        assert read(page, "cat.jpg") == labels(server, CAT.read_bytes())
        assert page.get_by_role("article").count() == 1
        page.dispatch_event("main", "drop", {"dataTransfer": transfer(page, [])})
        page.get_by_text("Only files can be dropped here").wait_for()


def test_a_picture_is_pasted(browser: Browser, server: Server) -> None:
    with home(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.evaluate(
            """async (address) => {
              const image = new Image();
              image.src = address;
              await image.decode();
              const canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [image.width, image.height];
              canvas.getContext("2d").drawImage(image, 0, 0);
              const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
              await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
            }""",
            f"data:image/jpeg;base64,{base64.b64encode(CAT.read_bytes()).decode()}",
        )
        page.keyboard.press("Control+V")
        assert read(page, "image.png")[0] == labels(server, CAT.read_bytes())[0]
        page.evaluate("navigator.clipboard.writeText('words')")
        page.keyboard.press("Control+V")
        page.get_by_text("There is no picture to paste.").wait_for()


def test_a_picture_is_taken(browser: Browser, server: Server) -> None:
    with home(browser, server) as page:
        page.get_by_role("button", name="Use the camera").click()
        page.wait_for_selector("video:not([src])")
        page.get_by_role("dialog").wait_for()
        assert not faults(page)
        page.get_by_role("button", name="Take the picture").click()  # which waits until it can be pressed
        assert len(read(page, "camera-1.jpg")) == 5
        assert not page.get_by_role("dialog").is_visible()
        assert page.evaluate("document.querySelector('video').srcObject") is None  # its light is off


def test_by_keyboard_alone_with_the_visit_at_hand(browser: Browser, server: Server) -> None:
    def focused() -> str:
        return page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText")

    with home(browser, server) as page:
        page.keyboard.press("Tab")
        assert focused() == "Pick pictures"
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(CAT)
        first = labels(server, CAT.read_bytes())
        read(page, "cat.jpg")
        [told] = server.post("/v1/classify", CAT.read_bytes()).json["pictures"]
        verdict = "none of these" if told.get("none_of_these") else rf"{first[0]}, \d+ %"
        assert re.fullmatch(rf"cat\.jpg: {verdict}", page.get_by_role("status").inner_text())  # as it is heard
        for _ in range(3):
            page.keyboard.press("Tab")
        assert focused() == "Put away cat.jpg"
        page.keyboard.press("Enter")
        assert page.get_by_role("article").count() == 0
        kept = page.get_by_role("button", name=re.compile("^cat.jpg"))
        assert kept.get_attribute("aria-pressed") == "false"
        assert "cat.jpg" in focused()  # the list of this visit has it still, and the focus
        page.keyboard.press("Space")
        assert kept.get_attribute("aria-pressed") == "true"
        assert read(page, "cat.jpg") == first
        page.get_by_label("Labels of each").select_option("3")
        assert read(page, "cat.jpg") == first[:3]
        page.get_by_role("button", name="Forget all").press("Enter")
        assert kept.count() == 0
        assert focused() == "Pick pictures"


def over(page: Page) -> tuple[float, list[int]]:
    """How opaque the map over the first picture is, and the sums of its red, green, blue and opacity."""
    opacity, *sums = page.locator("canvas").first.evaluate(
        """(canvas) => {
          const copy = document.createElement("canvas");
          [copy.width, copy.height] = [canvas.width, canvas.height];
          const context = copy.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const { data } = context.getImageData(0, 0, copy.width, copy.height);
          const sums = [0, 0, 0, 0];
          data.forEach((value, place) => { sums[place % 4] += value; });
          return [Number(getComputedStyle(canvas).opacity), ...sums];
        }"""
    )
    return opacity, sums


def test_what_it_looked_at_lies_over_the_picture(browser: Browser, server: Server) -> None:
    with home(browser, server) as page:
        page.set_input_files("#files", CAT)
        read(page, "cat.jpg")
        article = page.get_by_role("article", name="cat.jpg")
        assert not article.locator("canvas").is_visible()
        article.get_by_text("What did it look at?").click()
        article.get_by_text("Bright: what speaks for").wait_for(timeout=60_000)
        image, canvas = article.locator("img").bounding_box(), article.locator("canvas").bounding_box()
        assert image == canvas
        opacity, relevance = over(page)
        assert opacity == pytest.approx(0.8)
        assert relevance[0] > relevance[2] > 0  # the colors of heat
        slider = article.get_by_role("slider", name="Strength")
        slider.focus()
        slider.press("Home")
        assert over(page) == (0, relevance)
        slider.press("PageUp")
        assert 0 < over(page)[0] < 0.5
        slider.press("End")
        assert over(page)[0] == 1
        second = article.get_by_label("for").locator("option").nth(1).inner_text()
        article.get_by_label("for").select_option(second)
        article.get_by_text(f"“{second}”").wait_for()
        assert over(page)[1] != relevance
        article.get_by_label("Shown by").select_option("attention")
        article.get_by_text("Bright: where it looked").wait_for()
        assert article.get_by_role("slider", name="Layer").get_attribute("max") == "2"
        last = over(page)[1]
        article.get_by_role("slider", name="Layer").press("Home")
        assert article.locator("output").inner_text() == "1"
        until(lambda: page.wait_for_timeout(20) or over(page)[1] != last, "the map stays as it was")
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            assert not scrolls_sideways(page)
            assert not faults(page)
            assert article.locator("img").bounding_box() == article.locator("canvas").bounding_box()
        article.get_by_text("What did it look at?").click()
        article.locator("canvas").wait_for(state="hidden")


def test_the_command_that_is_copied_asks_the_same(browser: Browser, server: Server, tmp_path: Path) -> None:
    named = tmp_path / "it's a $cat.jpg"
    shutil.copy(CAT, named)
    with home(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.set_input_files("#files", named)
        shown = read(page, named.name)
        page.get_by_text("Ask from a terminal").click()
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [one["label"] for one in json.loads(done.stdout)["pictures"][0]["predictions"]] == shown


def test_the_program_of_the_guide(browser: Browser, server: Server) -> None:
    guide = (EXAMPLES.parent / "docs" / "serving.md").read_text()
    [program] = re.findall(r"^```javascript\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    origin = f"http://127.0.0.1:{server.port}"
    with visiting(browser, origin) as page:
        page.goto(f"{origin}/docs")
        page.evaluate("document.body.append(Object.assign(document.createElement('input'), { type: 'file' }))")
        page.set_input_files("input", CAT)
        with page.expect_console_message() as said:
            page.evaluate(f"async () => {{ {program.replace('http://127.0.0.1:8000', origin)} }}")
        predictions = said.value.args[0].json_value()
    assert [one["label"] for one in predictions] == labels(server, CAT.read_bytes())[:3]


def test_what_the_model_is_and_where_it_is_weak(browser: Browser, server: Server) -> None:
    card = (BUILT_IN_FOLDER / "README.md").read_text()
    beginnings = {head: text[:30] for head, text in re.findall(r"^## (.*)\n\n(\w.*)", card, re.MULTILINE)}
    [share, *_] = re.findall(r"\| (\d+\.\d+ %) \|", card)
    with home(browser, server) as page:
        told = page.get_by_role("region", name="The model")
        assert "It was calibrated" in told.inner_text() or "It was not calibrated" in told.inner_text()
        assert told.get_by_text("A small Hybrid Vision Transformer").is_visible()
        assert told.get_by_text(beginnings["What it knows"]).is_visible()
        assert told.get_by_role("cell", name=share).first.is_visible()  # of its accuracy
        assert not told.get_by_text(beginnings["Data and its terms"]).is_visible()
        told.get_by_role("heading", name="Data and its terms").click()
        assert told.get_by_text(beginnings["Data and its terms"]).is_visible()


def test_a_picture_that_cannot_be_read(browser: Browser, server: Server) -> None:
    with home(browser, server, expected=["415"]) as page:
        page.set_input_files("#files", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"words"}])
        page.get_by_text("No answer: image 1: is not a picture").wait_for()
        assert page.get_by_role("button", name="Ask again").is_visible()
        assert page.get_by_text("This browser cannot show the picture.").is_visible()


def test_a_key_is_asked_for_and_confidence_is_said_in_words(browser: Browser, calibrated: Server) -> None:
    origin = f"http://127.0.0.1:{calibrated.port}"
    with visiting(browser, origin) as page:
        page.goto(origin)
        page.get_by_label("This server needs an API key").wait_for()
        assert not faults(page)
        page.keyboard.type(KEY)  # it has the focus
        page.keyboard.press("Enter")
        page.get_by_text("It was calibrated").wait_for()
        assert page.get_by_text("It came without a card").is_visible()
        pictures = [photo(seed) for seed in range(4)]
        page.set_input_files(
            "#files",
            [
                {"name": f"{position}.jpg", "mimeType": "image/jpeg", "buffer": picture}
                for position, picture in enumerate(pictures)
            ],
        )
        for position, picture in enumerate(pictures):
            assert read(page, f"{position}.jpg") == labels(calibrated, picture, **{"X-API-Key": KEY})
            article = page.get_by_role("article", name=f"{position}.jpg")
            [told] = calibrated.post("/v1/classify", picture, **{"X-API-Key": KEY}).json["pictures"]
            words = article.inner_text()
            assert "With 90 % confidence" in words
            assert all(f"“{label}”" in words for label in told["set"])
            assert ("Most likely none of the things" in words) == told["none_of_these"]
            assert article.get_by_text("✓").count() == len(told["set"])
            assert "$VIT_HYBRID_API_KEY" in (article.locator("pre").text_content() or "")
        assert not faults(page)
        page.reload()
        page.get_by_text("It was calibrated").wait_for()  # the key is kept for the visit
    with visiting(browser, origin, expected=["401"]) as page:
        page.goto(origin)
        page.get_by_label("This server needs an API key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("This is none of the server's keys.").wait_for()


def test_what_is_said_of_how_sure_an_answer_is(browser: Browser, server: Server) -> None:
    timing = {"queue_ms": 1.0, "decode_ms": 2.0, "model_ms": 9.0}
    predictions = [{"label": f"kind {index}", "probability": 2.0**-index} for index in range(1, 10)]

    def said(problem_type: str = "single_label_classification", **answer: Any) -> str:
        return page.evaluate(
            """async ([answer, kind]) => {
              const { answerElements } = await import("/page/answer.js");
              return answerElements(answer, 3, kind).map((one) => one.textContent).join(" | ");
            }""",
            [{"timing": timing, **answer}, problem_type],
        )

    with home(browser, server) as page:
        plain = said(predictions=predictions)
        assert plain == "kind 1, 50 % | kind 150 %kind 225 %kind 313 % | Answered in 12 ms, of which the model took 9."
        sure = {"coverage": 0.9, "familiarity": 0.43, "none_of_these": False}
        one = said(predictions=predictions, set=["kind 1"], **sure)
        assert "With 90 % confidence it is “kind 1”." in one
        assert "43 % were no more familiar" in one
        three = said(predictions=predictions, set=["kind 1", "kind 2", "kind 3"], **sure)
        assert "it is one of these: “kind 1”, “kind 2” or “kind 3”." in three
        assert "it is one of 9 labels" in said(
            predictions=predictions, set=[each["label"] for each in predictions], **sure
        )
        strange = {"coverage": 0.95, "familiarity": 0.002, "none_of_these": True}
        none = said(predictions=predictions, set=["kind 1"], **strange)
        assert none.startswith("none of these | Most likely none of the things that this model knows.")
        assert "(p = 0.002)" in none
        assert "With 95 % confidence, if it is one of them at all, it is “kind 1”." in none
        assert "Each label has a percentage of its own" in said("multi_label_classification", predictions=predictions)
        values = said("regression", values=[{"label": "age", "value": -41.26}])
        assert values.startswith("age -41.26 | age-41.26 | ")


def test_cards_are_text_and_never_more(browser: Browser, server: Server) -> None:
    card = "\n".join(
        [
            *("---", "license: mit", "---", "# Name", "<!-- no -->It *is* <b>bold</b>.", ""),
            *("## Limits", "| a | b |", "|---|---|", "| `x` | **y** |", "- one", "  more", "- two", ""),
            *("[out](https://example.org/x) [odd](javascript:alert) ![plot](p.png)", "", "---", ""),
            *("## Training", "```sh", "run <it>", "```", "### Deep", "1. first"),
        ]
    )
    with home(browser, server) as page:
        made = page.evaluate(
            """async (card) => {
              const { cardElements } = await import("/page/card.js");
              return cardElements(card).map((one) => one.outerHTML);
            }""",
            card,
        )
    assert made == [
        "<p>It *is* &lt;b&gt;bold&lt;/b&gt;.</p>",
        '<details open=""><summary><h3>Limits</h3></summary>'
        '<div class="table" tabindex="0"><table><tr><th>a</th><th>b</th></tr>'
        "<tr><td><code>x</code></td><td><strong>y</strong></td></tr></table></div>"
        "<ul><li>one more</li><li>two</li></ul>"
        '<p><a href="https://example.org/x" rel="noreferrer">out</a> odd plot</p></details>',
        '<details><summary><h3>Training</h3></summary><pre tabindex="0">run &lt;it&gt;</pre>'
        "<h4>Deep</h4><ol><li>first</li></ol></details>",
    ]


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
