"""The page's scripts in a real browser, with a server that a test answers for: what is asked when, and what people read
where something is not as it should be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from chromium import chromium, visiting
from serving import plain, until

pytest.importorskip("starlette", reason="needs the extra serve")

from vit_hybrid.serve.pages import FOLDER, MEDIA_TYPES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Route

ORIGIN = "http://localhost:8000"  # where nobody listens: no request leaves the browser
MODEL = {
    **{"name": "mine", "labels": ["a", "b", "c"], "problem_type": "single_label_classification", "card": None},
    **{"image_size": {"height": 24, "width": 40}, "engine": "onnx", "precision": "bf16", "calibrated": False},
    **{"package_version": "1.2.3", "limits": {"body_bytes": 3 << 19}},
}
TIMING = {"queue_ms": 1, "decode_ms": 2, "model_ms": 9}
PREDICTIONS = [{"label": "a", "probability": 0.75}, {"label": "b", "probability": 0.25}]
SAID = {"pictures": [{"path": "image 1", "predictions": PREDICTIONS}], "timing": TIMING}
MAP = {"label": "a", "layer": None, "head": None, "is_empty": False, "map": [[0, 2]]}
EXPLAINED = {"size": {"height": 50, "width": 100}, "seen": [0, 0, 80, 50], "layers": 3, "maps": [MAP], "note": None}
# Timers are over at once, and what they were to wait is kept.
TIMERS = """
window.delays = [];
const timer = window.setTimeout;
window.setTimeout = (action, milliseconds) => { window.delays.push(milliseconds); return timer(action, 0); };
"""

Answer = tuple[int, dict[str, str], Any]


def good(request: Request) -> Answer:
    return 200, {}, SAID


def refusal(status: int, detail: str, **headers: str) -> Answer:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"detail": detail}


class Scripted:
    """A server.

    Attributes:
        answers: What it answers, by the last part of a path; None of it holds the request.
        asked: What it was asked: the path with its query, the key, the type and the body.
        held: Requests that wait for their answer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Request], Answer | None]] = {
            "model": lambda _: (200, {}, MODEL),
            "settings.json": lambda _: (200, {}, {"needs_key": False, "heat_colors": None}),
            "classify": good,
        }
        self.asked: list[tuple[str, str | None, str | None, bytes | None]] = []
        self.held: list[Route] = []

    def __call__(self, route: Route) -> None:
        request = route.request
        parts = urlsplit(request.url)
        name = parts.path.rpartition("/")[2] or "home.html"
        if name not in self.answers:
            file = FOLDER / (f"{name}.html" if name == "docs" else name)
            route.fulfill(body=file.read_bytes(), content_type=MEDIA_TYPES[file.suffix])
            return
        if "/v1/" in parts.path:
            told = f"{name}?{parts.query}" if parts.query else name
            headers = request.headers
            self.asked.append(
                (told, headers.get("authorization"), headers.get("content-type"), request.post_data_buffer)
            )
        answer = self.answers[name](request)
        if answer is None:
            self.held.append(route)
        elif answer[0] == 0:
            route.abort()
        else:
            fulfill(route, answer)


def fulfill(route: Route, answer: Answer) -> None:
    status, headers, content = answer
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    route.fulfill(status=status, headers={"content-type": "application/json", **headers}, body=body)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def server() -> Scripted:
    return Scripted()


@contextmanager
def visit(browser: Browser, server: Scripted, path: str = "/", script: str = TIMERS, **how: Any) -> Iterator[Page]:
    folder, _, name = path.rpartition("/")
    with visiting(browser, ORIGIN + folder, **how) as page:  # that of a proxy, to whom all else there is another's
        page.route("**/*", server)
        page.add_init_script(script)
        page.goto(ORIGIN + path)
        if not name:
            page.wait_for_function("!document.getElementById('model-line').textContent.startsWith('Asking')")
        yield page


