"""What becomes of a run's receipts: the rate they tell, pictures that are gone, and parts whose receipt was lost."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import numpy as np
import pytest
from broken_pictures import sound

from vit_hybrid.data.streams import Change, open_stream
from vit_hybrid.engines.protocol import Outputs
from vit_hybrid.errors import JobStopped
from vit_hybrid.files import is_marked
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.inference.shards import Receipt, Shard
from vit_hybrid.inference.workers import in_this_process
from vit_hybrid.predict import job
from vit_hybrid.predict.job import Summary, embed, predict
from vit_hybrid.predict.lines import LocalLines
from vit_hybrid.predict.manifest import Manifest
from vit_hybrid.predict.places import LocalFolder
from vit_hybrid.predict.settings import Settings
from vit_hybrid.predict.work import PartWorker

pytest.importorskip("pyarrow", reason="rows in parquet need pyarrow")

ENDINGS = (".parquet", ".csv", ".jsonl")


class Stop(Exception):
    """As if the process had been killed."""


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten, of which the sixth cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(b"" if number == 5 else sound(seed=number))
    return folder


@pytest.fixture
def run(tiny_folder: Path, pictures: Path, tmp_path: Path) -> Callable[..., Summary]:
    def predicted(output: str = "x.parquet", source: Path = pictures, **options: Any) -> Summary:
        given = {"model": tiny_folder, "batch_size": 2, "rows_per_part": 2, **options}
        return predict(source, tmp_path / output, **given)

    return predicted


def lines(out: Path) -> list[dict[str, Any]]:
    manifest = out / "_manifest.jsonl" if out.suffix == ".parquet" else out.with_name(f"{out.name}.manifest.jsonl")
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def rates(out: Path) -> list[float]:
    """Those by which the sizes of parts were chosen."""
    return [line["rate"] for line in lines(out) if "shard" in line]


def content(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.glob("part-*"))] if out.is_dir() else [out.read_bytes()]


@pytest.fixture
def a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part takes half a second, and the next is settled when it is done."""
    inner = PartWorker.through

    def one_by_one(worker: PartWorker, shards: Iterator[Shard]) -> Iterator[Receipt]:
        for shard in shards:
            [receipt] = inner(worker, iter([shard]))
            yield replace(receipt, seconds=0.5)

    monkeypatch.setattr(PartWorker, "through", one_by_one)


