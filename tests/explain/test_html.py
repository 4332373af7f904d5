"""The page of explanations: that it is whole and loads nothing, and in a browser that its sliders move the map."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import PHONE, chromium, faults, scrolls_sideways, visiting
from PIL import Image
from tiny_hybrid import tiny_config, tiny_processor

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain import Explainer, html
from vit_hybrid.explain.drawing import OPACITY, colored, scaled
from vit_hybrid.explain.html import Page

ODD_NAME = "a\"><script src='http://elsewhere.example/x.js'>alert(1)</script>&amp;\udce9.jpg"
ODD_LABEL = "</script><script>document.title = 'taken over'</script>"
VOID = {"meta", "img", "input"}


class Elements(HTMLParser):
    """What is in a page; an element that is not closed, or closed in another's place, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def explained() -> Any:
    """Two labels of a wide picture, of whose middle the model sees a square, and its attention in 2 layers."""
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(tiny_config(id2label={0: "cat", 1: ODD_LABEL, 2: "dog"})).eval()
    with torch.no_grad():
        for parameter in model.vit.encoder.parameters():
            parameter.mul_(20)
    explainer = Explainer(model, tiny_processor())
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    found = explainer.explain(picture, "relevance", [2, 1])
    return found, explainer.heads(found[0].pixels), explainer.explain(picture, "rollout")


@pytest.fixture(scope="module")
def text(explained: Any) -> str:
    found, heads, rollout = explained
    file = io.StringIO()
    page = Page(file, "What <it> looked at")
    page.add(ODD_NAME, found, heads)
    page.add("second.jpg", rollout, heads)
    page.close()
    return file.getvalue()


def test_a_page_is_whole_and_needs_nothing_from_elsewhere(text: str) -> None:
    elements = Elements(text.encode().decode()).found
    assert [tag for tag, _ in elements].count("section") == 2
    for tag, attributes in elements:
        assert tag != "link"
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert "href" not in attributes
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert [script.get("type") for script in scripts] == ["application/json", "application/json", None]
    assert "<title>What &lt;it&gt; looked at</title>" in text
    [policy] = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "http" not in re.sub(r"http-equiv|&#x27;http://elsewhere.example/x.js|http://elsewhere", "", text)


def test_numbers_of_all_maps_are_in_it(text: str, explained: Any) -> None:
    found, heads, _ = explained
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', text)[0])
    assert [one["name"] for one in data["maps"]] == ["relevance: dog", f"relevance: {ODD_LABEL}"]
    assert data["heads"]["shape"] == [2, 3, 4, 4]
    assert heads.shape == (2, 2, 4, 4)
    assert data["seen"] == pytest.approx(list(found[0].view.corners()))
    for one, said in zip(found, data["maps"], strict=True):
        assert (levels_in(said["values"]).reshape(said["shape"]) == np.round(255 * scaled(one.map))).all()
    levels = levels_in(data["heads"]["values"]).reshape(data["heads"]["shape"])
    for layer, shown in zip(heads, levels, strict=True):  # all heads first, then each by itself
        for values, level in zip((layer.mean(0), *layer), shown, strict=True):
            assert np.abs(level - 255 * scaled(values)).max() <= 0.51


def levels_in(values: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(values), np.uint8).astype(int)


