"""Rows of many pictures: each once and in its place, whatever stops the run and whoever goes on with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.engines.settling import Settled
from vit_hybrid.engines.ways import Way
from vit_hybrid.errors import JobStopped
from vit_hybrid.files import NoRoom, is_marked
from vit_hybrid.inference.facts import facts_of
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.inference.shards import Receipt, Shard
from vit_hybrid.predict import job
from vit_hybrid.predict.job import Summary, predict
from vit_hybrid.predict.places import LocalFolder

pq = pytest.importorskip("pyarrow.parquet", reason="rows in parquet need pyarrow")

BATCH = 4
ENDINGS = (".parquet", ".csv", ".jsonl")


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> list[fake_engine.Colors]:
    """Those that were loaded."""
    made: list[fake_engine.Colors] = []
    monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(engines=made))
    return made


def picture(path: Path, color: tuple[int, int, int] | None = None, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    levels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.new("RGB", size, color).save(path) if color else Image.fromarray(levels).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of ten pictures each, one of them with a broken one."""
    for name in "ab":
        for number in range(10):
            picture(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "a" / "5.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


@pytest.fixture
def run(tiny_folder: Path, pictures: Path, tmp_path: Path) -> Callable[..., Summary]:
    """`predict` over the pictures with settings for all tests."""

    def predicted(output: str = "x.parquet", source: Path = pictures, **options: Any) -> Summary:
        given = {"model": tiny_folder, "batch_size": BATCH, "rows_per_part": 3, "top_k": 2, **options}
        return predict(source, tmp_path / output, **given)

    return predicted


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder).to_pylist()