def file(name: str, kind: str = "image/png", content: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": kind, "buffer": plain("#20c040") if content is None else content}


def status(page: Page) -> str:
    return page.get_by_role("status").inner_text()


def article(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def drop(page: Page, files: Sequence[dict[str, Any]]) -> None:
    given = [[one["name"], one["mimeType"], base64.b64encode(one["buffer"]).decode()] for one in files]
    page.evaluate(
        """(given) => {
          const dataTransfer = new DataTransfer();
          for (const [name, type, text] of given) {
            dataTransfer.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name, { type }));
          }
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        given,
    )


def test_what_is_no_picture_or_too_large_is_not_sent(browser: Browser, server: Scripted) -> None:
    large = file("large.png", content=bytes((3 << 19) + 1))
    with visit(browser, server) as page:
        page.set_input_files("#files", [file("notes.txt", "text/plain", b"words"), large])
        assert status(page) == "notes.txt is no picture. large.png is too large: this server takes 1.5 MB."
        assert page.locator("#answers").is_hidden()
        assert page.locator("#history").is_hidden()
        whole = file("whole.png", content=bytes(3 << 19))
        drop(page, [whole, file("", ""), file("picture.heic", "")])  # of a type that the browser does not know
        for name in ("whole.png", "picture 2", "picture.heic"):
            article(page, name).get_by_text("Answered in 12 ms, of which the model took 9.").wait_for()
        assert page.locator("#answers").is_visible()
    sent = [one for one in server.asked if one[0] != "model"]
    assert {one[0] for one in sent} == {"classify?top_k=10"}
    assert sorted(str(one[2]) for one in sent) == [*["application/octet-stream"] * 2, "image/png"]
    assert {one[3] for one in sent} == {whole["buffer"], plain("#20c040")}


def test_four_are_asked_about_at_once_and_who_is_forgotten_is_not(browser: Browser, server: Scripted) -> None:
    server.answers["classify"] = lambda _: None
    with visit(browser, server) as page:
        page.set_input_files("#files", [file(f"{number}.png") for number in range(7)])
        until(lambda: page.wait_for_timeout(20) or len(server.held) == 4, "not four are asked")
        page.wait_for_timeout(100)
        assert len(server.held) == 4
        assert article(page, "6.png").get_attribute("aria-busy") == "true"
        fulfill(server.held[0], (200, {}, SAID))
        until(lambda: page.wait_for_timeout(20) or len(server.held) == 5, "no further one is asked")
        assert article(page, "0.png").get_attribute("aria-busy") == "false"
        page.get_by_role("button", name="Forget all").click()
        assert status(page) == "All pictures of this visit are forgotten."
        for route in server.held[1:]:
            fulfill(route, (200, {}, SAID))
        page.wait_for_timeout(100)
        assert (len(server.held), page.get_by_role("article").count()) == (5, 0)
        assert page.locator("#history").is_hidden()


def test_twelve_stand_beside_each_other_the_newest_first(browser: Browser, server: Scripted) -> None:
    with visit(browser, server) as page:
        for numbers in (range(10), range(10, 14)):
            page.set_input_files("#files", [file(f"{number}.png") for number in numbers])
        names = [one.get_attribute("aria-label") for one in page.get_by_role("article").all()]
        assert names == [f"{number}.png" for number in (*range(10, 14), *range(2, 10))]
        kept = page.locator("#past button")
        pressed = [one.get_attribute("aria-pressed") for one in kept.all()]
        assert pressed == ["false"] * 2 + ["true"] * 12
        kept.nth(0).get_by_text("a, 75 %").wait_for()
        kept.nth(0).click()
        assert page.get_by_role("article").first.get_attribute("aria-label") == "0.png"


def test_a_server_that_is_busy_is_asked_again_when_it_says(browser: Browser, server: Scripted) -> None:
    busy = [refusal(503, "too many pictures are waiting", Retry_After=seconds) for seconds in ("3", "600")]
    answers = iter([*busy, (200, {}, SAID), *busy[:1] * 4, (200, {}, SAID)])
    server.answers["classify"] = lambda _: next(answers)
    with visit(browser, server, expected=["503"]) as page:
        page.set_input_files("#files", file("a.png"))
        article(page, "a.png").get_by_text("Answered in").wait_for()
        assert page.evaluate("delays.filter((one) => one > 1000)") == [3000, 10_000]
        page.set_input_files("#files", file("b.png"))
        article(page, "b.png").get_by_text("No answer: too many pictures are waiting.").wait_for()
        assert page.evaluate("delays.filter((one) => one > 1000)") == [3000, 10_000, *[3000] * 3]
        assert status(page) == "b.png: too many pictures are waiting"
        assert page.locator("#past .short").all_inner_texts() == ["a, 75 %", "no answer"]
        page.get_by_role("button", name="Ask again").click()
        article(page, "b.png").get_by_text("Answered in").wait_for()
        assert page.locator("#past .short").all_inner_texts() == ["a, 75 %"] * 2


@pytest.mark.parametrize(
    ("answer", "words", "complaint"),
    [
        (refusal(429, "this key may send 6 a minute", Retry_After="7"), "6 a minute; again in 7 seconds.", "429"),
        (refusal(429, "this key may send 6 a minute"), "this key may send 6 a minute.", "429"),
        (refusal(503, "it ended"), "it ended.", "503"),
        (refusal(500, "the model failed", Retry_After="7"), "the model failed.", "500"),
        ((502, {}, b"<html>"), "the server answered 502.", "502"),
        ((0, {}, None), "the server does not answer.", "ERR_FAILED"),
    ],
)
def test_why_there_is_no_answer(answer: Answer, words: str, complaint: str, browser: Browser, server: Scripted) -> None:
    server.answers["classify"] = lambda _: answer
    with visit(browser, server, expected=[complaint]) as page:
        page.set_input_files("#files", file("a.png"))
        said = article(page, "a.png").locator(".alarm")
        said.wait_for()
        assert said.inner_text().startswith("No answer: ")
        assert said.inner_text().endswith(words)
        assert page.evaluate("delays.filter((one) => one > 1000)") == []
        page.get_by_label("Labels of each").select_option("3")
        assert said.inner_text().endswith(words)
        shown = article(page, "a.png").locator("pre").text_content() or ""
        assert f"{ORIGIN}/v1/classify?top_k=3" in shown
        assert "Authorization" not in shown


def test_a_key_is_asked_for_again_and_what_was_refused_for_it_is_sent(browser: Browser, server: Scripted) -> None:
    keys = {"Bearer first"}

    def guarded(answer: Any) -> Callable[[Request], Answer]:
        return lambda request: (
            (200, {}, answer) if request.headers.get("authorization") in keys else refusal(401, "send a key")
        )

    server.answers |= {"model": guarded(MODEL), "classify": guarded(SAID)}
    server.answers["settings.json"] = lambda _: (200, {}, {"needs_key": True, "heat_colors": None})
    with visit(browser, server, expected=["401"]) as page:
        assert server.asked == []
        assert page.locator("#key-said").inner_text().startswith("It is kept until")
        assert page.locator("#key").get_attribute("aria-invalid") is None
        for key in ("k\u00e9y", "two words"):
            page.locator("#key").fill(key)
            page.get_by_role("button", name="Use it").click()
            page.get_by_text("This is none of the server's keys.").wait_for()
        assert server.asked == []  # no header can have it
        page.locator("#key").fill(" first ")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("mine answers, which has 3 labels.").wait_for()
        assert page.locator("#key-form").is_hidden()
        assert page.locator("#key").input_value() == ""
        keys.clear()
        page.set_input_files("#files", file("a.png"))
        article(page, "a.png").get_by_text("No answer: send a key.").wait_for()
        assert page.locator("#key-said").inner_text() == "send a key"
        assert page.locator("#key").get_attribute("aria-invalid") is not None
        assert page.locator("#model-line").inner_text() == "The server says which model it has once it has a key."
        keys.add("Bearer second")
        page.locator("#key").fill("second")
        page.keyboard.press("Enter")
        article(page, "a.png").get_by_text("Answered in").wait_for()
    assert [one[:2] for one in server.asked] == [
        *(("model", "Bearer first"), ("classify?top_k=10", "Bearer first")),
        *(("model", "Bearer second"), ("classify?top_k=10", "Bearer second")),
    ]


@pytest.mark.parametrize(
    ("model", "calibration"),
    [
        ({}, "It was not calibrated: how often"),
        ({"calibrated": True}, "It was calibrated: its percentages were fitted on"),
        ({"problem_type": "regression"}, ""),
    ],
)
def test_what_the_model_is(model: dict[str, Any], calibration: str, browser: Browser, server: Scripted) -> None:
    server.answers["model"] = lambda _: (200, {}, {**MODEL, **model})
    with visit(browser, server) as page:
        terms, texts = (page.locator(f"#facts {name}").all_inner_texts() for name in ("dt", "dd"))
        assert terms == ["name", "labels", "sees", "runs in", "package"]
        assert texts == ["mine", "3", "40 \u00d7 24 pixels of each picture", "onnx, bf16", "vit-hybrid 1.2.3"]
        assert (page.locator("#calibration").text_content() or "").startswith(calibration)
        assert page.locator("#calibration").text_content() or not calibration
        assert page.locator("#labels summary").inner_text() == "All 3 labels"
        assert page.locator("#labels p").text_content() == "a, b, c"
        assert (page.locator("#card").text_content() or "").startswith("It came without a card")


def test_where_the_server_does_not_say_what_it_has_that_is_said(browser: Browser, server: Scripted) -> None:
    server.answers |= {"model": lambda _: refusal(500, "it fails"), "settings.json": lambda _: (404, {}, b"nothing")}
    with visit(browser, server, expected=["500", "404"]) as page:
        assert page.locator("#model-line").inner_text() == "The server does not say which model it has: it fails."
        assert page.locator("#model").is_hidden()
        page.set_input_files("#files", file("a.png"))
        article(page, "a.png").get_by_text("Answered in").wait_for()


def test_what_it_looked_at(browser: Browser, server: Scripted) -> None:
    of_no_label = {**EXPLAINED, "maps": [{**MAP, "label": None}]}
    empty = {**MAP, "label": "b", "map": [[1, 1]], "is_empty": True}
    answers = {
        "method=relevance&label=a": {**EXPLAINED, "note": "explained by its twin"},
        "method=relevance&label=b": {**EXPLAINED, "seen": [0, 0, 100, 50], "maps": [empty]},
        "method=rollout": {**of_no_label, "seen": [20, 0, 100, 50]},
        "method=attention&layer=3": {**of_no_label, "seen": [0, 10, 100, 50]},
        "method=attention&layer=1": {**of_no_label, "seen": [0, 0, 100, 40]},
    }
    server.answers["settings.json"] = lambda _: (200, {}, {"heat_colors": [[0, 0, 0], [0, 100, 0], [200, 100, 0]]})

    def explain(request: Request) -> Answer:
        query = urlsplit(request.url).query
        return (200, {}, answers[query]) if query in answers else refusal(422, "this cannot be asked")

    server.answers["explain"] = explain
    with visit(browser, server, "/behind/a/proxy/", expected=["422"]) as page:
        page.set_input_files("#files", file("a.png"))
        shown = article(page, "a.png")
        shown.get_by_text("What did it look at?").click()
        said, canvas = shown.locator(".looked"), shown.locator("canvas")

        def wait_for(words: str) -> None:
            until(lambda: page.wait_for_timeout(20) or said.inner_text() == words, words)

        wait_for("Bright: what speaks for “a”. Dark at the edge: what it did not see. Explained by its twin.")
        pixels = canvas.evaluate(
            """(canvas) => {
              const copy = document.createElement("canvas");
              [copy.width, copy.height] = [canvas.width, canvas.height];
              const context = copy.getContext("2d", { willReadFrequently: true });
              context.drawImage(canvas, 0, 0);
              const at = (x) => [...context.getImageData(x, 25, 1, 1).data];
              return [canvas.width, canvas.height, at(90), at(2), at(78)];
            }"""
        )
        assert pixels[:2] == [100, 50]
        assert pixels[2] == pytest.approx([0, 0, 0, 128], abs=1)  # what it did not see
        assert pixels[3][3] < 20  # nothing, in the least cell
        assert pixels[4] == pytest.approx([200, 100, 0, 255], abs=12)
        assert shown.get_by_role("slider", name="Layer").is_hidden()
        shown.get_by_label("for").select_option("b")
        wait_for("Nothing in the picture speaks for “b”.")
        shown.get_by_label("Shown by").select_option("rollout")
        bright = "Bright: where it looked, whatever it said. Dark at the edge: what it did not see."
        wait_for(bright)
        assert shown.get_by_label("for", exact=True).is_hidden()
        layer = shown.get_by_role("slider", name="Layer")
        for key, number in ((None, 3), ("Home", 1)):
            said.evaluate("(said) => { said.textContent = ''; }")
            if key is None:
                shown.get_by_label("Shown by").select_option("attention")
            else:
                layer.press(key)
            wait_for(bright)
            assert layer.input_value() == shown.locator("output").inner_text() == str(number)
        shown.get_by_label("Shown by").select_option("relevance")
        wait_for("Nothing in the picture speaks for “b”.")  # which it keeps
        shown.get_by_label("Shown by").select_option("legrad")
        wait_for("No answer: this cannot be asked.")
        assert canvas.is_hidden()
        shown.get_by_label("for").select_option("a")
        wait_for("No answer: this cannot be asked.")
        shown.get_by_label("Shown by").select_option("relevance")
        canvas.wait_for()
    asked = [one[0].partition("?")[2] for one in server.asked if one[0].startswith("explain")]
    assert asked == [*answers, "method=legrad&label=b", "method=legrad&label=a"]


def test_a_command_that_no_program_may_copy_is_selected(browser: Browser, server: Scripted) -> None:
    script = "navigator.clipboard.writeText = () => Promise.reject(new Error('no')); document.execCommand = () => may;"
    with visit(browser, server, script=f"{TIMERS} window.may = false; {script}") as page:
        page.set_input_files("#files", file("a.png"))
        article(page, "a.png").get_by_text("Answered in").wait_for()
        page.get_by_text("Ask from a terminal").click()
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("The command is selected: copy it with the keyboard.").wait_for()
        assert page.evaluate("getSelection().toString()").startswith("curl ")
        page.evaluate("window.may = true; window.setTimeout = () => 0")  # so that it stays
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert status(page) == "The command is copied."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotAllowedError", "The browser does not let this page use the camera."),
        ("NotFoundError", "There is no camera here."),
        ("NotReadableError", "Another program is using the camera."),
        ("TypeError", "The camera cannot be used."),
    ],
)
def test_why_there_is_no_camera(error: str, words: str, browser: Browser, server: Scripted) -> None:
    script = f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', '{error}'));"
    with visit(browser, server, script=script) as page:
        page.get_by_role("button", name="Use the camera").click()
        page.get_by_text(words).wait_for()
        assert page.get_by_role("dialog").count() == 0


def test_without_a_camera_of_the_page_the_devices_own_is_asked(browser: Browser, server: Scripted) -> None:
    script = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
    with visit(browser, server, script=script) as page:
        for number in (1, 2):  # the same again
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Use the camera").click()
            chooser.value.set_files(file("shot.png"))
            until(lambda number=number: page.wait_for_timeout(20) or page.get_by_role("article").count() == number, "")


def test_the_page_shows_where_files_may_be_dropped(browser: Browser, server: Scripted) -> None:
    with visit(browser, server) as page:
        steps = page.evaluate(
            """() => {
              const files = new DataTransfer(), text = new DataTransfer();
              files.items.add(new File(["x"], "a.png"));
              text.setData("text/plain", "words");
              const after = (kind, dataTransfer) => {
                const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
                document.body.dispatchEvent(event);
                return [document.body.classList.contains("dragging"), event.defaultPrevented];
              };
              return [
                after("dragenter", text), after("dragleave", text),
                after("dragenter", files), after("dragenter", files), after("dragover", files),
                after("dragleave", files), after("dragleave", files),
                after("dragenter", files), after("drop", text), after("dragenter", files), after("dragleave", files),
              ];
            }"""
        )
        dragging = [False, False, True, True, True, True, False, True, False, True, False]
        assert [one[0] for one in steps] == dragging
        assert [one[1] for one in steps] == [place in (4, 8) for place in range(11)]  # else the page would go


def test_shares_and_sets_in_words(browser: Browser, server: Scripted) -> None:
    shares = [0, 0.0004, 0.001, 0.0312, 0.1, 0.424, 0.99, 0.9991, 1]
    words = ["0.0 %", "< 0.1 %", "0.1 %", "3.1 %", "10 %", "42 %", "99 %", "> 99.9 %", "100 %"]
    several = [{"label": letter, "probability": 0.1} for letter in "abcdefgh"]
    with visit(browser, server) as page:
        percent = "async (all) => { const { percent } = await import('/page/answer.js'); return all.map(percent); }"
        assert page.evaluate(percent, shares) == words
        said = """async ([answer, count]) => {
          const { answerElements } = await import("/page/answer.js");
          return answerElements(answer, count, "").map((one) => one.textContent);
        }"""
        sure = {"timing": TIMING, "predictions": several, "coverage": 0.9}
        two = page.evaluate(said, [{**sure, "set": ["a", "c"]}, 3])
        assert two[1:3] == [
            "With 90 % confidence it is one of these: “a” or “c”.",
            "a✓in the set10 %b10 %c✓in the set10 %",
        ]
        six, seven = (page.evaluate(said, [{**sure, "set": [*"abcdefgh"[:count]]}, 1]) for count in (6, 7))
        assert six[1].endswith("it is one of these: “a”, “b”, “c”, “d”, “e” or “f”.")
        assert seven[1].endswith("it is one of 7 labels: the picture leaves much open.")
        assert seven[2] == "These 7a, b, c, d, e, f, g"


@pytest.mark.parametrize("folder", ["", "/behind/a/proxy"])
def test_the_description_and_that_it_cannot_be_read(folder: str, browser: Browser, server: Scripted) -> None:
    content = {"image/*": {"schema": {"format": "binary"}}, "a/b": {"example": {"c": [1]}}, "d": {"schema": {"e": 2}}}
    responses = {"200": {"description": "Good", "content": {"x": {"example": "said"}}}, "404": {"description": "None"}}
    parameters = [{"name": "p", "description": "Of it."}, {"name": "q", "schema": {"description": "Of that."}}]
    route = {"summary": "What", "description": "More.", "parameters": parameters}
    post = {**route, "requestBody": {"content": content}, "responses": responses}
    get = {"summary": "Which", "responses": {"200": {"description": "This"}}}
    answers: Iterator[Answer] = iter(
        [(200, {}, {"paths": {"/v1/x": {"post": post, "get": get}}}), (200, {}, b"<html>")]
    )
    server.answers["openapi.json"] = lambda _: next(answers)
    with visit(browser, server, f"{folder}/docs") as page:
        page.get_by_role("heading", name="GET /v1/x").wait_for()
        texts = page.locator("section").first.locator("> *").all_text_contents()
        assert texts == [
            *("POST /v1/x", "What", "More.", "Parameters", "pOf it.qOf that.", "Body: image/*", "the picture's file"),
            *("Body: a/b", '{\n  "c": [\n    1\n  ]\n}', "Body: d", '{\n  "e": 2\n}'),
            *("Answers", "200Good404None", "said"),
        ]
        texts = page.locator("section").nth(1).locator("> *").all_text_contents()
        assert texts == ["GET /v1/x", "Which", "Answers", "200This"]
        assert page.locator("#operations").get_attribute("aria-busy") is None
        page.reload()
        page.get_by_text("The description could not be read.").wait_for()
