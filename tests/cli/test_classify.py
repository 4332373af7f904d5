"""How `vit-hybrid classify` goes through its pictures, whatever the model says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import RecordPrinter


@pytest.mark.parametrize(
    ("count", "source", "size", "ahead"),
    [(16, None, 16, False), (17, None, 16, True), (16, "-", 16, False), (17, "-", 16, False), (3, None, 2, True)],
)
def test_pictures_are_read_ahead_where_there_are_several_batches_and_nothing_is_waited_for(
    count: int, source: str | None, size: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []

    def stream(sources: Any, **how: Any) -> Iterator[Any]:
        asked.append(how)
        yield from ({"path": path, "predictions": [{"label": "a", "probability": 0.5}]} for path, _ in sources)

    def opened(model: str, engine: Any, **how: Any) -> Any:
        asked.append({"model": model, "batch_size": engine.batch_size, **how})
        return SimpleNamespace(labels=["a", "bc"], stream=stream)

    class Printer(RecordPrinter):
        def __init__(self, **given: Any) -> None:
            made.append(given)
            super().__init__(**given)

    monkeypatch.setattr("vit_hybrid.cli.classify.opened_predictor", opened)
    monkeypatch.setattr("vit_hybrid.cli.classify.RecordPrinter", Printer)
    words = [f"{number}.jpg" for number in range(count)] + ([source] if source else [])
    options = ["--model", "a model", "--top-k", "3", "--coverage", "0.8", "--false-alarms", "0.2"]
    result = CliRunner().invoke(app, ["classify", *words, *options, "--batch-size", str(size)], input=b"a picture")
    assert (result.exit_code, result.stdout.count("50.00%")) == (0, len(words))
    assert asked == [
        {"model": "a model", "batch_size": size, "few": len(words), "confidence": True},
        {"top_k": 3, "read_ahead": ahead, "coverage": 0.8, "false_alarms": 0.2},
    ]
    assert made == [{"as_json": False, "labels": ["a", "bc"], "total": len(words)}]


@pytest.mark.parametrize("content", [b"", b"two words", b"one\nand another", b"\xff\xfe"])
def test_a_file_that_holds_no_key(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    words = ["classify", "a.jpg", "--server", "http://127.0.0.1:1", "--api-key-file", str(tmp_path / "key")]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    said = f"{tmp_path / 'key'} is not a file with a key, one word, and nothing else."
    assert result.stderr == f"vit-hybrid: {said}\n"