class TestRows:
    def test_one_for_each_picture_in_order(self, run: Any, tmp_path: Path, pictures: Path) -> None:
        summary = run()
        found = rows(tmp_path / "x.parquet")
        names = [f"{name}/{number}.png" for name in "ab" for number in range(10)]
        assert [row["path"] for row in found] == [str(pictures / name) for name in names]
        assert (found[0]["width"], found[0]["height"]) == (12, 10)
        assert all(len(row["labels"]) == len(row["probabilities"]) == 2 for row in found if not row["error"])
        [broken] = [row for row in found if row["error"]]
        assert broken["path"].endswith("a/5.png")
        assert (broken["error"], broken["labels"], broken["width"]) == ("not a picture", None, None)
        assert "not a picture" in broken["reason"]
        assert (summary.rows, summary.errors, summary.parts, summary.new_rows) == (20, 1, 7, 20)
        assert (summary.workers, summary.nodes) == (1, 1)

    def test_they_are_what_the_predictor_says(self, run: Any, tmp_path: Path, pictures: Path) -> None:
        run()
        first = rows(tmp_path / "x.parquet")[0]
        [best, second] = Predictor.from_pretrained("")(str(pictures / "a" / "0.png"), top_k=2)
        assert first["labels"] == [best["label"], second["label"]]
        assert first["probabilities"][0] == np.float32(best["probability"])

    def test_the_model_always_takes_as_many_pictures(self, run: Any, engines: list[fake_engine.Colors]) -> None:
        run()
        assert {size for engine in engines for size in engine.sizes} == {BATCH}

    def test_outputs_that_are_no_numbers_are_an_error_of_their_picture(
        self, run: Any, tmp_path: Path, pictures: Path
    ) -> None:
        picture(pictures / "a" / "0.png", (255, 255, 255))
        assert run().errors == 2
        row = rows(tmp_path / "x.parquet")[0]
        assert (row["error"], row["width"], row["labels"]) == ("outputs", 12, None)
        assert row["reason"] == "the model's outputs are not finite numbers in float32"

    def test_a_regression_has_values(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening("regression"))
        run()
        run("x.csv")
        row = rows(tmp_path / "x.parquet")[0]
        assert "labels" not in row
        assert len(row["values"]) == 3
        head, *_ = (tmp_path / "x.csv").read_text().splitlines()
        assert head == "path,width,height,value_1,value_2,value_3,error,reason"

    def test_several_labels_have_a_probability_each(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening("multi_label_classification"))
        run(top_k=9)
        assert sum(rows(tmp_path / "x.parquet")[0]["probabilities"]) > 1.5
        assert len(rows(tmp_path / "x.parquet")[0]["labels"]) == 3
        run("x.csv", top_k=9)
        head, *_ = (tmp_path / "x.csv").read_text().splitlines()
        ranked = ",".join(f"label_{rank},probability_{rank}" for rank in (1, 2, 3))
        assert head == f"path,width,height,{ranked},error,reason"

    def test_one_file_of_csv_or_json_lines(self, run: Any, tmp_path: Path) -> None:
        for ending in (".csv", ".jsonl"):
            summary = run(f"new/deep/x{ending}")
            lines = (tmp_path / "new" / "deep" / f"x{ending}").read_text().splitlines()
            assert len(lines) == 20 + (ending == ".csv")
            assert (summary.parts, summary.output) == (7, str(tmp_path / "new" / "deep" / f"x{ending}"))
            names = {path.name for path in (tmp_path / "new" / "deep").iterdir()}
            assert {name for name in names if f"x{ending}" in name} == {f"x{ending}", f"x{ending}.manifest.jsonl"}

    def test_part_sizes_follow_the_rate(self, run: Any, tmp_path: Path) -> None:
        run(rows_per_part=None)
        lines = [json.loads(line) for line in (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines()]
        shards = [line for line in lines if "shard" in line]
        # Two batches are read ahead, so that three parts are settled before anything is known of the rate.
        assert [shard["count"] for shard in shards[:3]] == [BATCH] * 3
        assert [shard["rate"] > 0 for shard in shards] == [False] * 3 + [True] * (len(shards) - 3)
        assert sum(shard["count"] for shard in shards) == 20

    def test_a_rate_is_half_of_the_newest_part(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seconds, inner = iter((1.5, 0.5, 1.0, 0.75, *[0.0] * 3)), job.PartWorker.through  # as a clock may have it

        def one_by_one(worker: job.PartWorker, shards: Iterator[Shard]) -> Iterator[Receipt]:
            for shard in shards:
                [receipt] = inner(worker, iter([shard]))
                yield replace(receipt, seconds=next(seconds))

        monkeypatch.setattr(job.PartWorker, "through", one_by_one)
        run()
        lines = [json.loads(line) for line in (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines()]
        assert [line["rate"] for line in lines if "shard" in line][:5] == [0, 2, 4, 3.5, 3.75]

    def test_the_first_parts_of_each_worker_are_to_take_a_second_and_others_ten(self) -> None:
        early = SimpleNamespace(_rows_per_part=None, _rate=64.0, _workers=2, _settings=SimpleNamespace(engine={}))
        for shards, expected in ((0, 64), (7, 64), (8, 512), (20, 512)):
            early._manifest = SimpleNamespace(state=SimpleNamespace(shards=[None] * shards))
            assert job._Run._size(early) == expected  # 64 a second, in powers of two of batches of 16
        early._manifest = SimpleNamespace(state=SimpleNamespace(shards=[]))
        for rate, expected in ((0.0, 16), (15.0, 16), (90.0, 64), (91.0, 128), (127.0, 128)):
            early._rate = rate  # of which the power of two is the nearest
            assert job._Run._size(early) == expected

    @pytest.mark.parametrize(("batch", "size"), [(16, 32_768), (24, 32_760), (3000, 30_000), (40_000, 40_000)])
    def test_however_fast_a_part_has_whole_batches_and_fits_into_memory(self, batch: int, size: int) -> None:
        run: Any = SimpleNamespace(_rows_per_part=None, _rate=1e9, _workers=1)
        run._settings = SimpleNamespace(engine={"batch_size": batch})
        run._manifest = SimpleNamespace(state=SimpleNamespace(shards=[None] * 9))
        assert job._Run._size(run) == size

    def test_a_shard_is_settled_before_its_pictures_are_read(self, run: Any, tmp_path: Path) -> None:
        run()
        lines = (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        kinds = [next(iter(line)) for line in found]
        assert kinds[:3] == ["format", "facts", "shard"]
        settled, done = ([line[kind] for line in found if kind in line] for kind in ("shard", "done"))
        assert settled == done == list(range(7))
        for number in range(7):
            begun, over = (
                next(place for place, line in enumerate(found) if line.get(kind) == number)
                for kind in ("shard", "done")
            )
            assert begun < over
            # No more is settled than is read: two batches, which this part and the three that follow are of.
            assert sum("shard" in line for line in found[:over]) <= number + 4

    def test_the_end_of_the_source_is_kept(self, run: Any, tmp_path: Path) -> None:
        run()
        lines = map(json.loads, (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines())
        assert [line for line in lines if "end" in line] == [{"end": True, "seen": {"end": 0}}]

    def test_the_folder_is_no_data(self, run: Any, pictures: Path) -> None:
        run("pictures/x.parquet")
        assert is_marked(pictures / "x.parquet")
        assert run("y.parquet").rows == 20


class Stop(Exception):
    """As if the process had been killed."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the run end at the writing of its n-th part."""

    def stop(number: int) -> None:
        write = LocalFolder.write
        left = iter(range(number, -1, -1))

        def writing(self: LocalFolder, name: str, content: bytes) -> None:
            if next(left, 0) == 0:
                raise Stop
            write(self, name, content)

        monkeypatch.setattr(LocalFolder, "write", writing)

    return stop


class TestGoingOn:
    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("number", [0, 1, 4])
    def test_what_was_stopped_becomes_what_nothing_disturbed(
        self, run: Any, tmp_path: Path, stop_at: Any, monkeypatch: pytest.MonkeyPatch, ending: str, number: int
    ) -> None:
        run(f"whole{ending}")
        with monkeypatch.context():
            stop_at(number)
            with pytest.raises(Stop):
                run(f"x{ending}")
            monkeypatch.undo()
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening())
        summary = run(f"x{ending}", resume=True)
        assert summary.new_rows == 20 - 3 * number
        whole, gone_on = tmp_path / f"whole{ending}", tmp_path / f"x{ending}"
        if ending == ".parquet":
            assert parts(gone_on) == parts(whole)
        else:
            assert gone_on.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_what_is_done_is_not_done_again(
        self, run: Any, tmp_path: Path, ending: str, engines: list[fake_engine.Colors], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = run(f"x{ending}")
        before = {path: path.read_bytes() for path in tmp_path.rglob("x*") if path.is_file()}
        before |= {path: path.read_bytes() for path in (tmp_path / f"x{ending}").glob("*")}
        engines.clear()
        monkeypatch.setattr("vit_hybrid.predict.work.stamp_of", lambda _: pytest.fail("a picture is looked at"))
        again = run(f"x{ending}", resume=True)
        assert not engines  # nor is the model loaded
        assert (again.rows, again.errors, again.parts) == (first.rows, first.errors, first.parts)
        assert (again.new_rows, again.workers, again.nodes) == (0, 0, 0)
        assert len(before) > 1
        assert {path: path.read_bytes() for path in before} == before

    @pytest.mark.parametrize("how", ["resume", "overwrite", "retry_errors", "verify"])
    def test_it_begins_where_there_is_nothing(self, run: Any, how: str) -> None:
        assert run(**{how: True}).new_rows == 20

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_source_that_grew_gets_new_shards(
        self, run: Any, tmp_path: Path, pictures: Path, ending: str, engines: list[fake_engine.Colors]
    ) -> None:
        out = tmp_path / f"x{ending}"
        run(out.name)
        before = parts(out) if ending == ".parquet" else out.read_bytes()
        picture(pictures / "a" / "05.png")
        picture(pictures / "c" / "0.png")
        summary = run(out.name, resume=True)
        assert (summary.rows, summary.new_rows) == (22, 2)
        if ending == ".parquet":
            assert before.items() <= parts(out).items()
            assert {Path(row["path"]).name for row in rows(out)[20:]} == {"05.png", "0.png"}
        else:
            assert out.read_bytes().startswith(before)
        assert run(out.name, resume=True).new_rows == 0

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_failed_rows_are_tried_again(self, run: Any, tmp_path: Path, pictures: Path, ending: str) -> None:
        (pictures / "b" / "7.png").write_bytes(b"")
        assert run(f"x{ending}").errors == 2
        picture(pictures / "a" / "5.png")
        summary = run(f"x{ending}", retry_errors=True)
        assert (summary.rows, summary.errors) == (20, 1)
        assert summary.new_rows == 6  # those of the two parts that had some
        run(f"whole{ending}")
        if ending == ".parquet":
            assert parts(tmp_path / "x.parquet") == parts(tmp_path / "whole.parquet")
        else:
            assert (tmp_path / f"x{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()

    def test_only_failed_rows_are_computed_again(self, run: Any, engines: list[fake_engine.Colors]) -> None:
        run()
        engines.clear()
        run(retry_errors=True)
        assert [engine.sizes for engine in engines] == [[]]  # the one that failed fails again

    def test_what_goes_on_computes_with_as_many_threads_as_before(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job, "threads_for", lambda workers: 3)
        run()
        (tmp_path / "x.parquet" / "part-00002.parquet").unlink()
        monkeypatch.setattr(job, "threads_for", lambda workers: 5)
        assert run(resume=True).new_rows == 3  # and is not refused for other facts
        facts = [json.loads(line) for line in (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines()]
        assert [line["facts"]["threads"] for line in facts if "facts" in line] == [3]

    @pytest.mark.parametrize("verify", [False, True])
    def test_a_part_that_is_gone_is_done_again(self, run: Any, tmp_path: Path, verify: bool) -> None:
        run()
        before = parts(tmp_path / "x.parquet")
        (tmp_path / "x.parquet" / "part-00002.parquet").unlink()
        assert run(resume=True, verify=verify).new_rows == 3
        assert parts(tmp_path / "x.parquet") == before

    @pytest.mark.parametrize("ending", ["csv", "jsonl"])
    def test_one_file_that_is_gone_is_done_again(self, run: Any, tmp_path: Path, ending: str) -> None:
        output = tmp_path / f"x.{ending}"
        before = run(output.name)
        content = output.read_bytes()
        assert run(output.name, resume=True).new_rows == 0
        output.unlink()
        again = run(output.name, resume=True)
        assert (again.new_rows, again.rows, output.read_bytes()) == (before.rows, before.rows, content)

    def test_a_full_disk_keeps_what_is_done(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = LocalFolder.write

        def full(self: LocalFolder, name: str, content: bytes) -> None:
            if name == "part-00003.parquet":
                raise NoRoom("x.parquet: the disk is full; make room, or give a place on another disk.")
            write(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "write", full)
            said = r"x\.parquet: .* on another disk\. What is done is kept; resume=True goes on\."
            with pytest.raises(JobStopped, match=f"^{said}$"):
                run()
        assert len(parts(tmp_path / "x.parquet")) == 3
        assert run(resume=True).new_rows == 11

    def test_a_source_that_vanishes_on_the_way(
        self, run: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = LocalFolder.write

        def vanish(self: LocalFolder, name: str, content: bytes) -> None:
            write(self, name, content)
            if name == "part-00001.parquet":
                shutil.rmtree(pictures / "b")

        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "write", vanish)
            with pytest.raises(JobStopped, match=r"b: .*the source changed while it was read; what is done is kept"):
                run()
        # Of those two batches that were read ahead, some may be of the folder that is gone: no such row is kept.
        assert 2 <= len(parts(tmp_path / "x.parquet")) <= 5
        assert all(row["error"] is None or row["path"].endswith("a/5.png") for row in rows(tmp_path / "x.parquet"))
        with pytest.raises(ValueError, match=r"the source is not what it was .*/b"):
            run(resume=True)


class TestVerifying:
    def test_all_is_as_it_was(self, run: Any) -> None:
        run()
        assert run(verify=True).new_rows == 0

    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_picture_that_was_written_to_is_named(self, run: Any, pictures: Path, ending: str) -> None:
        run(f"x{ending}")
        picture(pictures / "b" / "3.png", (9, 9, 9))
        with pytest.raises(ValueError, match=r"b/3\.png was written to since its row was"):
            run(f"x{ending}", verify=True)

    def test_names_that_are_no_utf_8_are_the_same_names(self, run: Any, pictures: Path, tmp_path: Path) -> None:
        shutil.copy(pictures / "a" / "0.png", os.fsencode(pictures / "a") + b"/\xe9.png")
        assert run().rows == 21
        assert run(verify=True).new_rows == 0

    def test_one_that_failed_may_be_another_now(self, run: Any, pictures: Path) -> None:
        run()
        picture(pictures / "a" / "5.png")
        assert run(verify=True).errors == 1

    def test_a_damaged_part_is_done_again(self, run: Any, tmp_path: Path) -> None:
        run()
        before = parts(tmp_path / "x.parquet")
        (tmp_path / "x.parquet" / "part-00001.parquet").write_bytes(b"damaged")
        assert run(verify=True).new_rows == 3
        assert parts(tmp_path / "x.parquet") == before


class TestRefusals:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_what_is_there_is_not_written_over(self, run: Any, tmp_path: Path, ending: str) -> None:
        run(f"x{ending}")
        said = rf"/x\{ending}: a run has written here; resume=True goes on with it, overwrite=True begins anew\.$"
        with pytest.raises(ValueError, match=said):
            run(f"x{ending}")
        assert run(f"x{ending}", overwrite=True, top_k=1).new_rows == 20

    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize("how", ["plain", "resume", "overwrite"])
    def test_what_somebody_else_wrote_is_left_alone(self, run: Any, tmp_path: Path, ending: str, how: str) -> None:
        out = tmp_path / f"x{ending}"
        if ending == ".parquet":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        else:
            out.write_text("mine")
        with pytest.raises(ValueError, match=rf"/x\{ending}: something lies here that this command did not write"):
            run(out.name, **({} if how == "plain" else {how: True}))

    def test_a_file_where_the_folder_would_be(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "x.parquet").write_text("mine")
        with pytest.raises(ValueError, match="something lies here"):
            run()

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"top_k": 1}, "top-k was 2 and is 1"),
            ({"batch_size": 8}, "batch size was 4 and is 8"),
            ({"fast_decode": True}, "fast decode was None and is True"),
            ({"threads": 77}, r"threads was \d+ and is 77"),
            ({"engine": "onnx"}, "engine was torch and is onnx"),
            ({"model": "vit-hybrid-tiny-imagenet"}, "other weights than before"),
        ],
    )
    def test_other_settings(self, run: Any, options: dict[str, Any], difference: str) -> None:
        run()
        advice = r"Give the same to go on, or overwrite=True to begin anew\.$"
        with pytest.raises(
            ValueError, match=rf"x\.parquet: this was begun with other settings: {difference}\. {advice}"
        ):
            run(resume=True, **options)

    def test_other_facts(self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run()
        (tmp_path / "x.parquet" / "part-00000.parquet").unlink()
        with monkeypatch.context() as patch:
            patch.setattr("vit_hybrid.predict.work.instruction_sets", lambda: ["abacus"])
            with pytest.raises(ValueError, match="other instruction sets than before"):
                run(resume=True)
        monkeypatch.setattr("vit_hybrid.predict.work.facts_of", lambda one: {**facts_of(one), "accelerator": "another"})
        for mixed in (False, True):  # which is of processors alone
            with pytest.raises(ValueError, match="accelerator was None and is another") as caught:
                run(resume=True, mixed=mixed)
            assert "mixed" not in str(caught.value)

    def test_another_source(self, run: Any, pictures: Path) -> None:
        run()
        with pytest.raises(ValueError, match="other sources than before"):
            run(resume=True, source=pictures / "a")

    @pytest.mark.parametrize("others", [[], ["30.png"]])
    def test_a_source_whose_pictures_are_gone(self, run: Any, pictures: Path, others: list[str]) -> None:
        run()
        (pictures / "b" / "3.png").unlink()
        for name in others:
            picture(pictures / "b" / name)
        advice = r"Bring it back, or begin anew \(overwrite=True\)\.$"
        with pytest.raises(ValueError, match=rf"x\.parquet: .* when these rows were written: .*/b: .*\. {advice}"):
            run(resume=True)

    @pytest.mark.parametrize(
        ("output", "options", "said"),
        [
            ("x.txt", {}, r"expected a name that ends in \.parquet, \.csv or \.jsonl"),
            (
                "x.csv",
                {"embeddings": True},
                r"^embeddings=True gives .* CSV has no column for; .* \.parquet or \.jsonl\.$",
            ),
            ("x.csv", {"top_k": 0}, "top_k is 0"),
            ("x.csv", {"workers": 0}, "workers is 0"),
            ("x.csv", {"rows_per_part": 0}, "rows_per_part is 0"),
            ("x.csv", {"overwrite": True, "resume": True}, "begins anew"),
            ("x.csv", {"overwrite": True, "verify": True}, "begins anew"),
            ("x.csv", {"overwrite": True, "retry_errors": True}, "begins anew"),
            ("x.csv", {"model": "nothing"}, "nothing: there is no such file or folder"),
        ],
    )
    def test_what_cannot_be_done(
        self, run: Any, tmp_path: Path, output: str, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            run(output, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["pictures"]

    def test_no_picture(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="no pictures"):
            run(source=tmp_path / "empty")
        assert not (tmp_path / "x.parquet").exists()

    def test_a_model_that_cannot_be_loaded_leaves_nothing(
        self, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ValueError("no engine")

        monkeypatch.setattr(Predictor, "from_pretrained", fail)
        for ending in ENDINGS:
            with pytest.raises(ValueError, match="no engine"):
                run(f"x{ending}")
        assert [path.name for path in tmp_path.iterdir()] == ["pictures"]

    def test_two_runs_at_once(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        fcntl = pytest.importorskip("fcntl", reason="this system does not lock files")
        run()

        def taken(*_: Any) -> None:
            raise OSError(11, os.strerror(11))

        monkeypatch.setattr(fcntl, "lockf", taken)
        with pytest.raises(OSError, match="another run is writing into this folder"):
            run(resume=True)


def test_a_processor_of_another_kind_is_refused_unless_it_may_take_part(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    (tmp_path / "x.parquet" / "part-00002.parquet").unlink()
    monkeypatch.setattr("vit_hybrid.predict.work.instruction_sets", lambda: ["another"])
    with pytest.raises(ValueError, match=r"other instruction sets than before.* \(with mixed=True .* may take part\)"):
        run(resume=True)
    assert run(resume=True, mixed=True).new_rows == 3


class TestHowItRuns:
    """What decides a row is settled before the first one, and stays so for whoever goes on."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What each engine was loaded with."""
        seen: list[dict[str, Any]] = []
        inner = fake_engine.opening().__func__

        def from_pretrained(name: str, **options: Any) -> Predictor:
            seen.append(options)
            return inner(name, **options)

        monkeypatch.setattr(Predictor, "from_pretrained", staticmethod(from_pretrained))
        return seen

    @staticmethod
    def facts(folder: Path) -> dict[str, Any]:
        lines = [json.loads(line) for line in (folder / "_manifest.jsonl").read_text().splitlines()]
        return next(line["facts"] for line in lines if "facts" in line)

    def test_follows_what_was_measured_and_keeps_it_in_the_manifest(
        self, run: Any, asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        way = Way("onnx", "f32", threads=1)
        races: list[dict[str, Any]] = []

        def settle(model: Any, options: Any, batch_size: Any, pictures: Any, **how: Any) -> Settled:
            races.append({"batch_size": batch_size, "pictures": pictures(), "output": options["output"], **how})
            return Settled(way, 8)

        monkeypatch.setattr(job, "settle", settle)
        run(batch_size=None)
        assert [(one["batch_size"], one["pictures"], one["may_race"]) for one in races] == [(None, 20, True)]
        assert (races[0]["output"], races[0]["steadily"]) == ("logits", True)
        assert {name: asked[0][name] for name in ("engine", "threads", "batch_size", "tuned")} == {
            "engine": "onnx",
            "threads": 1,
            "batch_size": 8,
            "tuned": False,
        }
        assert self.facts(tmp_path / "x.parquet")["way"] == {**asdict(way), "batch_size": 8}
        for part in (tmp_path / "x.parquet").glob("part-*2.parquet"):
            part.unlink()
        run(resume=True, batch_size=None)  # which never races
        assert len(races) == 1
        assert asked[-1] == asked[0]

    @pytest.mark.parametrize(
        ("given", "threads"), [({"workers": 2}, 20), ({"workers": 2, "threads": 3}, 3), ({}, None)]
    )
    def test_a_race_is_run_on_the_threads_of_a_worker(
        self, run: Any, given: dict[str, Any], threads: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def settle(model: Any, options: Any, *_: Any, **__: Any) -> Settled:
            raise Stop(options["threads"])

        monkeypatch.setattr(job, "settle", settle)
        monkeypatch.setattr(job, "threads_for", lambda workers: 10 * workers)
        with pytest.raises(Stop, match=f"^{threads}$"):
            run(**given)

    def test_where_nothing_was_measured_nothing_measured_later_counts(
        self, run: Any, asked: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        run()
        assert self.facts(tmp_path / "x.parquet")["way"] is None
        assert asked[0]["tuned"] is False
        assert asked[0]["batch_size"] == BATCH
        assert (asked[0]["output"], asked[0]["fill_batches"], asked[0]["confidence"]) == ("logits", True, True)
        run("y.csv", uncalibrated=True)
        assert asked[1]["confidence"] is False
