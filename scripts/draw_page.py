"""Takes the pictures of the site that show the server's page and an explanation: `python scripts/draw_page.py`.

The page is that of a server with the model in the package, in Debian's chromium: a picture that the model knows, with
the map of what it looked at, and one that is none of its classes. Needs the extras serve and test.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from chromium import chromium, visiting  # noqa: E402
from serving import running  # noqa: E402

from vit_hybrid.explain import Explainer, overlay_png  # noqa: E402

EXAMPLES, DRAWN = REPOSITORY / "examples", REPOSITORY / "docs" / "_static"
COLORS = 128  # of the PNG: a page of few colors is a quarter as large so


def page() -> None:
    """docs/_static/page.png."""
    with chromium() as browser, running() as server:
        origin = f"http://127.0.0.1:{server.port}"
        with visiting(browser, origin, viewport={"width": 700, "height": 900}, color_scheme="light") as page:
            page.goto(f"{origin}/")
            page.get_by_role("heading", name="The model").wait_for()
            page.locator("#files").set_input_files([EXAMPLES / "cat.jpg", EXAMPLES / "gravel.jpg"])
            for name in ("cat.jpg", "gravel.jpg"):
                page.get_by_role("article", name=name).get_by_role("listitem").first.wait_for()
            cat = page.get_by_role("article", name="cat.jpg")
            cat.get_by_text("What did it look at?").click()
            cat.locator("canvas.heat").wait_for()
            content = page.screenshot(clip={"x": 0, "y": 0, "width": 700, "height": 1180}, full_page=True)
    Image.open(io.BytesIO(content)).convert("RGB").quantize(COLORS).save(DRAWN / "page.png", optimize=True)


def explanation() -> None:
    """docs/_static/explained.jpg: the picture, and the map of its first label over it."""
    [found] = Explainer.from_pretrained().explain(EXAMPLES / "cat.jpg", method="relevance")
    overlay = Image.open(io.BytesIO(overlay_png(found, longest=360))).convert("RGB")
    picture = Image.open(EXAMPLES / "cat.jpg").convert("RGB").resize(overlay.size)
    both = Image.new("RGB", (2 * overlay.width + 10, overlay.height), "white")
    both.paste(picture, (0, 0))
    both.paste(overlay, (overlay.width + 10, 0))
    both.save(DRAWN / "explained.jpg", quality=85)


if __name__ == "__main__":
    page()
    explanation()
