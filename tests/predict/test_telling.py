"""What a run tells of how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_engine
import pytest
from broken_pictures import sound

from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.predict.job import Summary, embed, predict

pytest.importorskip("pyarrow", reason="rows in parquet need pyarrow")


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun: list[int] = []
        self.rows: list[tuple[int, int, int]] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, stream: Any) -> None:
        assert not self.rows
        self.begun.append(sum(one.rows for one in stream.ranges(100)))

    def advance(self, rows: int, errors: int, new_rows: int) -> None:
        self.rows.append((rows, errors, new_rows))


@pytest.mark.parametrize("runs", [predict, embed])
def test_what_is_told(runs: Any, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = fake_engine.opening().__func__

    def opening(name: str, *, progress: Any, **options: Any) -> Predictor:
        progress("converts")
        return inner(name, **options)

    monkeypatch.setattr(Predictor, "from_pretrained", staticmethod(opening))
    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(8):
        (source / f"{number}.jpg").write_bytes(b"" if number == 4 else sound(seed=number))

    def told(**options: Any) -> tuple[Told, Summary]:
        progress = Told()
        given = {"model": tiny_folder, "batch_size": 2, "rows_per_part": 3, "progress": progress, **options}
        return progress, runs(source, tmp_path / "x.parquet", **given)

    first, summary = told()
    assert first.lines[-1] == "converts"
    assert not [line for line in first.lines if line.startswith("Looking")]
    assert first.begun == [8]  # once, before any rows
    assert first.rows == [(3, 0, 3), (6, 1, 6), (8, 1, 8)]
    assert (summary.rows, summary.errors, summary.new_rows, summary.parts) == (8, 1, 8, 3)

    (tmp_path / "x.parquet" / "part-00002.parquet").write_bytes(b"damaged")
    again, summary = told(verify=True)
    assert [line for line in again.lines if line.startswith("Looking")] == [
        "Looking at what was done: 1 of 3 parts",
        "Looking at what was done: 2 of 3 parts",
    ]
    assert again.begun == [8]
    assert again.rows == [(8, 1, 2)]  # of which only the last two are of this run
    assert (summary.rows, summary.errors, summary.new_rows, summary.parts) == (8, 1, 2, 3)
