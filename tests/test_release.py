"""What follows from the weights in the package is what the release script writes: no table is behind the figures."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from repository import REPOSITORY, loaded

from vit_hybrid.assets import BUILT_IN_FOLDER

# Pages, the tables in them that lie between markers, and the functions that make these.
TABLES = [
    ("README.md", "in short", "in_short"),
    ("docs/measured.md", "figures", "figures_table"),
    ("docs/speed.md", "engines", "engines_table"),
    ("docs/speed.md", "token merging", "merging_table"),
    ("examples/README.md", "examples", "examples_table"),
]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return loaded("scripts/release_box_model.py")


@pytest.fixture(scope="module")
def figures() -> Any:
    return json.loads((BUILT_IN_FOLDER / "figures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("page", "name", "make"), TABLES, ids=[name for _, name, _ in TABLES])
def test_tables_are_written_from_the_figures(
    page: str, name: str, make: str, release: ModuleType, figures: Any
) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    table = getattr(release, make)(figures)
    assert f"<!-- model in the package: {name} -->\n{table}\n<!-- end of {name} -->" in text


def test_the_table_of_the_card_is_written_from_the_figures(release: ModuleType, figures: Any) -> None:
    assert release.figures_table(figures) in (BUILT_IN_FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_page_is_filled_between_its_markers_alone(release: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- model in the package: a -->\nold\n<!-- end of a -->\nbehind\n")
    release.fill(page, "a", "| new \\1 |")
    assert page.read_text() == ("before\n<!-- model in the package: a -->\n| new \\1 |\n<!-- end of a -->\nbehind\n")
    with pytest.raises(SystemExit, match="expected one <!-- model in the package: b -->"):
        release.fill(page, "b", "text")


def test_paragraphs_of_the_card_have_lines_of_the_usual_width(release: ModuleType) -> None:
    words = " ".join(["word"] * 60)
    assert max(map(len, release.wrapped(f"\n{words}\n").splitlines())) <= release.WIDTH
    for kept in (f"\n| {words} |\n", f"\n## {words}\n", f"---\nlicense: {words}\n"):
        assert release.wrapped(kept) == kept
