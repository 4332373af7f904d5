from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_index import made_pictures
from PIL import Image

from vit_hybrid.search.sheet import THUMBNAIL_SIZE, Sheet, thumbnail

ODD_NAME = "a\"><script src='http://elsewhere.example/x.js'>alert(1)</script>&amp;\udce9.jpg"
# Elements without an end tag.
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What is in a page; an element that is not closed, or closed in another's place, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    pictures = made_pictures(tmp_path, 3)
    file = io.StringIO()
    sheet = Sheet(file, "Like <these>", {"-": pictures[2].read_bytes()})
    sheet.add(
        str(pictures[0]), [{"path": str(pictures[1]), "similarity": 0.98765}, {"path": ODD_NAME, "similarity": -1}]
    )
    sheet.add("-", [])
    sheet.close()
    file.getvalue().encode()  # no half of a character
    return Page(file.getvalue())


def test_a_page_has_all_pictures_in_itself(page: Page) -> None:
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 3
    for image in images:
        start, _, data = str(image["src"]).partition(",")
        assert start == "data:image/jpeg;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 48
        assert image["alt"]
    assert str(images[0]["alt"]).startswith("the picture /")
    assert images[2]["alt"] == "the picture -"
    assert str(images[1]["alt"]).endswith("1.png, similarity 0.988")
    [first, second] = [text for text in page.texts if text.startswith(("0.988 ", "-1.000 "))]
    assert first.endswith("1.png")
    assert second == "-1.000 " + ODD_NAME.replace("\udce9", "\\xe9")


def test_a_page_needs_nothing_from_elsewhere_whatever_names_say(page: Page) -> None:
    assert {tag for tag, _ in page.elements} == {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "div", "figure", "img", "figcaption")
    }
    for _, attributes in page.elements:
        assert {*attributes} <= {
            "src",
            "alt",
            "class",
            "role",
            "aria-label",
            "charset",
            "http-equiv",
            "content",
            "name",
            "lang",
        }
        assert str(attributes.get("src", "data:")).startswith("data:")
    assert "url(" not in "".join(page.texts)
    assert any(text.startswith("Like <these>") for text in page.texts)
    assert any(ODD_NAME.replace("\udce9", "\\xe9") in text for text in page.texts)


@pytest.mark.parametrize("is_here", [True, False])
def test_what_is_searched_for_may_have_any_name(is_here: bool, tmp_path: Path) -> None:
    [path] = made_pictures(tmp_path, 1)
    file = io.StringIO()
    sheet = Sheet(file, "Pictures", {ODD_NAME: path.read_bytes()} if is_here else None)
    sheet.add(ODD_NAME, [])
    sheet.close()
    page, name = Page(file.getvalue()), ODD_NAME.replace("\udce9", "\\xe9")
    [figure] = [attributes for tag, attributes in page.elements if tag == "img" or attributes.get("role") == "img"]
    assert (figure.get("alt"), figure.get("aria-label")) == (
        (f"the picture {name}", None) if is_here else (None, f"the picture {name}, cannot be read here")
    )
    assert [text for text in page.texts if text == name] == [name, name]  # above it, and below


def test_pictures_are_found_by_their_names_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "cats & dogs").mkdir()
    [path] = made_pictures(tmp_path / "cats & dogs", 1)
    file = io.StringIO()
    sheet = Sheet(file, "Pictures")
    sheet.add(str(path), [{"path": str(path), "similarity": 1.0}])
    sheet.close()
    assert [tag for tag, _ in Page(file.getvalue()).elements].count("img") == 2


def test_what_cannot_be_read_is_said_to_be_missing(page: Page) -> None:
    [missing] = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert str(missing["aria-label"]).endswith(".jpg, similarity -1.000, cannot be read here")


def test_a_page_is_for_light_and_dark(page: Page) -> None:
    style = "".join(page.texts)
    assert "color-scheme: light dark" in style
    assert "prefers-color-scheme: dark" in style


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16", "P", "CMYK", "1"])
def test_thumbnails_of_all_kinds_of_pictures(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (1000, 700)).save(path)
    content = thumbnail(path)
    assert content is not None
    small = Image.open(io.BytesIO(content))
    assert (small.mode, small.size) == ("RGB", (THUMBNAIL_SIZE, 179))


def test_thumbnails_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (900, 600)).save(tmp_path / "x.jpg", exif=exif)
    content = thumbnail(tmp_path / "x.jpg")
    assert content is not None
    small = Image.open(io.BytesIO(content))
    assert small.size == (171, THUMBNAIL_SIZE)
    assert not small.getexif()


def test_no_thumbnail_of_no_picture(tmp_path: Path) -> None:
    assert thumbnail(tmp_path / "absent.jpg") is None
    assert thumbnail(b"no picture") is None
    Image.fromarray(np.full((5, 6), np.nan, np.float32)).save(tmp_path / "x.tif")  # which has no colors
    assert thumbnail(tmp_path / "x.tif") is None
