"""Evaluation of any source by any number of workers: scores are those of one process over pictures that it holds."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import shutil
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import fsspec
import made_confidence
import numpy as np
import pytest
import tiny_hybrid
from alike import same_but_for_rounding
from broken_pictures import huge_png, sound
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.cli import streams
from vit_hybrid.cli.main import app
from vit_hybrid.data import MULTI_LABEL, REGRESSION, SINGLE_LABEL, DataError, LabeledPictures, parquet, read_labeled
from vit_hybrid.data.listing import PICTURE
from vit_hybrid.data.pictures import Files
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream
from vit_hybrid.data.streams.outlines import unit_name
from vit_hybrid.data.streams.protocol import CLASS_FOLDER, Labeled, Place, Teller
from vit_hybrid.errors import JobStopped
from vit_hybrid.evaluate import Evaluation, Measured, counting, evaluate, many, measure
from vit_hybrid.evaluate.counting import Counted, Told, Wanted
from vit_hybrid.evaluate.labeling import Survey
from vit_hybrid.evaluate.pictures import matched
from vit_hybrid.evaluate.sources import MOST_PICTURES, Held, LabeledShard, Reader, Streamed, is_streamed, sizes
from vit_hybrid.evaluate.words import Mistake
from vit_hybrid.inference.cluster import Sharing
from vit_hybrid.inference.facts import INSTRUCTION_SETS
from vit_hybrid.inference.workers import in_this_process
from vit_hybrid.outputs import confidence
from vit_hybrid.outputs.assessment import AssessmentTally

COLORS = ("blue", "green", "red")
EACH = 13
BATCH = 4


def picture(color: str, number: int) -> Image.Image:
    """Of a color, mostly; of some numbers of another."""
    shown = COLORS[(COLORS.index(color) + 1) % 3] if number % 4 == 1 else color
    noise = np.random.default_rng(number).integers(0, 90, (12, 12, 3), dtype=np.uint8)
    return Image.blend(Image.new("RGB", (12, 12), shown), Image.fromarray(noise), 0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 39 pictures, two of which are broken; only to be read."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for color in COLORS:
        (root / color).mkdir(parents=True)
        for number in range(EACH):
            picture(color, number).save(root / color / f"{number:02}.png")
    (root / "blue" / "05.png").write_bytes(b"no picture")
    (root / "red" / "12.png").write_bytes((root / "red" / "11.png").read_bytes()[:90])
    return root


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "model" not in request.fixturenames:
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening())


def pictures_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.parent.name, path.read_bytes()) for path in sorted(folder.glob("*/*.png"))]


def expected(data: Path, problem_type: str = SINGLE_LABEL, **options: Any) -> Evaluation:
    predictor = fake_engine.opening(problem_type).__func__("a model", batch_size=BATCH)
    return evaluate(predictor, read_labeled(data, **options))


def streamed(*names: str | Path, known: bool = False, limit: int | None = None, **options: Any) -> Measured:
    columns = {name: options.pop(name) for name in ("image_column", "label_column") if name in options}
    source = Streamed([*map(str, names)], None, **columns, known=known, limit=limit)
    return measure("a model", source, Reader(source.stream), batch_size=BATCH, **options)


def assert_same(found: Measured, other: Evaluation) -> None:
    assert found.images == len(other.paths)
    assert len(found.skipped) == len(other.skipped)
    same_but_for_rounding(dict(found.scores), dict(other.scores))
    same_but_for_rounding(dict(found.assessment), dict(other.assessment))


def tar_of(path: Path, pictures: list[tuple[str, bytes]], ending: str = "cls", after: bool = False) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, (label, content) in enumerate(pictures):
            text = json.dumps({"label": label, "width": 12}) if ending == "json" else label
            members = [(f"{number:05}.png", content), (f"{number:05}.{ending}", text.encode())]
            for name, data in members if after else members[::-1]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


class TestSources:
    def test_class_folders_behind_an_address(self, folder: Path) -> None:
        files = fsspec.filesystem("memory")
        for path in folder.glob("*/*.png"):
            files.pipe(f"/photos-to-measure/{path.parent.name}/{path.name}", path.read_bytes())
        try:
            assert_same(streamed("memory://photos-to-measure"), expected(folder))
        finally:
            files.rm("/photos-to-measure", recursive=True)

    def test_splits_behind_an_address(self, folder: Path) -> None:
        files = fsspec.filesystem("memory")
        for split, color, number in (("train", "red", 1), ("test", "red", 0), ("test", "blue", 2)):
            content = (folder / color / f"{number:02}.png").read_bytes()
            files.pipe(f"/with-splits/{split}/{color}/{number}.png", content)
        try:
            source = Streamed(["memory://with-splits"], None)
            assert (source.split, source.surveyed(None, BATCH).counts) == ("test", {"red": 1, "blue": 1})
            for name in ("train", "Training"):
                source = Streamed(["memory://with-splits"], name)
                assert (source.split, source.surveyed(None, BATCH).counts) == ("train", {"red": 1})
            with pytest.raises(DataError, match="no split 'val'; there are test, train"):
                Streamed(["memory://with-splits"], "val")
            files.pipe("/with-others/val/red/0.png", content)
            names = ["memory://with-splits", "memory://with-others"]
            for split, lacking, has in (("val", names[0], "test, train"), ("test", names[1], "val")):
                with pytest.raises(DataError, match=f"^{lacking}: no split '{split}'; there are {has}$"):
                    Streamed(names, split)
            with pytest.raises(DataError, match=r"^memory://with-others/val: no split 'val'; it has no splits$"):
                Streamed(["memory://with-others/val"], "val")
            source = Streamed(["memory://with-splits/train"], None)
            assert (source.split, source.surveyed(None, BATCH).counts) == (None, {"red": 1})
            files.rm("/with-splits/test", recursive=True)
            source = Streamed(names[:1], None)  # which has neither of those that are preferred: all of it
            assert (source.split, source.surveyed(None, BATCH).pictures) == (None, 1)
            files.pipe("/with-splits/test/red/0.png", content)
            files.pipe("/with-splits/test/blue/2.png", content)
            both = Streamed(["memory://with-others/val", *names[:1]], "test")
            assert (both.split, both.surveyed(None, BATCH).counts) == ("test", {"red": 2, "blue": 1})
        finally:
            for name in ("/with-splits", "/with-others"):
                files.rm(name, recursive=True)

    @pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "{blue,green,red}/*.png"])
    def test_globs(self, folder: Path, pattern: str) -> None:
        assert_same(streamed(folder / pattern), expected(folder))

    def test_named_pictures_are_of_the_folder_they_lie_in(self, folder: Path) -> None:
        assert_same(streamed(*sorted(folder.glob("*/*.png"))), expected(folder))

    @pytest.mark.parametrize(("ending", "after"), [("cls", False), ("cls", True), ("json", True)])
    def test_samples_of_tars(self, folder: Path, tmp_path: Path, ending: str, after: bool) -> None:
        """Of more samples than a block of a tar has, what is said before or behind each picture."""
        pictures = pictures_of(folder) * 4
        half = len(pictures) // 2
        tars = [tar_of(tmp_path / f"{part}.tar", pictures[part * half :][:half], ending, after) for part in range(2)]
        copies = tmp_path / "copies"
        for number, (color, content) in enumerate(pictures):
            (copies / color).mkdir(parents=True, exist_ok=True)
            (copies / color / f"{number:05}.png").write_bytes(content)
        assert_same(streamed(*tars), expected(copies))

    def test_numbers_are_positions_of_the_models_labels(self, folder: Path, tmp_path: Path) -> None:
        labels = fake_engine.Colors().spec.labels
        numbered = [(str(labels.index(color)), content) for color, content in pictures_of(folder)]
        found = streamed(tar_of(tmp_path / "a.tar", numbered))
        assert_same(found, expected(folder))
        assert (
            "bare integers, taken for positions among the model's labels: 0 is red, 1 is green, 2 is blue"
            in found.notes[0]
        )

    def test_globs_of_tables(self, folder: Path, tmp_path: Path) -> None:
        for color in COLORS:
            with open(tmp_path / f"{color}.csv", "w", newline="") as file:
                rows = [[path, color] for path in sorted((folder / color).glob("*.png"))]
                csv.writer(file).writerows([["image", "what", "label"], *([path, "x", label] for path, label in rows)])
        assert_same(streamed(tmp_path / "*.csv"), expected(folder))
        assert_same(streamed(tmp_path / "*.csv", label_column="label", image_column="image"), expected(folder))
        for color in COLORS:
            with open(tmp_path / f"{color}.tsv", "w", newline="") as file:
                rows = [["old.png", path, "x", color] for path in sorted((folder / color).glob("*.png"))]
                csv.writer(file, delimiter="\t").writerows([["image", "where", "label", "what"], *rows])
        assert_same(streamed(tmp_path / "*.tsv", label_column="what", image_column="where"), expected(folder))

    def test_globs_of_json_lines(self, folder: Path, tmp_path: Path) -> None:
        for color in COLORS:
            rows = [{"file_name": str(path), "label": color} for path in sorted((folder / color).glob("*.png"))]
            (tmp_path / f"{color}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert_same(streamed(tmp_path / "*.jsonl"), expected(folder))

    def test_lists_of_labels_in_json_lines(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(MULTI_LABEL))
        paths = sorted(folder.glob("*/*.png"))
        rows = [{"path": str(path), "labels": [path.parent.name, "red"][: 1 + at % 2]} for at, path in enumerate(paths)]
        table = tmp_path / "x.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert_same(streamed(tmp_path / "?.jsonl"), expected(table, MULTI_LABEL))

    def test_globs_of_parquet(self, folder: Path, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        labels = fake_engine.Colors().spec.labels
        for number, part in enumerate(np.array_split(np.arange(3 * EACH), 2)):
            pictures = [pictures_of(folder)[index] for index in part]
            table = pa.table(
                {
                    "image": [{"bytes": content, "path": None} for _, content in pictures],
                    "label": [labels.index(color) for color, _ in pictures],
                }
            )
            feature = {"label": {"_type": "ClassLabel", "names": list(labels)}, "image": {"_type": "Image"}}
            about = {"huggingface": json.dumps({"info": {"features": feature}})}
            pq.write_table(table.replace_schema_metadata(about), tmp_path / f"{number}.parquet", row_group_size=7)
        assert_same(streamed(tmp_path / "*.parquet"), expected(folder))

    def test_pictures_beside_class_folders(self, folder: Path, tmp_path: Path) -> None:
        files = fsspec.filesystem("memory")
        files.pipe("/beside/0.png", (folder / "red" / "00.png").read_bytes())
        with pytest.raises(DataError, match="no labels: no picture lies in a folder of its class"):
            streamed("memory://beside")
        files.pipe("/beside/red/0.png", (folder / "red" / "00.png").read_bytes())
        try:
            found = streamed("memory://beside")
            assert (found.images, found.notes[0][-3:]) == (1, ": 1")
        finally:
            files.rm("/beside", recursive=True)


class TestLabels:
    def test_unknown_ones_are_refused_before_a_picture_is_read(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pictures = [*pictures_of(folder), ("mauve", b"never read")]
        monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("a picture is read"))
        with pytest.raises(DataError, match=r"labels that the model does not know: mauve; .*known_only"):
            streamed(tar_of(tmp_path / "a.tar", pictures))

    def test_known_only(self, folder: Path, tmp_path: Path) -> None:
        pictures = pictures_of(folder)
        mixed = [one for pair in zip(pictures, [("mauve", b"never read")] * len(pictures), strict=True) for one in pair]
        found = streamed(tar_of(tmp_path / "a.tar", mixed), known=True)
        assert_same(found, expected(folder))
        assert found.notes[-1].startswith("left out: 39 pictures of labels that the model does not know (mauve)")
        strangers = open_stream([str(folder / "blue")])
        found = streamed(tar_of(tmp_path / "b.tar", mixed[:8]), known=True, strangers=strangers)
        assert [note.split(":")[0].split(",")[0] for note in found.notes] == [
            *("left out", "how familiar pictures are was not fitted for this model"),
        ]

    def test_one_label_that_is_not_known_leaves_a_picture_out_whatever_else_it_has(self) -> None:
        teller = Teller("labels")
        given = [["a", "b"], ["b"], ["zz"], ["a", "yy"], []]
        labeled = [Labeled(f"{at}.png", labels, teller) for at, labels in enumerate(given)]
        labeled.insert(2, Labeled("gone", None, None))
        survey = Survey(MULTI_LABEL, False)
        survey.add(labeled[:3])
        survey.add(labeled[3:])
        assert (survey.pictures, survey.errors, survey.counts) == (5, 1, {"a": 2, "b": 2, "zz": 1, "yy": 1})
        assert survey.beside == 0
        model: Any = SimpleNamespace(problem_type=MULTI_LABEL, labels=["b", "a", "c"])
        with pytest.raises(DataError, match=r"does not know: (zz, yy|yy, zz);"):
            survey.targeting(model, False)
        found = survey.targeting(model, True)
        assert (found.places, {*found.unknown}, found.pictures) == ({"b": 0, "a": 1}, {"yy", "zz"}, 6)
        targets, scored = found.targets(labeled)
        assert targets[scored].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
        assert scored.tolist() == [True, True, True, False, False, True]

    def test_one_piece_of_several_labels_a_picture_says_that_all_are(self) -> None:
        survey, teller = Survey(MULTI_LABEL, False), Teller("label", is_text=True)
        in_folder, in_table = Labeled("a/0.png", 0, Teller(CLASS_FOLDER, names=("a",))), Labeled("1.png", "a", teller)
        model: Any = SimpleNamespace(problem_type=MULTI_LABEL, labels=["a", "b"])
        for labels in (["a", "b"], ["a|b"], ["b"]):
            survey.add([Labeled(f"{label}.png", label, teller) for label in labels])
            if labels == ["a", "b"]:
                with pytest.raises(
                    DataError, match=rf"is '{MULTI_LABEL}', but .* are those of '{SINGLE_LABEL}' \(a, b\)"
                ):
                    survey.targeting(model, False)
        assert (survey.counts, survey.targeting(model, False).pictures) == ({"a": 2, "b": 3}, 4)
        for mixed in ([in_folder, in_table], [in_table, in_folder]):
            with pytest.raises(DataError, match=f"is '{MULTI_LABEL}', but .* are those of '{SINGLE_LABEL}'"):
                Survey(MULTI_LABEL, False).add(mixed)

    @pytest.mark.parametrize(("is_guess", "kind"), [(True, SINGLE_LABEL), (False, MULTI_LABEL)])
    def test_switches_that_nobody_named_are_one_class_a_picture(self, is_guess: bool, kind: str) -> None:
        teller = Teller("cat, dog", parts=("cat", "dog"), is_guess=is_guess)
        survey = Survey(None, False)
        survey.add([Labeled(f"{at}.png", label, teller) for at, label in enumerate(([1, 0], [0, 1], [1, 0]))])
        assert (survey.problem_type, survey.counts) == (kind, {"cat": 2, "dog": 1})

    def test_pictures_of_no_class_are_counted_over_all_of_a_stream(self) -> None:
        beside, inside = (Teller(CLASS_FOLDER, names=("cat",)) for _ in range(2))
        survey = Survey(SINGLE_LABEL, False)
        for names, label in (("ab", None), ("cde", 0), ("f", None)):
            survey.add([Labeled(name, label, beside if label is None else inside) for name in names])
        assert (survey.beside, survey.pictures, survey.counts) == (3, 3, {"cat": 3})
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["cat", "dog"])
        assert survey.targeting(model, False).notes[0].endswith("belong to no class and are passed over: 3")
        numbered = Survey(SINGLE_LABEL, False)
        numbered.add([Labeled("a", None, beside), Labeled("b", "1", Teller("label", is_text=True))])
        of_beside, of_numbers = numbered.targeting(model, False).notes
        assert (of_beside[-3:], of_numbers[-8:]) == (": 1", "1 is dog")

    def test_outputs_of_one_name_are_told_apart(self, folder: Path) -> None:
        """ImageNet has two cranes."""
        survey = Survey(SINGLE_LABEL, False)
        survey.add([Labeled(f"{label}.png", label, Teller("label", is_text=True)) for label in ("4", "0")])
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=[*COLORS, "crane", "crane"])
        names = (*COLORS, "crane (3)", "crane (4)")
        found = survey.targeting(model, False)
        assert (found.labels, found.places) == (names, {"4": 4, "0": 0})
        assert found.notes[0].endswith(": 0 is blue, 4 is crane (4)")
        assert matched(model, read_labeled(folder))[1] == [*names]

    def test_a_label_of_no_picture_need_not_be_known(self) -> None:
        pictures = LabeledPictures(Files.of("", ("0.png",)), SINGLE_LABEL, ("emu", "yak"), np.array([1]))
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["gnu", "yak"])
        found, names, notes = matched(model, pictures)
        assert (found.targets.tolist(), names, notes) == ([1], ["gnu", "yak"], [])

    def test_words_for_what_is_missing_are_classes_where_that_is_said(self) -> None:
        labeled = [
            Labeled(f"{at}.png", label, Teller("label", is_text=True)) for at, label in enumerate(["NA", "cat", "NA"])
        ]
        survey = Survey(SINGLE_LABEL, True)
        survey.add(labeled)
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["cat", "NA"])
        targets, scored = survey.targeting(model, False).targets(labeled)
        assert (survey.counts, targets.tolist(), scored.all()) == ({"NA": 2, "cat": 1}, [1, 0, 1], True)

    def test_that_they_are_classes_reaches_all_tables(self, folder: Path, tmp_path: Path) -> None:
        for name, label in (("a.csv", "NA"), ("b.csv", "cat")):
            (tmp_path / name).write_text(f"image,label\n{folder / 'red' / '00.png'},{label}\n")
        source = Streamed([str(tmp_path / "*.csv")], None, na_as_class=True)
        assert source.surveyed(SINGLE_LABEL, BATCH).counts == {"NA": 1, "cat": 1}
        with pytest.raises(DataError, match="has no label"):
            Streamed([str(tmp_path / "*.csv")], None).surveyed(SINGLE_LABEL, BATCH)

    def test_a_folder_that_cannot_be_looked_into_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def scan(*_: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        store = SimpleNamespace(kind=lambda name: "folder", scan=scan)
        monkeypatch.setattr("vit_hybrid.evaluate.sources.store_of", lambda name: store)
        with pytest.raises(DataError, match=r"^in/photos: cannot be read: .*Permission denied$"):
            Streamed(["in/photos"], None)

    def test_pictures_to_score_are_those_of_labels_that_are_known_and_errors(self) -> None:
        teller = Teller("label", is_text=True)
        labeled = [Labeled(f"{at}.png", label, teller) for at, label in enumerate(["dog", "yak", "cat", "yak", "dog"])]
        survey = Survey(SINGLE_LABEL, False)
        survey.add([*labeled, Labeled("gone", None, None)])
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["cat", "dog"])
        found = survey.targeting(model, True)
        assert (found.unknown, found.pictures) == (("yak",), 4)
        targets, scored = found.targets(labeled)
        assert (targets[scored].tolist(), scored.tolist()) == ([1, 0, 1], [True, False, True, False, True])
        model.labels = ["emu", "owl"]
        targets, scored = found.targets([Labeled("gone", None, None), Labeled("x.png", None, Teller(CLASS_FOLDER))])
        assert (targets.tolist(), scored.tolist()) == ([0, 0], [True, False])  # an error is told of
        with pytest.raises(DataError, match=r"none of the labels would be left: .*dog"):
            survey.targeting(model, True)
        of_folders = Survey(SINGLE_LABEL, False)
        of_folders.add([Labeled("0.png", 0, Teller(CLASS_FOLDER, names=("yak", "emu")))])  # and none of an emu
        with pytest.raises(DataError, match=r"none of the labels would be left: .*yak"):
            of_folders.targeting(model, True)
        model.labels = ["yak", "gnu"]
        assert of_folders.targeting(model, False).places == {"yak": 0}  # a folder without a picture needs no label

    @pytest.mark.parametrize(("is_guess", "kind"), [(True, SINGLE_LABEL), (False, MULTI_LABEL)])
    def test_columns_that_nobody_named_say_which_one_it_is(self, is_guess: bool, kind: str) -> None:
        teller = Teller("cat, dog", parts=("cat", "dog"), is_guess=is_guess)
        labeled = [Labeled(f"{at}.png", [at, 1 - at], teller) for at in (1, 0, 1)]
        survey = Survey(None, False)
        survey.add(labeled)
        assert (survey.problem_type, survey.counts) == (kind, {"cat": 2, "dog": 1})

    def test_a_sample_without_one_is_named(self, folder: Path, tmp_path: Path) -> None:
        path = tar_of(tmp_path / "a.tar", pictures_of(folder))
        with tarfile.open(path, "a") as archive:
            archive.add(folder / "red" / "00.png", "alone.png")
        with pytest.raises(DataError, match=r"a\.tar, alone .*has no label"):
            streamed(path)

    def test_a_list_of_paths_has_none(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(str(folder / "red" / "00.png"))
        (tmp_path / "b.txt").write_text(str(folder / "red" / "00.png"))
        with pytest.raises(ValueError, match="a list of paths; expected CSV, TSV or JSON Lines with a"):
            streamed(tmp_path / "a.txt", tmp_path / "b.txt")

    def test_a_column_of_splits_is_not_taken_for_all(self, folder: Path, tmp_path: Path) -> None:
        text = f"image,label,split\n{folder / 'red' / '00.png'},red,train\n"
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="its column split names splits"):
            streamed(tmp_path / "*.csv")

    def test_those_of_another_kind_are_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for kind in (MULTI_LABEL, REGRESSION):
            monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(kind))
            with pytest.raises(DataError, match=f"problem_type is '{kind}', but the data's labels are those of 'sing"):
                streamed(folder / "*" / "*.png")


class TestOtherProblems:
    def test_several_labels_rank_all_pictures(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        random = np.random.default_rng(2)
        with open(tmp_path / "all.csv", "w", newline="") as file:
            rows = []
            for path in sorted(folder.glob("*/*.png")):
                labels = [color for color in COLORS if random.random() < 0.4]
                rows.append([path, "|".join(labels)])
            csv.writer(file).writerows([["image", "labels"], *rows])
        for part in range(2):
            with open(tmp_path / f"part-{part}.csv", "w", newline="") as file:
                csv.writer(file).writerows([["image", "labels"], *rows[part * 20 :][:20]])
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(MULTI_LABEL))
        assert_same(streamed(tmp_path / "part-*.csv"), expected(tmp_path / "all.csv", MULTI_LABEL))

    def test_values(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = [
            f"{path},{number / 8},{number},{1000 - 3 * number}"
            for number, path in enumerate(sorted(folder.glob("*/*.png")))
        ]
        head = "image,blue,green,red"
        (tmp_path / "all.csv").write_text("\n".join([head, *lines]))
        for part in range(2):
            (tmp_path / f"part-{part}.csv").write_text("\n".join([head, *lines[part * 20 :][:20]]))
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(REGRESSION))
        columns = "blue,green,red"
        found = streamed(tmp_path / "part-*.csv", label_column=columns, mistakes=5)
        other = expected(tmp_path / "all.csv", REGRESSION, label_column=columns)
        assert_same(found, other)
        assert [mistake for mistake, _ in found.worst(5)[0]] == other.mistakes(5)  # each value in its own unit


class TestWhole:
    def test_table_and_mistakes_are_those_of_one_process(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vit_hybrid.evaluate.sources.MOST_PICTURES", BATCH)  # so that there are several shards
        found, other = streamed(folder / "*" / "*.png", table=True, mistakes=4), expected(folder)
        texts = []
        for one in (found, other):
            texts.append(io.StringIO(newline=""))
            one.write_table(texts[-1])
        assert texts[0].getvalue() == texts[1].getvalue()
        (ours, wrong), (theirs, all_wrong) = (one.worst(4) for one in (found, other))
        assert wrong == all_wrong > 4
        for (mistake, image), (expected_mistake, expected_image) in zip(ours, theirs, strict=True):
            assert mistake == expected_mistake
            assert image.tobytes() == expected_image.tobytes()

    def test_deviations_are_those_of_each_value(self) -> None:
        values = np.float32([[1, 40], [3, 40], [5, 70]])
        pictures = LabeledPictures(Files.of("", ("0.png", "1.png", "2.png")), REGRESSION, ("x", "y"), values)
        found = Held(pictures, lambda given, _: given, False, None).deviations()
        np.testing.assert_allclose(found, [8**0.5 / 3**0.5, 200**0.5], rtol=1e-6)

    def test_deviations_of_a_stream_are_those_of_its_pictures_alone(self) -> None:
        teller = Teller("x, y, z", parts=("x", "y", "z"))
        survey = Survey(REGRESSION, False)
        survey.add([Labeled("0.png", [1.5, 40.5, 6], teller), Labeled("1.png", [3.5, 40.5, 6], teller)])
        survey.add([Labeled("gone", None, None), Labeled("2.png", [5.5, 70.5, 9], teller)])
        model: Any = SimpleNamespace(problem_type=REGRESSION, labels=["y", "z", "x"])
        found = survey.targeting(model, False)
        np.testing.assert_allclose(found.deviations, [200**0.5, 2**0.5, 8**0.5 / 3**0.5], rtol=1e-6)
        assert found.pictures == 4
        survey = Survey(REGRESSION, False)
        survey.add([Labeled(f"{at}.png", 0.7, Teller("x")) for at in range(99)])  # whose squares are less than exact
        model.labels = ["x"]
        assert survey.targeting(model, False).deviations.tolist() == [0.0]

    def test_labels_are_numbers_where_all_of_them_are(self) -> None:
        teller = Teller("label", is_text=True)
        survey = Survey(SINGLE_LABEL, False)
        for label in ("cat", "1"):
            survey.add([Labeled(f"{label}.png", label, teller)])
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["cat", "dog"])
        with pytest.raises(DataError, match=r"\b1\b"):
            survey.targeting(model, False)

    def test_a_limit_is_spread_over_the_known_pictures_of_all_shards(self, folder: Path) -> None:
        source = Streamed([str(folder / "*" / "*.png")], None, known=True, limit=5)
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["red", "green"])
        assert source.begin(model)[2] == 5
        shards = list(source.shards(BATCH))
        assert [shard.number for shard in shards] == list(range(len(shards)))
        places = [shard.start + place for shard in shards for place in shard.picked.tolist()]
        assert places == [EACH + one * 26 // 5 for one in range(5)]
        assert np.concatenate([shard.targets for shard in shards]).tolist() == [1, 1, 1, 0, 0]
        [note] = source.last_notes()
        assert note.startswith("left out: 13 pictures of labels that the model does not know (blue)")
        labels = {"0.png": "red", "1.png": "blue", "2.png": "blue", "3.png": "green"}
        teller, place = Teller("label", is_text=True), Place("0:0:list:0:a.csv", 0)
        labeled = [*(Labeled(name, label, teller) for name, label in labels.items()), Labeled("gone", None, None)]
        labeled.append(Labeled("beside.png", None, Teller(CLASS_FOLDER)))
        found: Any = SimpleNamespace(first=place, last=place, rows=6, units={})
        source.stream = SimpleNamespace(labeled_ranges=lambda _: iter([(found, labeled)]))  # type: ignore[assignment]
        source.begin(model)
        [shard] = source.shards(BATCH)
        assert (shard.picked.tolist(), shard.count) == ([0, 3, 4], 6)  # with what is an error in the place of some
        [note] = source.last_notes()
        assert note.startswith(f"left out: {13 + 2} pictures")
        for most in (26, 27, 1000):  # as many as there are, and more
            whole = Streamed([str(folder / "*" / "*.png")], None, known=True, limit=most)
            assert whole.begin(model)[2] == sum(len(shard.targets) for shard in whole.shards(BATCH)) == 2 * EACH

    def test_a_limit_counts_known_pictures_alone(self, folder: Path) -> None:
        source = Held(read_labeled(folder), lambda given, _: given, True, 5)
        model: Any = SimpleNamespace(problem_type=SINGLE_LABEL, labels=["red", "green"])
        labels, _, count = source.begin(model)
        assert (labels, count) == (("red", "green"), 5)
        assert sum(len(shard.targets) for shard in source.shards(BATCH)) == 5

    def test_shards_of_pictures_that_are_held_are_all_of_them_in_their_order(self, folder: Path) -> None:
        pictures = read_labeled(folder)
        held = Held(pictures, lambda given, _: given, False, None)
        names, notes, count = held.begin(fake_engine.Colors().spec)
        assert (sorted(names), notes, count) == ([*COLORS], [], 3 * EACH)
        shards = list(held.shards(16))
        assert [(shard.number, shard.start, shard.count) for shard in shards] == [(0, 0, 16), (1, 16, 16), (2, 32, 7)]
        assert [(shard.first.row, shard.last.row) for shard in shards] == [(0, 15), (16, 31), (32, 38)]
        for shard in shards:  # of which the pictures are named where they end a worker
            ends = [(unit_name(place.unit).path, place.row) for place in (shard.first, shard.last)]
            assert ends == [(pictures.name(at), at) for at in (shard.start, shard.start + shard.count - 1)]
        found = [name for shard in shards for name, _ in Reader().read(shard)]
        assert found == [pictures.name(at) for at in range(3 * EACH)]
        truth = [names[target] for shard in shards for target in shard.targets]
        assert truth == [Path(name).parent.name for name in found]
        assert Reader().source(shards[1], 3)[0] == found[19]

    def test_shards_are_small_at_first_where_several_share_them_and_large_for_one(self, folder: Path) -> None:
        held = Held(read_labeled(folder), lambda given, _: given, False, None)
        for source in (held, Streamed([str(folder / "*" / "*.png")], None)):
            source.begin(fake_engine.Colors().spec)
            assert [shard.count for shard in source.shards(2)] == [2] * 16 + [4, 3]
            assert [shard.count for shard in source.shards(2, False)] == [3 * EACH]

    @pytest.mark.parametrize(
        ("kind", "head", "label"),
        [
            (SINGLE_LABEL, "label", lambda at: COLORS[at % 3]),
            (MULTI_LABEL, "labels", lambda at: "red|blue" if at % 2 else "green"),
            (REGRESSION, "blue,green,red", lambda at: f"{at / 8},{at / 2},{at / 3}"),
        ],
    )
    def test_a_shard_of_which_nothing_can_be_read_is_passed_over(
        self, kind: str, head: str, label: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vit_hybrid.evaluate.sources.MOST_PICTURES", BATCH)
        monkeypatch.setattr(Predictor, "from_pretrained", fake_engine.opening(kind))
        paths = [tmp_path / "gone.png"] * BATCH + [path for path in sorted(folder.glob("*/*.png")) if path.stem < "04"]
        rows = [f"{path},{label(at)}\n" for at, path in enumerate(paths)]
        (tmp_path / "0.csv").write_text("".join([f"image,{head}\n", *rows]))
        columns = {"label_column": head} if kind == REGRESSION else {}
        found = streamed(tmp_path / "?.csv", table=True, mistakes=3, **columns)
        other = expected(tmp_path / "0.csv", kind, **columns)
        assert_same(found, other)
        assert (found.images, len(found.skipped)) == (12, BATCH)
        text, theirs = io.StringIO(newline=""), io.StringIO(newline="")
        found.write_table(text)
        other.write_table(theirs)
        assert text.getvalue() == theirs.getvalue()
        assert [mistake for mistake, _ in found.worst(3)[0]] == other.mistakes(3)

    def test_the_worst_of_all_shards_are_kept_whichever_was_done_first(self) -> None:
        nothing: Any = None
        wanted = Wanted(mistakes=3)
        told: list[tuple[int, list[Any]]] = []
        progress: Any = SimpleNamespace(advance=lambda *what: told.append(what))
        run = many._Run("a model", nothing, nothing, (), Sharing(), False, False, wanted, None, progress, {})
        place = Place("unit", 0)
        run._given = {number: Told(number, place, place, 6, targets=np.zeros(4)) for number in (0, 1)}
        table = io.BytesIO()

        def take(number: int, worst: list[tuple[float, int]], skipped: int) -> None:
            mistakes = [(bad, at, Mistake(at, f"{number}/{at}", "", "", None)) for bad, at in worst]
            error: Any = {"path": f"{number}/{skipped}", "error": "is empty"}
            row, known = f"{number}\n" * (number + 1), (AssessmentTally(), np.empty((0, 0), np.float32))
            told = Counted(number, nothing, [(skipped, error)], row, 2, mistakes, None, None, known, None, "here")
            run._take(told, table, SimpleNamespace(take=lambda *_: None))  # type: ignore[arg-type]

        take(1, [(0.9, 2), (0.5, 0)], 3)
        take(0, [(0.9, 1), (0.4, 3)], 0)
        assert [one[3].path for one in run._worst] == ["0/1", "1/2", "1/0"]
        assert [(shard, at) for shard, at, _ in sorted(run._skipped, key=lambda one: one[:2])] == [(0, 0), (1, 3)]
        ordered = run._in_order(table)
        assert ordered is not None
        assert ordered.read() == b"0\n1\n1\n"
        assert run._given == {}
        assert [(count, [one["path"] for one in errors]) for count, errors in told] == [(4, ["1/3"]), (4, ["0/0"])]

    def test_what_is_asked_for_is_done_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(many, "_Run", lambda *given: SimpleNamespace(run=lambda: given))
        source, reader, stream, progress = (SimpleNamespace() for _ in range(4))
        found: Any = measure("m", source, reader)  # type: ignore[arg-type]
        assert found[:7] == ("m", source, reader, (), Sharing(), False, False)
        assert found[7:] == (Wanted(False, 0, 0.9, 0.05, None), None, None, {})
        told: dict[str, Any] = {"table": True, "mistakes": 3, "coverage": 0.7, "false_alarms": 0.2}
        who: dict[str, Any] = {"names": ("a",), "sharing": Sharing(2), "mixed": True, "strict": False}
        found = measure("m", source, reader, **told, **who, strangers=stream, progress=progress, threads=2)  # type: ignore[arg-type]
        assert found[3:7] == (("a",), Sharing(2), True, False)
        assert found[7] == Wanted(True, 3, 0.7, 0.2, found[7].strangers)
        assert found[8:] == (stream, progress, {"threads": 2})
        assert found[7].strangers._stream is stream

    def test_workers_have_to_be_alike_but_for_their_processors_where_that_is_allowed(self) -> None:
        nothing: Any = None
        told = {"engine": "torch", INSTRUCTION_SETS: ["avx2"]}
        for mixed in (False, True):
            who = (Sharing(), mixed, False)
            run = many._Run("a model", nothing, nothing, (), *who, Wanted(), None, None, {})
            run._facts = told
            run._stated({**told})
            other = {**told, INSTRUCTION_SETS: ["neon"]}
            if mixed:
                run._stated(other)
            else:
                words = r"not alike: other .* with neon \(with mixed=True a processor of another kind may take part\)"
                with pytest.raises(ValueError, match=words):
                    run._stated(other)
            with pytest.raises(ValueError, match=r"not alike: .*onnx") as caught:
                run._stated({**told, "engine": "onnx"})
            assert "mixed" not in str(caught.value)

    @pytest.mark.parametrize(
        ("names", "is_one"),
        [
            (["{}"], False),
            (["{}/a.csv"], False),
            (["{}/nothing"], False),
            (["{}/a.tar"], True),
            (["{}/*.png"], True),
            (["{}/{{0..2}}.csv"], True),
            (["{}/[0].csv"], False),  # which is there
            (["~/[0].csv"], False),
            (["~/[1].csv"], True),
            (["s3://photos"], True),
            (["{}", "{}"], True),
        ],
    )
    def test_what_is_read_as_a_stream(
        self, names: list[str], is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "[0].csv").touch()
        assert is_streamed([name.format(tmp_path) for name in names]) is is_one

    def test_rows_of_the_table_stand_in_the_order_of_shards_whichever_was_done_first(self) -> None:
        places: Any = SimpleNamespace(_places={3: (0, 0)})  # of which no picture could be read
        assert many._Run._in_order(places, io.BytesIO()) is None
        places._places |= {1: (0, 4), 0: (4, 6), 2: (10, 2)}
        found = many._Run._in_order(places, io.BytesIO(b"two\nfirst\n3\n"))
        assert found is not None
        assert found.read() == b"first\ntwo\n3\n"

    def test_the_time_is_that_of_the_pictures_without_strangers(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        times = iter(range(100))
        monkeypatch.setattr(many, "time", SimpleNamespace(perf_counter=lambda: next(times)))
        found = streamed(folder / "red" / "*.png")
        times = iter(range(100))
        strangers = open_stream([str(folder / "blue")])
        assert streamed(folder / "red" / "*.png", strangers=strangers).seconds == found.seconds > 0
        clock = [5.0]
        monkeypatch.setattr("vit_hybrid.evaluate.job.time", SimpleNamespace(perf_counter=lambda: clock[0]))

        def each(_: Any) -> None:
            clock[0] += 1

        predictor = fake_engine.opening().__func__("a model", batch_size=BATCH)
        strangers = open_stream([str(folder / "blue")])
        assert evaluate(predictor, read_labeled(folder), progress=each, strangers=strangers).seconds == 3 * EACH
        assert clock == [5 + 4 * EACH]

    def test_of_each_picture_and_each_stranger_is_told(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        inner = fake_engine.opening().__func__

        def opening(name: str, *, progress: Any, **options: Any) -> Predictor:
            progress("converts")
            return inner(name, **options)

        monkeypatch.setattr(Predictor, "from_pretrained", staticmethod(opening))

        class Noting:
            def tell(self, text: str) -> None:
                told.append(text)

            def begin(self, pictures: int) -> None:
                told.append(pictures)

            def advance(self, pictures: int, errors: list[Any]) -> None:
                told.append((pictures, [Path(one["path"]).name for one in errors]))

        strangers = open_stream([str(folder / "blue")])
        source = Streamed([str(folder / "red" / "*.png")], None)
        how: dict[str, Any] = {"strangers": strangers, "progress": Noting(), "batch_size": BATCH}
        found = measure("a model", source, Reader(source.stream), **how)
        assert told[:3] == ["converts", "Looking at labels", 2 * EACH]
        fine = (1, [])
        of_red, of_blue = [*[fine] * (EACH - 1), (1, ["12.png"])], [*[fine] * 5, (1, ["05.png"]), *[fine] * (EACH - 6)]
        assert told[3:] == of_red + of_blue
        assert source.passed.counts() == {PICTURE: 1}
        assert source.passed.line() == "passed over: 1 picture that cannot be read (red/12.png)"
        assert strangers.passed.line() == "passed over: 1 picture that cannot be read (blue/05.png)"
        assert [Path(one["path"]).name for one in found.unreadable_strangers] == ["05.png"]
        assert (strangers.passed.counts(), found.images) == ({PICTURE: 1}, EACH - 1)

    @pytest.mark.parametrize(
        ("workers", "given", "threads"), [(None, {}, 6), (3, {}, 2), (3, {"threads": 5}, 5), (3, {"threads": None}, 2)]
    )
    def test_workers_have_a_share_of_the_cores(
        self, workers: int | None, given: dict[str, int], threads: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vit_hybrid.inference.workers.cores", lambda: 6)
        asked: list[Any] = []
        monkeypatch.setattr(many, "in_this_process", lambda make, *_: asked.append((make, None, threads)))
        monkeypatch.setattr(many, "in_processes", lambda make, _, __, *how: asked.append((make, *how)))
        nothing: Any = None
        reader: Any = "reader"
        wanted, engine = Wanted(), {"engine": "onnx", **given}
        run = many._Run("a model", nothing, reader, (), Sharing(workers), False, False, wanted, None, None, engine)
        run._receipts(None)
        [(make, *how)] = asked
        assert how == [workers, threads]
        assert make.args == ("a model", {"engine": "onnx", "threads": threads}, "reader", wanted)

    @pytest.mark.parametrize(
        ("sharing", "engine", "asked", "sizes"),
        [
            (Sharing(), {"batch_size": 4}, (4, False), [16, 3]),
            (Sharing(2), {"batch_size": 2}, (2, True), [8, 8, 3]),
            (Sharing(ray="auto"), {}, (16, True), [19]),
        ],
    )
    def test_shards_are_cut_for_those_who_share_and_strangers_four_batches_at_once(
        self, sharing: Sharing, engine: dict[str, int], asked: tuple[int, bool], sizes: list[int], strange: Path
    ) -> None:
        given: list[Any] = []
        place = Place("unit", 0)
        known = LabeledShard(0, place, place, 2, targets=[1, 0], start=7)
        source: Any = SimpleNamespace(deviations=lambda: "d", shards=lambda *how: given.append(how) or [known])
        strangers = open_stream([str(strange)])
        run = many._Run("", source, Reader(), (), sharing, False, False, Wanted(), strangers, None, engine)
        run._labels = ("a", "b")
        first, *others = run._shards()
        assert given == [asked]
        assert first == Told(0, place, place, 2, targets=[1, 0], start=7, labels=("a", "b"), deviations="d")
        assert [(shard.number, shard.count) for shard in others] == [*enumerate(sizes, start=1)]
        assert {(shard.are_strangers, shard.labels) for shard in others} == {(True, ("a", "b"))}
        assert [*run._given] == [*range(len(sizes) + 1)]

    def test_on_a_cluster_nodes_are_told_what_the_driver_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        model: Any = SimpleNamespace(provenance=lambda: {"weights": "ours"})
        monkeypatch.setattr(many.opening, "open", lambda name: model)
        nothing: Any = None
        sharing = Sharing(ray="auto")
        run = many._Run("a model", nothing, nothing, ("data",), sharing, False, False, Wanted(), None, None, {})
        asked: list[Any] = []
        cluster: Any = SimpleNamespace(threads=9, receipts=lambda on_node, *_: asked.append(on_node))
        run._receipts(cluster)
        [on_node] = asked
        assert on_node.make.args[1] == {"threads": 9}
        expected = counting.OnNode(nothing, "a model", {"weights": "ours"}, ("data",), str(tmp_path), platform.node())
        assert replace(on_node, make=nothing) == expected

    def test_of_a_cluster_all_workers_count(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As many as there is room for, where nobody said how many."""
        told: list[str] = []
        folder = shutil.copytree(folder, tmp_path / "photos")

        def receipts(*how: Any) -> Iterator[Any]:
            yield from reversed([*in_this_process(*how)])

        @contextmanager
        def connected(how: Sharing) -> Iterator[Any]:
            assert how == Sharing(ray="auto")
            yield SimpleNamespace(workers=5, threads=2, receipts=receipts)

        monkeypatch.setattr(many, "connected", connected)
        model: Any = SimpleNamespace(provenance=dict)
        monkeypatch.setattr(many.opening, "open", lambda name: model)
        progress = SimpleNamespace(tell=told.append, begin=lambda count: None, advance=lambda *_: None)
        for name in ("01.png", "02.png"):  # the last of one shard and the first of the next
            (folder / "red" / name).write_bytes(b"")
        found = streamed(folder / "*" / "*.png", sharing=Sharing(ray="auto"), progress=progress, table=True)
        assert (found.workers, found.nodes, told) == (5, 1, ["Connecting to Ray", "Looking at labels"])
        assert streamed(folder / "red" / "*.png", sharing=Sharing(ray="auto")).workers == 5  # and nobody is told
        other = expected(folder)
        assert_same(found, other)
        assert found.skipped == other.skipped  # in the order of the pictures, whoever is done first
        for one in (found, found):  # as often as somebody asks
            text, theirs = io.StringIO(newline=""), io.StringIO(newline="")
            one.write_table(text)
            other.write_table(theirs)
            assert text.getvalue() == theirs.getvalue()

    def test_a_node_works_where_it_sees_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        (tmp_path / "data").mkdir()
        model: Any = SimpleNamespace(provenance=lambda: {"weights": "ours"})
        monkeypatch.setattr(counting.opening, "open", lambda name: model)
        made: Any = lambda: "a worker"  # noqa: E731
        node = counting.OnNode(made, "a model", {"weights": "ours"}, ("data",), str(tmp_path), "another machine")
        assert (node(), Path.cwd()) == ("a worker", tmp_path)
        with pytest.raises(ValueError, match="would work with something else: weights was theirs and is ours"):
            replace(node, made={"weights": "theirs"})()
        assert replace(node, made={"weights": "theirs"}, driver=platform.node())() == "a worker"
        with pytest.raises(ValueError, match=r"gone: the node .* does not see this"):
            replace(node, sources=("data", "gone"))()

    def test_facts_are_what_decides_scores(self) -> None:
        wanted = Wanted(coverage=0.8, false_alarms=0.1, strangers=Reader())
        facts = counting.Counting("a model", {"threads": 3, "batch_size": 4}, Reader(), wanted).facts()
        assert set(facts.pop("libraries")) == {"torch", "numpy", "Pillow"}
        assert facts.pop(INSTRUCTION_SETS)[0] == platform.machine()
        basis = facts.pop("basis")
        assert (basis["coverage"], basis["false_alarms"], bool(basis["scores"])) == (0.8, 0.1, True)
        assert facts == {
            **{"engine": "torch", "precision": "f32", "device": "cpu", "accelerator": None, "threads": 3},
            **{"problem_type": SINGLE_LABEL, "labels": ["red", "green", "blue"]},
        }

    def test_a_mistake_behind_a_broken_picture_is_shown_itself(self, tmp_path: Path) -> None:
        place = tmp_path / "blue"
        place.mkdir()
        (place / "0.png").write_bytes(b"no picture")
        for number, like in ((1, 1), (2, 2), (3, 1)):
            picture("blue", like).save(place / f"{number}.png")
        items, wrong = streamed(tmp_path / "*" / "*.png", mistakes=4).worst(4)
        (mistake, image), (as_bad, _) = items
        assert (wrong, mistake.index, mistake.path) == (2, 1, str(place / "1.png"))
        assert (as_bad.index, as_bad.path) == (3, str(place / "3.png"))
        [(first, _)], wrong = streamed(tmp_path / "*" / "*.png", mistakes=1).worst(4)
        assert (first, wrong) == (mistake, 2)
        assert image.tobytes() == picture("blue", 1).tobytes()

    def test_a_mistake_is_shown_if_it_has_as_few_pixels_as_were_allowed(self, folder: Path) -> None:
        for most, count in (({}, 4), ({"max_pixels": 12 * 12}, 4), ({"max_pixels": 12 * 12 - 1}, 0)):
            items, _ = streamed(folder / "*" / "*.png", mistakes=4, **most).worst(4)
            assert len([*items]) == count
        assert not [*streamed(folder / "*" / "*.png").worst(4)[0]]  # none is kept that nobody asked for
        few, _ = streamed(folder / "*" / "*.png", mistakes=2).worst(4)
        assert [mistake for mistake, _ in few] == expected(folder).mistakes(2)  # the worst two of one shard

    @pytest.mark.parametrize("is_stranger", [False, True])
    def test_none_that_can_be_read(self, is_stranger: bool, folder: Path, tmp_path: Path) -> None:
        for name in ("red/0.png", "red/1.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"no picture")
        source = folder if is_stranger else tmp_path
        strangers = {"strangers": open_stream([str(tmp_path)])} if is_stranger else {}
        words = "strangers can be looked at" if is_stranger else "pictures can be scored"
        with pytest.raises(DataError, match=rf"^none of the 2 {words}: {tmp_path}/red/0\.png: is not a picture"):
            streamed(source / "red" / "*.png", **strangers)

    def test_what_a_worker_meets_is_told_as_it_is_typed(self, tmp_path: Path) -> None:
        (tmp_path / "red").mkdir()
        (tmp_path / "red" / "0.png").write_bytes(sound("PNG"))
        (tmp_path / "red" / "1.png").write_bytes(huge_png())
        [skipped] = streamed(tmp_path / "red" / "*.png").skipped
        assert skipped["error"].endswith("--max-pixels 3600000000 lets it pass")

        def gone(*_: Any) -> Any:
            raise SourceError("a.tar: it is gone.")

        counter = counting.Counting("a model", {}, SimpleNamespace(read=gone), Wanted())  # type: ignore[arg-type]
        shard = Told(0, Place("unit", 0), Place("unit", 0), 1, labels=("red", "green", "blue"))
        with pytest.raises(JobStopped, match=r"^a\.tar: it is gone: the source changed while it was read\.$"):
            counter.work(shard)

    def test_a_worker_says_which_of_its_pictures_gave_nothing(self) -> None:
        given = [("a.png", b"no picture"), ("b.png", sound("PNG")), ("c.png", b"no picture"), ("d.png", b"")]
        reader: Any = SimpleNamespace(read=lambda shard: iter(given))
        counter = counting.Counting("a model", {"batch_size": 3}, reader, Wanted(table=True))
        assert counter.facts()["threads"] is None  # where nobody said how many
        place, labels = Place("unit", 0), ("red", "green", "blue")
        for shard in (Told(7, place, place, 4, targets=np.array([0, 1, 2, 0]), labels=labels),) * 2:
            found = counter.work(shard)
            assert [(at, record["path"]) for at, record in found.skipped] == [(0, "a.png"), (2, "c.png"), (3, "d.png")]
            assert (found.shard, found.table.split(",")[:2], found.worst) == (7, ["b.png", "green"], [])
            assert (found.strangers, found.ranked, found.truth) == (None, None, None)

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
    def test_names_that_are_no_utf_8_are_escaped(self, tmp_path: Path) -> None:
        for color in ("red", "blue"):
            (tmp_path / color).mkdir()
            for name in (b"/caf\xe9.png", "/été.png".encode()):
                with open(os.fsencode(tmp_path / color) + name, "wb") as file:
                    picture(color, 0).save(file, "PNG")
        table = io.StringIO(newline="")
        streamed(tmp_path / "*" / "*.png", table=True).write_table(table)
        names = [line.split(",")[0] for line in table.getvalue().splitlines()[1:]]
        assert names == [
            str(tmp_path / color / name) for color in ("blue", "red") for name in (r"caf\xe9.png", "été.png")
        ]

    def test_batches_are_filled_by_whoever_does_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[fake_engine.Colors] = []
        opening = fake_engine.opening(engines=made)
        monkeypatch.setattr(Predictor, "from_pretrained", opening)
        strangers = [open_stream([str(folder / "blue")]) for _ in range(2)]
        streamed(folder / "red" / "*.png", strangers=strangers[0])
        predictor = opening.__func__("a model", batch_size=BATCH)
        found = evaluate(predictor, read_labeled(folder), strangers=strangers[1])
        assert not predictor.streaming.fill_batches
        assert [set(one.sizes) for one in made] == [{BATCH}, {BATCH}]
        assert "was not fitted for this model" in found.notes[-1]

    def test_a_limit_is_spread_over_all(self, folder: Path) -> None:
        found = streamed(folder / "*" / "*.png", limit=6, table=True)
        table = io.StringIO()
        found.write_table(table)
        names = [Path(line.split(",")[0]).relative_to(folder).as_posix() for line in table.getvalue().splitlines()[1:]]
        every = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.png"))
        assert names == [every[place * len(every) // 6] for place in range(6)]
        items, wrong = streamed(folder / "*" / "*.png", limit=20, mistakes=20).worst(20)
        mistakes = [mistake for mistake, _ in items]
        assert len(mistakes) == wrong > 2
        for one in mistakes:  # among all pictures of the source
            assert one.path == str(folder / every[one.index])

    def test_strict_stops(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"05\.png: "):
            streamed(folder / "*" / "*.png", strict=True)
        (tmp_path / "green").symlink_to(folder / "green")  # where all can be read
        predictor = fake_engine.opening().__func__("a model", batch_size=BATCH)
        for ask in (
            lambda stream: streamed(folder / "green" / "*.png", strict=True, strangers=stream),
            lambda stream: evaluate(predictor, read_labeled(tmp_path), strict=True, strangers=stream),
        ):
            with pytest.raises(DataError, match=r"blue/05\.png: "):  # of a stranger
                ask(open_stream([str(folder / "blue")]))
        nothing: Any = None
        run = many._Run("a model", nothing, nothing, (), Sharing(2), False, True, Wanted(), None, None, {})
        run._tell(3, [])
        with pytest.raises(DataError, match=r"^1\.png: is empty$"):  # the first of a shard
            run._tell(3, [{"path": f"{at}.png", "error": f"{at}.png: is empty"} for at in (1, 2)])

    def test_a_source_that_changes_on_the_way_stops_it(self, folder: Path, tmp_path: Path) -> None:
        path = tar_of(tmp_path / "a.tar", pictures_of(folder))
        source = Streamed([str(path)], None)

        class Progress:
            def tell(self, _: str) -> None: ...
            def advance(self, *_: Any) -> None: ...
            def begin(self, _: int) -> None:
                tar_of(path, pictures_of(folder)[:3])

        with pytest.raises((JobStopped, ValueError), match=r"a\.tar"):
            measure("a model", source, Reader(source.stream), batch_size=BATCH, progress=Progress())

    @pytest.mark.parametrize("is_there", [False, True])
    def test_mistakes_of_a_source_that_is_gone_or_changed_are_counted_and_not_shown(
        self, is_there: bool, folder: Path, tmp_path: Path
    ) -> None:
        path = tar_of(tmp_path / "a.tar", pictures_of(folder)[:5])
        found = streamed(path, mistakes=3)
        path.unlink()
        if is_there:
            tar_of(path, pictures_of(folder)[5:9])
        items, wrong = found.worst(3)
        assert (list(items), wrong) == ([], 1)

    def test_shards_are_whole_batches_that_grow(self) -> None:
        found = [size for size, _ in zip(sizes(12), range(400), strict=False)]
        assert found[:17] == [12] * 16 + [24]
        assert (max(found), {size % 12 for size in found}) == (MOST_PICTURES // 12 * 12, {0})
        assert {size for size, _ in zip(sizes(12, is_shared=False), range(40), strict=False)} == {504}
        assert next(sizes(2 * MOST_PICTURES, is_shared=False)) == 2 * MOST_PICTURES

    def test_memory_is_that_of_a_part(self, folder: Path, tmp_path: Path) -> None:
        """Of ten times as many pictures no more is held."""
        content = (folder / "red" / "00.png").read_bytes()
        paths = [tar_of(tmp_path / f"{count}.tar", [("red", content)] * count) for count in (150, 1500)]
        peaks = []
        streamed(paths[0])  # what is loaded once
        for path in paths:
            tracemalloc.start()
            assert streamed(path).images == int(path.stem)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.1 * peaks[0] + 2**20, peaks

    @pytest.mark.parametrize("rows_a_group", [100, 10_000])
    def test_of_parquet_on_the_disk_few_pictures_are_held(
        self, folder: Path, tmp_path: Path, rows_a_group: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        monkeypatch.setattr(parquet, "usable_cores", lambda: 2)
        each = 20_000
        pictures = [one for one in pictures_of(folder) if len(one[1]) > 90] * 20
        contents = [content + bytes(each) for _, content in pictures]
        columns = {"image": contents, "label": [label for label, _ in pictures]}
        how: dict[str, Any] = {"use_dictionary": False, "write_batch_size": 32}  # of which pages are made
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=rows_a_group, **how)
        allocated: list[int] = []

        class Watching:
            def tell(self, text: str) -> None: ...
            def begin(self, pictures: int) -> None: ...
            def advance(self, pictures: int, errors: list[Any]) -> None:
                allocated.append(pa.total_allocated_bytes())

        contents.clear()
        columns.clear()
        labeled = read_labeled(tmp_path / "a.parquet", held=False)
        held = Held(labeled, lambda pictures, _: pictures, False, None)
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        measured = measure("a model", held, Reader(), batch_size=BATCH, progress=Watching())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert measured.images == len(pictures) == 37 * 20
        assert max(peak, max(allocated) - before) < len(pictures) * each / 2


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


class TestCommand:
    def test_several_sources_and_what_cannot_be_read(self, folder: Path, tmp_path: Path) -> None:
        names = [folder / color / "*.png" for color in COLORS]
        result = run("a model", *names, "--json", "--output", tmp_path / "out", "--batch-size", "4")
        assert result.exit_code == 1, result.output  # two are broken
        found = json.loads(result.stdout)
        other = expected(folder)
        assert (found["images"], found["skipped"], found["top1"]) == (37, 2, other.scores["top1"])
        assert found["data"] == [*map(str, names)]
        assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 38
        assert (tmp_path / "out" / "mistakes.png").is_file()
        assert (tmp_path / "out" / "confusion_matrix.png").is_file()
        result = run("a model", *names)
        assert f"{folder / 'blue' / '05.png'}: " in result.stderr
        assert result.stdout.splitlines()[0] == f"a model on {' '.join(map(str, names))}"
        assert ["pictures", "37"] in [line.split() for line in result.stdout.splitlines()]

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_files_are_written_where_standard_output_cannot_be(
        self, options: tuple[str, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(io.StringIO):
            def write(self, _: str) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(streams, "standard_output", Full)
        names = [folder / color / "*.png" for color in COLORS]
        result = run("a model", *names, "--output", tmp_path / "out", "--batch-size", "4", *options)
        assert result.exit_code == 2
        assert "cannot write to standard output: No space left on device" in result.stderr
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 37
        assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 38

    def test_dry_run_counts_labels_and_opens_no_model(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: pytest.fail("a model is opened"))
        result = run("a model", folder / "*" / "*.png", "--dry-run", "--json")
        found = json.loads(result.stdout)
        assert (found["images"], found["labels"], result.stderr) == (39, dict.fromkeys(COLORS, EACH), "")
        assert "39 pictures: blue 13, green 13, red 13" in run("a model", folder / "*" / "*.png", "--dry-run").stdout
        monkeypatch.setattr("vit_hybrid.runtimes.DEFAULT_BATCH_SIZE", 5)
        two = [folder / color / "*.png" for color in ("red", "blue")]  # of whom the alphabet has the other first
        assert "26 pictures: blue 13, red 13" in run("a model", *two, "--dry-run").stdout
        assert [*json.loads(run("a model", *two, "--dry-run", "--json").stdout)["labels"]] == ["blue", "red"]
        assert found["problem_type"] == "single_label_classification"

    def test_dry_run_of_a_stream_counts_what_is_passed_over(self, folder: Path, tmp_path: Path) -> None:
        places = [tmp_path / "one", tmp_path / "two"]
        for place, color in zip(places, ("red", "blue"), strict=True):
            label = place / f"{color}\x1b"  # which would move a terminal's cursor
            label.mkdir(parents=True)
            shutil.copy(folder / color / "00.png", label)
            (label / "notes.txt").touch()
        result = run("a model", *places, "--dry-run")
        assert (result.exit_code, result.stderr) == (0, "vit-hybrid: passed over: 2 files of other kinds (2 .txt)\n")
        assert result.stdout == f"{[*map(str, places)]}: 2 pictures: blue\\x1b 1, red\\x1b 1\n"

    def test_what_is_for_a_cluster_alone(self, folder: Path) -> None:
        result = run("a model", folder, "--cpus-per-worker", "2")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--cpus-per-worker is for a cluster; give --ray" in result.stderr

    def test_a_cluster_where_nobody_answers(self, folder: Path) -> None:
        result = run(BUILT_IN_MODEL, folder, "--ray", "127.0.0.1:1")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "127.0.0.1:1: nobody answers at this address" in result.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    config = tiny_hybrid.tiny_config(num_labels=3)
    config.id2label = dict(enumerate(COLORS))
    config.label2id = {name: index for index, name in enumerate(COLORS)}
    ViTHybridForImageClassification(config).save_pretrained(path)
    tiny_hybrid.tiny_processor().save_pretrained(path)
    confidence.write(made_confidence.fitted(path), path)
    return path


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of other colors, one of which is broken."""
    path = tmp_path_factory.mktemp("strange")
    for number in range(19):
        noise = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.blend(Image.new("RGB", (12, 12), "orange"), Image.fromarray(noise), number / 40).save(
            path / f"{number:02}.png"
        )
    (path / "07.png").write_bytes(b"no picture")
    return path


ENGINE = {"engine": "torch", "device": "cpu", "threads": 1, "batch_size": BATCH}


@pytest.fixture(scope="module")
def alone(model: Path, folder: Path, strange: Path) -> Evaluation:
    predictor = Predictor.from_pretrained(model, **ENGINE)
    return evaluate(predictor, read_labeled(folder), strangers=open_stream([str(strange)]), coverage=0.6)


@pytest.mark.parametrize("sharing", [Sharing(2), Sharing(2, ray="local")], ids=["processes", "ray"])
def test_workers_find_what_one_process_does(
    sharing: Sharing, model: Path, folder: Path, strange: Path, alone: Evaluation
) -> None:
    if sharing.ray is not None:
        pytest.importorskip("ray.data", reason="Ray is not installed")

    def unchanged(pictures: LabeledPictures, _: Any) -> LabeledPictures:
        return pictures

    held = Held(read_labeled(folder), unchanged, False, None)
    strangers = open_stream([str(strange)])
    begun: list[int] = []
    done: list[int] = []
    progress = SimpleNamespace(tell=str, begin=begun.append, advance=lambda pictures, errors: done.append(pictures))
    told: dict[str, Any] = {"names": (str(folder), str(strange)), "strangers": strangers, "coverage": 0.6}
    told["progress"] = progress
    found = measure(str(model), held, Reader(), sharing=sharing, table=True, **told, **ENGINE)
    assert_same(found, alone)
    same_but_for_rounding(dict(found.assessment), dict(alone.assessment))
    assert set(found.assessment) == {*("calibration", "risk_coverage", "answers", "sets", "none_of_these", "strangers")}
    assert found.assessment["strangers"]["images"] == 18
    assert found.unreadable_strangers == alone.unreadable_strangers
    assert [Path(one["path"]).name for one in found.unreadable_strangers] == ["07.png"]
    assert strangers.passed
    report = found.report()
    assert (report["workers"], report["nodes"]) == (found.workers, found.nodes) == (2, 1)
    assert (begun, sum(done)) == ([3 * EACH + 19], 3 * EACH + 19)
    tables = []
    for one in (found, alone):
        tables.append(io.StringIO(newline=""))
        one.write_table(tables[-1])
    assert tables[0].getvalue() == tables[1].getvalue()
