"""A node of a cluster works only where it sees the driver's files and model, and is of the same kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vit_hybrid.files import LOCK
from vit_hybrid.predict.nodes import OnNode
from vit_hybrid.predict.places import LocalFolder, RemoteFolder
from vit_hybrid.predict.settings import Settings


@pytest.fixture
def node(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> OnNode:
    monkeypatch.chdir("/")
    (tmp_path / "out.parquet").mkdir()
    (tmp_path / "out.parquet" / LOCK).touch()
    (tmp_path / "pictures").mkdir()
    settings = Settings(str(tiny_folder), ".parquet")
    assert settings.asked
    made: Any = lambda: "a worker"  # noqa: E731
    sources = ("pictures", "pictures/*.png", "s3://bucket/more")
    return OnNode(made, settings, LocalFolder("out.parquet"), sources, str(tmp_path), "another machine")


def test_names_are_relative_to_where_the_driver_is(node: OnNode, tmp_path: Path) -> None:
    assert node() == "a worker"
    assert Path.cwd() == tmp_path
    assert replace(node, folder=RemoteFolder("memory://elsewhere/x.parquet"))() == "a worker"  # which has no lock


@pytest.mark.parametrize("missing", [f"out.parquet/{LOCK}", "pictures"])
def test_files_that_it_does_not_see(node: OnNode, tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{missing.split('/')[0]}: the node .* does not see this"):
        node()


def test_another_model_under_the_same_name(node: OnNode) -> None:
    settings = replace(node.settings)
    settings.__dict__["asked"] = {**node.settings.asked, "weights": "0" * 64}
    with pytest.raises(ValueError, match="would work with something else: other weights than before"):
        replace(node, settings=settings)()
