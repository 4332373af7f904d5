"""Rows as parquet, CSV and JSON Lines: what goes in comes out, and the same rows are the same bytes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams.protocol import Place
from vit_hybrid.images.reading import DAMAGED, EMPTY, MEMORY, MISSING, UNREADABLE, ImageReadError
from vit_hybrid.inference.shards import Shard
from vit_hybrid.outputs.vectors import Making
from vit_hybrid.predict import work
from vit_hybrid.predict.rows import (
    CSV,
    FORMATS,
    JSON_LINES,
    PARQUET,
    Columns,
    Row,
    columns_from,
    decoded,
    encoded,
    header,
)

pytest.importorskip("pyarrow", reason="rows in parquet need pyarrow")

MADE = Making("a model", "weights", "preprocessing", 3)
LABELS = Columns(ranked=2, about={"problem_type": "single_label_classification"})
VALUES = Columns("key", values=2)
VECTORS = Columns(embedding=MADE)
ALL = Columns(ranked=2, embedding=MADE, about={"problem_type": "single_label_classification"})
BROKEN = Row("c, d.jpg", error="empty", reason='is "empty"')


def rows(columns: Columns) -> list[Row]:
    given = [Row("a.jpg", 5, 4), Row("b\nb.jpg", 7, 6), Row("ü.jpg", 1, 1)]
    random = np.random.default_rng(0)
    for row in given:
        if columns.ranked:
            row.labels, row.probabilities = ["cat", "dog, wild"], random.random(2, np.float32)
        if columns.values:
            row.values = random.normal(size=2).astype(np.float32)
        if columns.embedding:
            row.embedding = random.normal(size=3).astype(np.float32)
    return [*given[:2], BROKEN, given[2]]


def same(one: Row, other: Row) -> bool:
    pairs = zip(asdict(one).values(), asdict(other).values(), strict=True)
    return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("columns", [LABELS, VALUES, VECTORS, ALL], ids=["labels", "values", "vectors", "all"])
def test_what_goes_in_comes_out(form: str, columns: Columns) -> None:
    if form == CSV and columns.embedding:
        pytest.skip("CSV has no column for vectors, and nobody asks for it")
    content = encoded(rows(columns), columns, form)
    found = decoded(content, columns, form)
    assert all(same(*pair) for pair in zip(found, rows(columns), strict=True))
    assert encoded(found, columns, form) == content
    if form == CSV:  # each cell under its own head, of what could not be read, too
        table = csv.reader(io.StringIO((header(columns, form) + content).decode(), newline=""))
        assert len({len(cells) for cells in table}) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_ends_of_lines_in_words_stay_as_they_are(form: str) -> None:
    given = Row("a.jpg", 5, 4, ["cat\rdog", "a\r\nb"], np.float32([0.75, 0.25]))
    [found] = decoded(encoded([given], LABELS, form), LABELS, form)
    assert same(found, given)


@pytest.mark.parametrize("form", FORMATS)
def test_parts_put_together_are_what_others_read(form: str) -> None:
    first, second = rows(LABELS)[:2], rows(LABELS)[2:]
    content = header(LABELS, form) + encoded(first, LABELS, form) + encoded(second, LABELS, form)
    if form == CSV:
        table = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        assert list(table[0]) == [
            *("path", "width", "height", "label_1", "probability_1", "label_2", "probability_2", "error", "reason"),
        ]
        assert [row["path"] for row in table] == ["a.jpg", "b\nb.jpg", "c, d.jpg", "ü.jpg"]
        assert table[2]["reason"] == 'is "empty"'
        assert table[2]["label_1"] == ""
        assert np.float32(table[0]["probability_1"]) == rows(LABELS)[0].probabilities[0]  # type: ignore[index]
    elif form == JSON_LINES:
        table = [json.loads(line) for line in content.splitlines()]
        assert list(table[0]) == ["path", "width", "height", "labels", "probabilities"]
        assert table[2] == {"path": "c, d.jpg", "error": "empty", "reason": 'is "empty"'}
        assert len(str(table[0]["probabilities"][0])) < 12  # digits of float32
        assert '{"path": "ü.jpg", "width": 1, '.encode() in content
    assert form == PARQUET or b"\r" not in content


def test_parquet_says_what_it_holds() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(encoded(rows(ALL), ALL, PARQUET)))
    assert [field.name for field in table.schema] == [
        *("path", "width", "height", "labels", "probabilities", "embedding", "error", "reason"),
    ]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.schema.metadata[b"vit_hybrid.weights_sha256"] == b"weights"
    assert table.schema.metadata[b"vit_hybrid.problem_type"] == b"single_label_classification"
    assert [table.schema.field(name).type for name in ("width", "height")] == [pa.int32(), pa.int32()]
    assert table.column("embedding").null_count == table.column("labels").null_count == 1
    assert table.column("error").null_count == 3
    kept = pq.ParquetFile(pa.BufferReader(encoded(rows(ALL), ALL, PARQUET))).metadata
    assert (kept.num_row_groups, kept.row_group(0).column(0).compression) == (1, "ZSTD")
    assert table.schema.field("probabilities").type == pa.list_(pa.float32())
    keyed = pq.read_table(pa.BufferReader(encoded(rows(VALUES), VALUES, PARQUET)))
    assert keyed.column_names == ["key", "width", "height", "values", "error", "reason"]


@pytest.mark.parametrize("columns", [LABELS, VALUES, ALL])
def test_columns_survive_json(columns: Columns) -> None:
    assert columns_from(json.loads(json.dumps(asdict(columns)))) == columns


JUDGED = Columns(ranked=1, sets=True, familiarity=True)


@pytest.mark.parametrize("form", FORMATS)
def test_sets_and_familiarity(form: str) -> None:
    given = [
        Row("a.jpg", 5, 4, ["cat"], np.array([0.75], np.float32), ["cat", 'dog, "wild"'], 1 / 3, False),
        BROKEN,
        Row("b.jpg", 5, 4, ["cat"], np.array([0.5], np.float32), ["ü"], 0.001, True),
    ]
    content = encoded(given, JUDGED, form)
    found = decoded(content, JUDGED, form)
    assert all(same(*pair) for pair in zip(found, given, strict=True))
    assert encoded(found, JUDGED, form) == content
    assert found[0].familiarity == 1 / 3  # to the last digit
    if form == CSV:
        table = list(csv.DictReader(io.StringIO((header(JUDGED, form) + content).decode(), newline="")))
        assert json.loads(table[0]["set"]) == ["cat", 'dog, "wild"']
        assert [row["none_of_these"] for row in table] == ["false", "", "true"]
        assert table[1]["set"] == table[1]["familiarity"] == ""
    assert columns_from(json.loads(json.dumps(asdict(JUDGED)))) == JUDGED


def test_a_stamp_is_of_size_and_time() -> None:
    def stamp(of: tuple[int, int] | None) -> int:
        entry: Any = SimpleNamespace(stamp=of)
        return work.stamp_of(entry)

    stamps = [stamp((5, 10)), stamp((5, 11)), stamp((6, 10)), stamp((10, 5))]
    assert len({*stamps}) == 4
    assert stamp((5, 10)) == stamps[0]
    assert stamp(None) == 0
    assert 0 not in stamps
    assert work.unpacked(work.packed([0, *stamps])) == [0, *stamps]


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ImageReadError("a.jpg", "is empty", EMPTY), EMPTY, "is empty"),
        (MemoryError(), MEMORY, "there is not enough memory for it"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), MISSING, "no such file"),
        (PermissionError(13, "Permission denied", "a.jpg"), UNREADABLE, "Permission denied"),
        (SourceError("a.tar: the tar ends early"), UNREADABLE, "a.tar: the tar ends early"),
        (ValueError("preprocessing makes\nothers"), work.UNFIT, "preprocessing makes others"),
        (RuntimeError("the decoder stumbles"), DAMAGED, "the decoder stumbles"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_kind(error: Exception, kind: str, reason: str) -> None:
    assert work.error_of(error) == (kind, reason)


class TestParts:
    """Parts as they are written once all pictures of a shard were looked at."""

    GONE = Row("d.jpg", error=MISSING, reason="no such file")

    @pytest.fixture
    def written(self) -> dict[str, bytes]:
        return {}

    @pytest.fixture
    def worker(self, written: dict[str, bytes]) -> work.PartWorker:
        """One without a model."""
        worker = work.PartWorker.__new__(work.PartWorker)
        worker._settings, worker._columns = SimpleNamespace(form=CSV), LABELS  # type: ignore[assignment]
        worker._folder = SimpleNamespace(write=written.__setitem__)  # type: ignore[assignment]
        return worker

    @staticmethod
    def read(count: int, before: list[Row], error: Exception | None = None) -> Any:
        shard = Shard(3, Place("unit", 0), Place("unit", count - 1), count, again=bool(before))
        return work._Read(shard, list(range(11, 11 + count)), before, error)

    def test_a_receipt_counts_what_failed_and_what_was_missing(
        self, worker: work.PartWorker, written: dict[str, bytes]
    ) -> None:
        first, second, *_ = rows(LABELS)
        receipt = worker._written(self.read(4, []), [first, self.GONE, BROKEN, second], time.monotonic())
        assert (receipt.shard, receipt.rows, receipt.errors, receipt.missing) == (3, 4, 2, 1)
        assert work.unpacked(receipt.stamps) == [11, 0, 0, 14]  # what failed may be another when it is tried again
        [(name, content)] = written.items()
        assert name == work.part_name(3, CSV)
        assert (receipt.bytes, receipt.sha256) == (len(content), hashlib.sha256(content).hexdigest())

    def test_what_failed_before_is_put_in_its_place(self, worker: work.PartWorker, written: dict[str, bytes]) -> None:
        first, second, _, third = rows(LABELS)
        found = Row("d.jpg", 3, 2, third.labels, third.probabilities)
        receipt = worker._written(self.read(4, [first, self.GONE, second, BROKEN]), [found, BROKEN], time.monotonic())
        assert (receipt.rows, receipt.errors, receipt.missing) == (4, 1, 0)
        assert work.unpacked(receipt.stamps) == [11, 12, 13, 0]
        [content] = written.values()
        for one, other in zip(decoded(content, LABELS, CSV), [first, found, second, BROKEN], strict=True):
            assert same(one, other)

    def test_what_ended_the_reading_is_raised_and_nothing_written(
        self, worker: work.PartWorker, written: dict[str, bytes]
    ) -> None:
        with pytest.raises(work.SourceGone, match=r"^a.tar: it is gone: the source changed while it was read;"):
            worker._written(self.read(2, [], SourceError("a.tar: it is gone.")), rows(LABELS)[:2], 0.0)
        with pytest.raises(PermissionError):
            worker._written(self.read(2, [], PermissionError(13, "Permission denied")), rows(LABELS)[:2], 0.0)
        assert written == {}

    @pytest.fixture
    def through(self, worker: work.PartWorker, monkeypatch: pytest.MonkeyPatch) -> Any:
        """What goes through shards of three pictures each, two at once; what it noted of them; a shard that is gone."""
        noted = SimpleNamespace(shards=[], read=[], batches=[], gone=None)

        def shards() -> Iterator[Shard]:
            for number in range(3):
                noted.shards.append(number)
                yield Shard(number, Place(str(number), 0), Place(str(number), 2), 3, again=False)

        def read(first: Place, count: int, units: Any) -> Iterator[Any]:
            for at in range(count):
                if (first.unit, at) == (noted.gone, 1):
                    raise SourceError(f"{first.unit}: it is gone")
                noted.read.append(f"{first.unit}/{at}")
                yield SimpleNamespace(path=noted.read[-1], stamp=(at + 1, 7))

        def made(batch: list[Any], outputs: Any) -> list[Row]:
            assert outputs == len(batch)
            return [Row(one.entry.path, 5, 4, ["cat", "dog"], np.float32([0.75, 0.25])) for one in batch]

        worker._stream = SimpleNamespace(read=read)  # type: ignore[assignment]
        worker._predictor = SimpleNamespace(batch_size=2)  # type: ignore[assignment]
        monkeypatch.setattr(worker, "_prepared", lambda one: one)
        monkeypatch.setattr(worker, "_outputs", lambda batch: noted.batches.append(len(batch)) or len(batch))
        monkeypatch.setattr(worker, "_rows", made)
        return SimpleNamespace(receipts=worker.through(shards()), noted=noted)

    def test_the_first_pictures_of_the_next_shard_are_read_before_one_is_done(
        self, through: Any, written: dict[str, bytes]
    ) -> None:
        noted = through.noted
        first = next(through.receipts)
        assert (first.shard, first.rows, noted.shards, noted.batches) == (0, 3, [0, 1], [2, 1])
        assert noted.read == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]  # as far as two batches are ahead
        assert [*written] == [work.part_name(0, CSV)]
        others = list(through.receipts)
        assert [(one.shard, one.rows, one.errors) for one in others] == [(1, 3, 0), (2, 3, 0)]
        assert noted.batches == [2, 1] * 3
        for number in range(3):
            found = decoded(written[work.part_name(number, CSV)], LABELS, CSV)
            assert [row.path for row in found] == [f"{number}/{at}" for at in range(3)]

    def test_the_seconds_of_a_part_are_its_own(self, through: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(monotonic=count().__next__)  # which goes on by one whenever it is looked at
        monkeypatch.setattr(work, "time", clock)
        assert [receipt.seconds for receipt in through.receipts] == [1, 1, 1]

    def test_a_shard_before_one_that_is_gone_is_done(self, through: Any, written: dict[str, bytes]) -> None:
        through.noted.gone = "1"
        assert next(through.receipts).shard == 0
        with pytest.raises(work.SourceGone, match=r"^1: it is gone: the source changed"):
            next(through.receipts)
        assert [*written] == [work.part_name(0, CSV)]
        assert through.noted.shards == [0, 1]
