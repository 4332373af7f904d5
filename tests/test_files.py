"""Files and folders that are complete or not there, and the mark of those that this package wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from vit_hybrid.files import MARK, is_marked, mark


def test_a_folder_of_results_is_marked(tmp_path: Path) -> None:
    assert not is_marked(tmp_path)
    (tmp_path / "log.txt").write_text("so far")
    (tmp_path / "curve.png").touch()
    mark(tmp_path, figures=["curve.png"])
    assert is_marked(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MARK, "log.txt", "curve.png"}
    assert "vit-hybrid" in (tmp_path / MARK).read_text()


@pytest.mark.parametrize("name", ["photo.jpg", "cat/photo.JPG", "curve.png"])
def test_a_folder_with_pictures_of_others_is_not_marked(name: str, tmp_path: Path) -> None:
    """Whoever lets results be written among the pictures goes on having pictures."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    mark(tmp_path)
    assert not is_marked(tmp_path)


def test_pictures_in_a_folder_with_the_mark_are_results(tmp_path: Path) -> None:
    inner = tmp_path / "before"
    inner.mkdir()
    mark(inner)
    (inner / "curve.png").touch()
    mark(tmp_path)
    assert is_marked(tmp_path)