@pytest.mark.usefixtures("a_part_at_a_time")
def test_who_goes_on_begins_with_the_rate_that_was_measured(run: Any, tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "x.parquet"
    run()
    asked = lines(out)[0]["asked"]
    assert (asked["top-k"], asked["embeddings"], asked["confidence"]) == (5, None, None)  # where nobody says otherwise
    assert rates(out) == [0, 4, 4, 4, 4]
    (pictures / "10.jpg").write_bytes(sound(seed=10))
    assert run(resume=True).new_rows == 1
    assert rates(out)[5:] == [4]


@pytest.mark.usefixtures("a_part_at_a_time")
def test_rows_that_are_tried_again_say_nothing_of_the_rate(run: Any, tmp_path: Path, pictures: Path) -> None:
    """Of such a part the others are as they were, however many these are."""
    out = tmp_path / "x.parquet"
    run(rows_per_part=10)
    assert rates(out) == [0]
    (pictures / "5.jpg").write_bytes(sound(seed=5))
    (pictures / "10.jpg").write_bytes(sound(seed=10))
    (pictures / "11.jpg").write_bytes(sound(seed=11))
    assert run(retry_errors=True, rows_per_part=1).new_rows == 12
    assert rates(out)[1:] == [0, 2]  # of one row in half a second, and not of ten


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_part_that_was_tried_again_and_whose_receipt_was_lost_is_known_anew(
    run: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    out = tmp_path / f"x{ending}"
    assert run(out.name).errors == 1
    (pictures / "5.jpg").write_bytes(sound(seed=5))

    def stop(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "finish", stop)
        with pytest.raises(Stop):
            run(out.name, retry_errors=True)
    summary = run(out.name, resume=True)
    assert (summary.rows, summary.errors, summary.new_rows) == (10, 0, 2)
    run(f"whole{ending}")
    assert content(out) == content(tmp_path / f"whole{ending}")
    assert run(out.name, resume=True).new_rows == 0
    assert run(out.name, verify=True).new_rows == 0  # all is what its receipt says
    (pictures / "10.jpg").write_bytes(sound(seed=10))
    assert run(out.name, resume=True).new_rows == 1


@pytest.mark.parametrize("rows_per_part", [1, 5])
def test_one_picture_that_is_gone_from_its_folder_ends_the_run_and_is_no_row(
    run: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, rows_per_part: int
) -> None:
    write = LocalFolder.write

    def vanish(self: LocalFolder, name: str, content: bytes) -> None:
        write(self, name, content)
        if name.startswith("part-00000"):
            (pictures / "9.jpg").unlink()

    monkeypatch.setattr(LocalFolder, "write", vanish)
    with pytest.raises(JobStopped, match="the source changed while it was read; what is done is kept"):
        run("x.csv", rows_per_part=rows_per_part, batch_size=1)  # which reads two ahead
    found = b"".join(path.read_bytes() for path in (tmp_path / "x.csv.parts").glob("part-*")).decode()
    assert "no such file" not in found
    assert found.count(".jpg") == 10 - rows_per_part
    monkeypatch.setattr(LocalFolder, "write", write)
    (pictures / "9.jpg").write_bytes(sound(seed=9))
    assert run("x.csv", rows_per_part=rows_per_part, batch_size=1, resume=True).new_rows == rows_per_part
    run("whole.csv")
    assert content(tmp_path / "x.csv") == content(tmp_path / "whole.csv")


def test_a_picture_that_was_never_there_is_a_row_and_a_broken_one_no_reason_to_look(
    run: Any, tmp_path: Path, pictures: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Receipt] = []
    monkeypatch.setattr(job._Run, "_check_not_gone", lambda _, receipt: looked.append(receipt))
    assert run().errors == 1
    assert looked == []
    (pictures / "paths.txt").write_text("0.jpg\nnever.jpg\n5.jpg\n")
    assert predict(pictures / "paths.txt", tmp_path / "y.csv", model=tiny_folder, batch_size=2).errors == 2
    assert [(receipt.rows, receipt.errors, receipt.missing) for receipt in looked] == [(2, 1, 1)]


@pytest.mark.parametrize(
    ("kind", "is_done", "removed"),
    [("vanished", False, ["part-00003.csv"]), ("changed", False, ["part-00003.csv"]), ("changed", True, [])],
)
def test_of_what_is_gone_no_part_stays_but_one_that_was_there_before(
    kind: Any, is_done: bool, removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [Change(kind, "in/b: 1 of 2 pictures are gone."), Change("grew", "in: new pictures"), Change("same")]
    gone: list[str] = []
    state = SimpleNamespace(outline={"a": 1}, done={3: "done"} if is_done else {})
    run: Any = SimpleNamespace(_names=("in",), _manifest=SimpleNamespace(state=state))
    run._output = SimpleNamespace(form=".csv", folder=SimpleNamespace(remove=gone.extend))
    monkeypatch.setattr(job, "open_stream", lambda names, outline: SimpleNamespace(change=lambda: changes.pop()))
    receipt: Any = SimpleNamespace(shard=3)
    for _ in range(2):
        job._Run._check_not_gone(run, receipt)
    said = r"in/b: 1 of 2 pictures are gone: the source changed while it was read; .* resume=True goes on\."
    with pytest.raises(JobStopped, match=f"^{said}$"):
        job._Run._check_not_gone(run, receipt)
    assert gone == removed


def test_a_worker_elsewhere_reads_the_pictures_that_were_settled(
    pictures: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Whose stream has not planned them, and which finds more of them by now."""
    [*planned] = open_stream([str(pictures)]).ranges(4)
    (pictures / "00.jpg").write_bytes(sound(seed=99))
    settings = Settings(str(tiny_folder), ".csv", top_k=1, engine={"batch_size": 4})
    (tmp_path / "parts").mkdir()
    worker = PartWorker(settings, open_stream([str(pictures)]), LocalFolder(tmp_path / "parts"))
    for number, found in enumerate(planned):
        worker.work(Shard(number, found.first, found.last, found.rows, units=found.units))
    names = [
        Path(line.partition(",")[0]).name
        for path in sorted((tmp_path / "parts").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert names == [f"{number}.jpg" for number in range(10)]


def test_vectors_that_no_row_has_fail_no_row() -> None:
    """As what tells pictures of another kind apart takes them, beside labels."""
    picture: Any = SimpleNamespace(entry=SimpleNamespace(path="a.jpg"), pixels=np.zeros(1), size=(5, 4), error=None)
    outputs = Outputs(np.zeros((1, 3), np.float32), np.full((1, 2), np.inf, np.float32))
    for embeddings, error in ((False, None), (True, "outputs")):
        worker: Any = SimpleNamespace(_engine=SimpleNamespace(precision="f32"), _columns=SimpleNamespace(values=0))
        worker._settings = SimpleNamespace(embeddings=embeddings, dtype="float32")
        worker._predictor = SimpleNamespace(streaming=SimpleNamespace(statistics_of=lambda pixels: [None]))
        worker._is_held = lambda row, record: True
        worker._rank = lambda given: None
        [row] = PartWorker._rows(worker, [picture], outputs)
        assert (row.path, row.width, row.height, row.error) == ("a.jpg", 5, 4, error)


def test_each_picture_is_ranked_by_what_is_its_own() -> None:
    """Also behind one that cannot be read, whose place in the batch is empty."""
    pictures: list[Any] = [
        SimpleNamespace(entry=SimpleNamespace(path=f"{number}.jpg"), pixels=pixels, size=(5, number), error=error)
        for number, (pixels, error) in enumerate([(7.0, None), (None, ("empty", "is empty")), (9.0, None)])
    ]
    outputs = Outputs(np.float32([[1, 0], [0, 0], [0, 1]]))
    for has_statistics, expected in ((True, [7.5, 9.5]), (False, ["none"] * 2)):
        given: list[Any] = []
        worker: Any = SimpleNamespace(_engine=SimpleNamespace(precision="f32"), _columns=SimpleNamespace(values=0))
        worker._settings, worker._rank = SimpleNamespace(embeddings=False, dtype="float32"), given.extend
        found = [7.5, None, 9.5] if has_statistics else [None] * 3
        of = {(7.0, None, 9.0): found}
        worker._predictor = SimpleNamespace(streaming=SimpleNamespace(statistics_of=lambda pixels, of=of: of[*pixels]))
        worker._is_held = lambda row, record: True
        rows = PartWorker._rows(worker, pictures, outputs)
        assert [(row.path, row.height, row.error) for row in rows] == [
            *(("0.jpg", 0, None), ("1.jpg", None, "empty"), ("2.jpg", 2, None)),
        ]
        assert [row.path for row, _ in given] == [record["path"] for _, record in given] == ["0.jpg", "2.jpg"]
        assert [record["logits"].tolist() for _, record in given] == [[1, 0], [0, 1]]
        assert [record.get("statistics", "none") for _, record in given] == expected


def test_who_does_the_work_is_told_how_many_threads_it_has(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def in_processes(make: Any, shards: Any, stated: Any, workers: int, threads: int) -> Any:
        asked.append((workers, threads))
        receipts = in_this_process(make, shards, lambda facts: [stated(facts) for _ in range(workers)])
        return (replace(receipt, node=f"node {receipt.shard % 2}") for receipt in receipts)

    monkeypatch.setattr(job, "in_processes", in_processes)
    monkeypatch.setattr(job, "threads_for", lambda workers: 12 // workers)
    begun: list[Any] = []
    told: Any = SimpleNamespace(tell=lambda text: None, begin=begun.append, advance=lambda *_: None)
    summary = run("x.csv", workers=3, progress=told)
    assert (summary.workers, summary.nodes, summary.parts) == (3, 2, 5)
    assert len(begun) == 1  # whichever worker is there first
    assert run("y.csv", workers=3, threads=5).workers == 3
    assert asked == [(3, 4), (3, 5)]


def test_of_a_cluster_all_workers_count(
    run: Any, tmp_path: Path, tiny_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there is room for, where nobody said how many."""
    made: list[Any] = []
    sharing: list[Any] = []

    def receipts(make: Any, shards: Any, stated: Any) -> Any:
        made.append(make)
        return in_this_process(make, shards, stated)

    @contextmanager
    def connected(how: Any) -> Iterator[Any]:
        sharing.append(how)
        yield SimpleNamespace(workers=5, threads=2, receipts=receipts)

    monkeypatch.setattr(job, "connected", connected)
    how: dict[str, Any] = {"ray": "local", "cpus_per_worker": 2, "gpus_per_worker": 0.5}
    vectors = embed(pictures, tmp_path / "y.parquet", model=tiny_folder, batch_size=2, **how)
    lines: list[str] = []
    told: Any = SimpleNamespace(tell=lines.append, begin=lambda stream: None, advance=lambda *_: None)
    for summary in (run(**how, progress=told), vectors):
        assert (summary.rows, summary.workers, summary.nodes) == (10, 5, 1)
    for asked in sharing:
        assert (asked.ray, asked.workers, asked.cpus_per_worker, asked.gpus_per_worker) == ("local", None, 2, 0.5)
    assert [one.settings.engine["threads"] for one in made] == [2, 2]
    assert [one.folder.path for one in made] == [tmp_path / "y.parquet", tmp_path / "x.parquet"]
    for one in made:
        assert (one.sources, one.place, one.driver) == ((str(pictures),), os.getcwd(), platform.node())
    assert lines == ["Connecting to Ray"]

    def settle(model: Any, options: Any, *_: Any, may_race: bool, **__: Any) -> None:
        raise Stop(f"{options['threads']} {may_race}")

    monkeypatch.setattr(job, "settle", settle)
    for threads in (2, 3):  # those of a worker there, or as many as were asked for
        with pytest.raises(Stop, match=f"^{threads} False$"):
            run("z.parquet", ray="local", **({} if threads == 2 else {"threads": threads}))


def test_vectors_go_on_as_rows_do(
    tmp_path: Path, tiny_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []
    inner = fake_engine.opening().__func__

    def from_pretrained(name: str, **options: Any) -> Predictor:
        opened.append(options)
        return inner(name, **options)

    def embedded(**options: Any) -> Summary:
        given: dict[str, Any] = {"model": tiny_folder, "batch_size": 2, "rows_per_part": 2, **options}
        return embed(pictures, out, **given)

    out = tmp_path / "x.parquet"
    monkeypatch.setattr(Predictor, "from_pretrained", staticmethod(from_pretrained))
    assert embedded().errors == 1
    assert opened[0]["confidence"] is False  # which no vector has
    assert (opened[0]["output"], lines(out)[0]["asked"]["embeddings"]) == ("features", ["float32", "none"])
    before = content(out)
    (out / "part-00000.parquet").unlink()
    monkeypatch.setattr("vit_hybrid.predict.work.instruction_sets", lambda: ["another"])
    with pytest.raises(ValueError, match="other instruction sets than before"):
        embedded(resume=True)
    assert embedded(resume=True, mixed=True).new_rows == 2
    assert content(out) == before
    with pytest.raises(ValueError, match="resume=True goes on with it"):
        embedded()
    (pictures / "5.jpg").write_bytes(sound(seed=5))
    assert embedded(retry_errors=True, mixed=True).errors == 0
    assert embedded(overwrite=True).new_rows == 10


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_there_stays_where_nothing_can_take_its_place(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    out = tmp_path / f"x{ending}"
    run(out.name)
    before = content(out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nothing: there is no such file or folder"):
        run(out.name, overwrite=True, model="nothing")
    for source, words in ((tmp_path / "empty", "no pictures"), (tmp_path / "nothing", "no such file or folder")):
        with pytest.raises(ValueError, match=words):
            run(out.name, source=source, overwrite=True)

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("the engine is not installed")

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "from_pretrained", fail)
        with pytest.raises(ValueError, match="the engine is not installed"):
            run(out.name, overwrite=True)
    assert content(out) == before
    assert run(out.name, resume=True).new_rows == 0
    few = tmp_path / "few"
    few.mkdir()
    (few / "0.jpg").write_bytes(sound())
    assert run(out.name, source=few, overwrite=True).rows == 1
    assert len(content(out)) == 1  # of what was there before nothing is left
    assert run(out.name, source=few, resume=True).new_rows == 0


def test_a_race_is_run_with_batches_of_the_size_that_was_given(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    told: Any = SimpleNamespace(tell=lines.append)

    def settle(model: Any, options: Any, batch_size: Any, *_: Any, tell: Any, **__: Any) -> None:
        if tell is not None:
            tell("races")
        raise Stop(batch_size)

    monkeypatch.setattr(job, "settle", settle)
    for size, progress in ((2, None), (7, told)):
        with pytest.raises(Stop, match=f"^{size}$"):
            run(batch_size=size, progress=progress)
    assert lines == ["races"]


def test_parts_that_one_file_becomes_again_are_no_data_while_they_lie_there(
    run: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("x.csv")
    (pictures / "10.jpg").write_bytes(sound(seed=10))
    write = LocalFolder.write

    def stopped(self: LocalFolder, name: str, content: bytes) -> None:
        if name.startswith("part-00005"):
            raise Stop
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", stopped)
        with pytest.raises(Stop):
            run("x.csv", resume=True)
    parts = tmp_path / "x.csv.parts"
    assert len([*parts.glob("part-*")]) == 5
    assert is_marked(parts)
    assert run("x.csv", resume=True).new_rows == 1
    assert not parts.exists()
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", stopped)
        with pytest.raises(Stop):
            run("x.csv", overwrite=True)
    assert not (tmp_path / "x.csv").exists()  # or what was there would be taken for what came of this
    assert len([*parts.glob("part-*")]) == 5


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_to_one_file_that_somebody_wrote_to_nothing_is_added(
    run: Any, tmp_path: Path, pictures: Path, ending: str
) -> None:
    out = tmp_path / f"x{ending}"
    run(out.name)
    before = out.read_bytes()
    out.write_bytes(before.replace(b"9.jpg", b"0.jpg"))
    (pictures / "10.jpg").write_bytes(sound(seed=10))
    for how in ("resume", "verify"):
        with pytest.raises(ValueError, match=rf"x{ending}: this is not what was written, .* or overwrite=True\."):
            run(out.name, **{how: True})
        assert out.read_bytes() == before.replace(b"9.jpg", b"0.jpg")
        assert not (tmp_path / f"x{ending}.parts").exists()
    out.write_bytes(before)
    assert run(out.name, resume=True).new_rows == 1


def test_a_run_anew_takes_nothing_away_that_no_run_wrote(run: Any, tmp_path: Path) -> None:
    run()
    (tmp_path / "x.parquet" / "notes.txt").write_text("mine")
    assert run(overwrite=True, rows_per_part=5).parts == 2
    assert (tmp_path / "x.parquet" / "notes.txt").read_text() == "mine"
    assert len(content(tmp_path / "x.parquet")) == 2


def test_sizes_of_parts_that_are_yet_to_come_follow_the_rate_up_and_down(tmp_path: Path, pictures: Path) -> None:
    manifest = Manifest(LocalLines(LocalFolder(tmp_path), "kept"))
    sizes = chain([4, 2, 2], repeat(3))
    run: Any = SimpleNamespace(_manifest=manifest, _may_have_grown=False, _size=sizes.__next__)
    shards = list(job._Run._shards(run, open_stream([str(pictures)]), set(), False))
    assert [shard.count for shard in shards] == [4, 2, 2, 2]
    assert [shard.first.row for shard in shards] == [0, 4, 6, 8]
    assert manifest.state.is_whole
    assert [*job._Run._shards(run, open_stream([str(pictures)]), {0, 1, 3}, False)] == [replace(shards[2], units=None)]


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_run_that_ended_before_its_first_part_is_gone_on_with(run: Any, tmp_path: Path, known: int) -> None:
    """When it was asked, when a worker had said what it is, and when the first part was settled."""
    out = tmp_path / "x.parquet"
    run()
    manifest = out / "_manifest.jsonl"
    before, expected = manifest.read_text().splitlines(keepends=True), content(out)
    manifest.write_text("".join(before[:known]))
    for part in out.glob("part-*"):
        part.unlink()
    assert run(resume=True).new_rows == 10
    kinds = [next(iter(line)) for line in lines(out)]
    assert [kinds.count(kind) for kind in ("format", "facts", "shard", "done", "end")] == [1, 1, 5, 5, 1]
    assert content(out) == expected


def test_parts_are_there_until_it_is_kept_that_they_became_one_file(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "join", stop)
        with pytest.raises(Stop):
            run("x.csv")
    assert len([*(tmp_path / "x.csv.parts").glob("part-*")]) == 5
    assert run("x.csv", resume=True).new_rows == 0
    run("y.csv")
    assert content(tmp_path / "x.csv") == content(tmp_path / "y.csv")


def test_parts_of_one_file_that_a_kill_left_behind_are_taken_away(run: Any, tmp_path: Path) -> None:
    run("x.csv")
    parts = tmp_path / "x.csv.parts"
    parts.mkdir()
    (parts / "part-00000.csv").write_text("of which the file was made\n")
    assert run("x.csv", resume=True).new_rows == 0
    assert not parts.exists()