def test_a_large_picture_is_shown_smaller_and_what_was_seen_with_it(
    explained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, heads, _ = explained
    monkeypatch.setattr(html, "PICTURE_SIZE", 50)
    file = io.StringIO()
    page = Page(file, "small")
    page.add("a.jpg", found, heads)
    page.close()
    [data] = re.findall(r'<script type="application/json">(.*?)</script>', file.getvalue())
    assert json.loads(data)["seen"] == pytest.approx([side / 2 for side in found[0].view.corners()])
    [content] = re.findall(r'src="data:image/jpeg;base64,(.*?)" width="50" height="30"', file.getvalue())
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (50, 30)


def test_labels_are_told_with_what_the_model_says_and_buttons_where_there_is_a_map(text: str, explained: Any) -> None:
    found, _, _ = explained
    rows = re.findall(r'<tr><td>(.*?)</td><td class="number">(.*?)</td></tr>', text)
    said = {one["label"]: f"{one['probability']:.2%}" for one in found[0].predictions}
    assert [number for _, number in rows[:3]] == [f"{one['probability']:.2%}" for one in found[0].predictions]
    for shown, number in rows[:3]:
        label = unescape(re.sub(r"<[^>]*>", "", shown))
        assert said[label] == number
        assert ("<button" in shown) == (label != "cat")
        assert ('value="0"' in shown) == (label == "dog")


def test_a_map_of_no_label_has_a_button_and_so_has_a_label_beyond_the_first(explained: Any, text: str) -> None:
    found, heads, _ = explained
    second = text.split("<section>")[2]
    assert '<p><button type="button" value="0" aria-pressed="false">rollout</button></p>' in second
    assert second.count("<button") == 1
    assert "<p></p>" in text.split("<section>")[1]
    said = [{"label": f"l{number}", "value": 0.5 + number} for number in range(7)]
    large = Image.new("RGB", (1024, 16))
    many = [
        replace(one, predictions=said, label=label, picture=large)
        for one, label in zip(found, ("l6", "l1"), strict=True)
    ]
    file = io.StringIO()
    Page(file, "many").add("a.jpg", many, heads[:1])
    rows = re.findall(r'<tr><td>(.*?)</td><td class="number">(.*?)</td></tr>', file.getvalue())
    assert [number for _, number in rows] == ["0.5", "1.5", "2.5", "3.5", "4.5", "6.5"]
    shown = [re.findall(r'value="(\d)".*>(l\d)<', row) for row, _ in rows]
    assert shown == [[], [("1", "l1")], [], [], [], [("0", "l6")]]
    assert file.getvalue().count('width="512" height="8"') == 2
    assert 'max="1" value="1"' in file.getvalue()  # layers
    assert 'min="0" max="2" value="0"' in file.getvalue()  # heads, and all of them
    file = io.StringIO()
    page = Page(file, "odd")
    page.add("a.jpg", found[::-1], heads)
    page.close()
    assert not {tag for tag, _ in Elements(file.getvalue()).found} - {tag for tag, _ in Elements(text).found}
    assert file.getvalue().count(f'="{escape(f"relevance: {ODD_LABEL}")}"') == 1  # of the map that is shown first
    assert f"<output>{escape(f'relevance: {ODD_LABEL}')}</output>" in file.getvalue()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Any, text: str, tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "page.html"
    path.write_text(text)
    with visiting(browser, path.as_uri()) as visited:
        visited.goto(path.as_uri())
        yield visited


def pixels(page: Any) -> np.ndarray:
    """(H, W, 4) of the first canvas."""
    _, _, content = page.locator("canvas").first.evaluate("canvas => canvas.toDataURL()").partition(",")
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGBA"), int)


def slide(page: Any, which: int, value: int) -> None:
    page.locator("section").first.locator("input").nth(which).fill(str(value))


def test_the_map_lies_over_the_picture_as_python_draws_it(page: Any, explained: Any) -> None:
    [first, *_], _, _ = explained
    drawn = pixels(page)
    assert drawn.shape == (60, 100, 4)
    expected = first.view.stretched(scaled(first.map))
    seen = first.view.seen()
    assert drawn[..., 3][seen] == pytest.approx(255 * OPACITY * expected[seen], abs=2)
    strong = seen & (expected > 0.5)  # the less of a color there is, the less exactly browsers keep it
    assert np.abs(drawn[strong][:, :3] - colored(expected[strong]).astype(int)).max() <= 8
    assert (drawn[~seen][:, 3] > 100).all()
    picture, canvas = (page.locator("section").first.locator(tag).bounding_box() for tag in ("img", "canvas"))
    assert picture == canvas


def test_sliders_move_the_map_over_layers_and_heads(page: Any, explained: Any) -> None:
    [first, *_], heads, _ = explained
    assert page.locator("output").first.inner_text() == "relevance: dog"
    for layer, head in ((1, 0), (1, 2), (2, 1)):
        slide(page, 0, layer)
        slide(page, 1, head)
        values = heads[layer - 1].mean(0) if head == 0 else heads[layer - 1, head - 1]
        expected = first.view.stretched(scaled(values))
        seen = first.view.seen()
        assert pixels(page)[..., 3][seen] == pytest.approx(255 * OPACITY * expected[seen], abs=2)
        whose = "all heads" if head == 0 else f"head {head}"
        assert page.locator("output").first.inner_text() == f"attention, layer {layer}, {whose}"


def test_buttons_show_the_labels_maps_and_the_strength_fades_them(page: Any, explained: Any) -> None:
    [_, second], _, _ = explained
    page.get_by_role("button", name=ODD_LABEL).click()
    seen = second.view.seen()
    before = pixels(page)[..., 3][seen]
    assert before == pytest.approx(255 * OPACITY * second.view.stretched(scaled(second.map))[seen], abs=2)
    slide(page, 2, 50)
    assert pixels(page)[..., 3][seen] == pytest.approx(before / 2, abs=2)
    assert page.title() == "What <it> looked at"
    assert page.locator("section").nth(1).locator("output").inner_text() == "rollout"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Any, text: str, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(text)
    with visiting(browser, path.as_uri(), color_scheme=scheme, viewport=PHONE) as page:
        page.goto(path.as_uri())
        assert not faults(page)
        assert not scrolls_sideways(page)
