"""`vit-hybrid probe` as people type it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from probe_pictures import CLASSES, clusters, some_pictures
from typer.testing import CliRunner, Result

from vit_hybrid import probe as job
from vit_hybrid.cli import probe as command
from vit_hybrid.cli.main import app
from vit_hybrid.data import read_splits
from vit_hybrid.probe import FrozenModel, draw_shots, probe


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of eight training and three validation pictures each; not to be changed."""
    root = tmp_path_factory.mktemp("colors")
    for split, each, seed in (("train", 8, 0), ("val", 3, 5000)):
        pictures = some_pictures(each, seed)
        for index, target in enumerate(pictures.targets):
            folder = root / split / CLASSES[target]
            folder.mkdir(parents=True, exist_ok=True)
            pictures.source(index).save(folder / f"{index}.png")
    return root


@pytest.fixture
def run(tiny_folder: Path) -> Any:
    def invoke(*arguments: str | Path) -> Result:
        options = ["--model", str(tiny_folder), "--device", "cpu"]
        return CliRunner().invoke(app, ["probe", *map(str, arguments), *options])

    return invoke


class TestCommand:
    def test_one_json_object_the_same_for_the_same_seed(self, run: Any, colors: Path) -> None:
        first, second = (run(colors, "--json", "--shots", "1,4", "--trials", "3", "--seed", "5") for _ in range(2))
        assert first.exit_code == 0, first.stderr
        assert first.stderr == ""
        found, again = (json.loads(result.stdout) for result in (first, second))
        assert found["seconds"].keys() == {"features", "solving"}
        assert min(found["seconds"].values()) > 0
        del found["seconds"], again["seconds"]
        assert found == again
        assert (found["train_images"], found["val_images"], found["classes"]) == (24, 9, sorted(CLASSES))
        assert [(row["shots"], row["images"], row["trials"]) for row in found["rows"]] == [
            (1, 3, 3),
            (4, 12, 3),
            ("all", 24, 1),
        ]
        assert found["top1"] > 0.5
        assert found["output"] is None

    def test_table(self, run: Any, colors: Path) -> None:
        result = run(colors, "--neighbors", "3")
        assert result.exit_code == 0, result.stderr
        training, validating = result.stderr.splitlines()
        assert training.startswith("vit-hybrid: training on 24 pictures of 3 classes from the folders in ")
        assert training.endswith("/train: blue things 8, green things 8, red things 8")
        assert validating.startswith("vit-hybrid: validating with 9 pictures of 3 classes from the folders in ")
        assert validating.endswith("/val: blue things 3, green things 3, red things 3")
        title, heading, *_ = result.stdout.splitlines()
        assert title.startswith("Top-1 on 9 validation pictures of 3 classes")
        assert heading.split("  ")[-1].strip() == "3 nearest neighbors"
        rows = [line.split() for line in result.stdout.splitlines() if "%" in line]
        assert [row[:2] for row in rows] == [["1", "3"], ["5", "15"], ["all", "24"]]

    def test_what_is_passed_over_is_counted_in_one_line(
        self, run: Any, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def noting(*given: Any) -> Any:
            report, solution = probe(*given)
            return {**report, "notes": ["odd", "odd"]}, solution

        monkeypatch.setattr(job, "probe", noting)
        data = shutil.copytree(colors, tmp_path / "data")
        (data / "val" / ".hidden").touch()
        (data / "notes.txt").touch()
        (data / "later").mkdir()
        shutil.copy(next((data / "val").glob("*/*.png")), data / "train" / "stray.png")
        result = run(data, "--shots", "all", "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr.endswith(
            "vit-hybrid: passed over: 1 picture beside the class folders, 1 folder that is neither train, val nor test "
            "(data/later), 1 hidden file or folder, 1 file of another kind (1 .txt)\n"
        )
        note, odd = json.loads(result.stdout)["notes"]  # each once, those on the data first
        assert odd == "odd"
        assert note.endswith("train: pictures beside the class folders belong to no class and are passed over: 1")

    def test_classify_takes_what_was_written(self, run: Any, colors: Path, tiny_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = run(colors, "--output", out, "--shots", "all", "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        found = json.loads(result.stdout)
        assert found["output"] == str(out)
        card = (out / "README.md").read_text()
        assert f"pictures of `{colors.name}`" in card
        assert tiny_folder.name in card
        assert str(tiny_folder.parent) not in card
        assert str(colors.parent) not in card
        assert json.loads((out / "metrics.json").read_text())["top1"] == found["top1"]
        classified = CliRunner().invoke(
            app, ["classify", str(colors / "val"), "--model", str(out), "--json", "--top-k", "1", "--device", "cpu"]
        )
        assert classified.exit_code == 0, classified.stderr
        records = [json.loads(line) for line in classified.stdout.splitlines()]
        right = [Path(record["path"]).parent.name == record["predictions"][0]["label"] for record in records]
        assert sum(right) / len(right) == pytest.approx(found["top1"])
        sure = sum(record["predictions"][0]["probability"] for record in records) / len(records)
        assert sure == pytest.approx(found["mean_confidence"], abs=1e-4)

        again = run(colors, "--output", out)
        assert again.exit_code == 2
        assert again.stderr.count("\n") == 1
        assert f"{out}: not empty" in again.stderr
        again = run(colors, "--output", out, "--overwrite")
        assert again.exit_code == 0
        assert again.stdout.splitlines()[-1] == f"Wrote {out}"
        assert "vit-hybrid: the model is not calibrated: calibration takes " in again.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_unreadable_pictures_are_listed_or_stop_it(self, run: Any, colors: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(colors, data)
        broken = [data / "train" / CLASSES[0] / "0.png", data / "val" / CLASSES[1] / "broken.jpg"]
        for path in broken:
            path.write_bytes(b"no picture")
        result = run(data)
        assert result.exit_code == 0
        training, validating, *lines, passed = result.stderr.splitlines()
        assert training.startswith("vit-hybrid: training on ")
        assert validating.startswith("vit-hybrid: validating with 10 pictures")
        assert len(lines) == 2
        assert passed.startswith("vit-hybrid: passed over: 2 pictures that cannot be read (")
        for line, path in zip(sorted(lines), sorted(map(str, broken)), strict=True):
            assert line.startswith(f"vit-hybrid: skipped: {path}: ")
        found = json.loads(run(data, "--json").stdout)
        assert sorted(entry["path"] for entry in found["unreadable"]) == sorted(map(str, broken))
        assert found["train_images"] == 23
        stopped = run(data, "--strict", "--output", tmp_path / "out")
        assert stopped.exit_code == 2
        assert stopped.stderr.count("\n") == 3  # the two that say what it begins with, and why it ends
        assert str(broken[0]) in stopped.stderr
        assert not (tmp_path / "out").exists()

    def test_what_is_said_of_many_unreadable_pictures_and_of_the_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        report, _ = probe(clusters((5, 5, 5)), clusters((2, 2, 2), seed=1), CLASSES, [])
        unreadable = [{"path": f"{n}.jpg", "error": f"{n}.jpg: is empty"} for n in range(7)]
        seconds = {"features": 12.25, "solving": 3.5}
        row = {"shots": 3, "images": 9000, "least_squares": {"mean": 0.5, "min": 0.25, "max": 0.75}}
        rows = [{**row, "knn": dict.fromkeys(("mean", "min", "max"), 0.125)}]
        found: Any = {**report, "unreadable": unreadable, "seconds": seconds, "notes": ["odd"], "rows": rows}
        command._print(found, "o\x1but")
        shown = capsys.readouterr()
        assert shown.err.splitlines()[4:] == [
            "vit-hybrid: skipped: 4.jpg: is empty",
            "vit-hybrid: skipped: 7 of 28 pictures cannot be read, all because: is empty",
            "vit-hybrid: odd",
        ]
        split = [re.split(r"\s{2,}", line.strip()) for line in shown.out.splitlines()]
        assert split[1] == ["pictures a class", "pictures", "least squares", "20 nearest neighbors"]
        assert split[3] == ["3", "9,000", "50.00% (25.00 to 75.00)", "12.50%"]
        assert shown.out.splitlines()[-2:] == [
            "12.2 s for the features of all pictures, 3.5 s for the rest",
            "Wrote o\\x1but",
        ]

    def test_a_split_is_made_where_there_is_none(self, run: Any, colors: Path) -> None:
        found = json.loads(run(colors / "train", "--json", "--val-fraction", "0.25").stdout)
        assert (found["train_images"], found["val_images"]) == (18, 6)
        apart = json.loads(run(colors / "train", "--json", "--val", colors / "val").stdout)
        assert (apart["train_images"], apart["val_images"]) == (24, 9)

    @pytest.mark.parametrize(
        ("rows", "kind"),
        [(["red|green", "blue", "red"], "multi label"), ([0.5, 1.25, 3.75], "regression")],
    )
    def test_other_kinds_of_labels(self, run: Any, colors: Path, tmp_path: Path, rows: list[Any], kind: str) -> None:
        paths = sorted((colors / "train" / CLASSES[0]).iterdir())[:3] * 4
        lines = [
            {"path": str(path), "label": label.split("|") if isinstance(label, str) else label}
            for path, label in zip(paths, rows * 4, strict=True)
        ]
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = run(data)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert kind in result.stderr
        assert "one label each" in result.stderr

    def test_one_class_only(self, run: Any, colors: Path, tmp_path: Path) -> None:
        shutil.copytree(colors / "train" / CLASSES[0], tmp_path / "data" / CLASSES[0])
        result = run(tmp_path / "data")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "one class" in result.stderr

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--shots", "0"], "--shots"),
            (["--shots", "1,many"], "--shots"),
            (["--l2", "-1"], "--l2"),
            (["--l2", "all"], "--l2"),
            (["--l2", "inf"], "--l2"),
            (["--val-fraction", "1.5"], "--val-fraction"),
            (["--trials", "0"], "--trials"),
        ],
    )
    def test_options_that_cannot_be(self, run: Any, colors: Path, options: list[str], said: str) -> None:
        result = run(colors, *options)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr

    def test_the_model_carries_its_confidence_and_knows_what_it_was_solved_on(
        self, run: Any, colors: Path, tmp_path: Path
    ) -> None:
        data, out = tmp_path / "data", tmp_path / "out"
        shutil.copytree(colors, data)
        pictures = some_pictures(21, 6000)
        for index, target in enumerate(pictures.targets):
            pictures.source(index).save(data / "val" / CLASSES[target] / f"more {index}.png")
        found = json.loads(run(data, "--output", out, "--shots", "all", "--json").stdout)["confidence"]
        assert (found["pictures"], found["distances_from"]) == (72, "24 training pictures")
        assert "24 training pictures" in (out / "README.md").read_text()
        options = ["--engine", "torch", "--device", "cpu"]
        picture = str(next((data / "val" / CLASSES[0]).iterdir()))
        said = CliRunner().invoke(app, ["classify", picture, "--model", str(out), "--json", *options])
        assert {"set", "familiarity"} <= set(json.loads(said.stdout))
        refused = CliRunner().invoke(app, ["calibrate", str(out), str(data), "--split", "train", *options])
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "24 of the 24 pictures were trained on, such as" in refused.stderr
        assert "that this model has never seen" in refused.stderr

    def test_data_model_and_output_that_are_not_there(self, run: Any, colors: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for arguments, said in (
            ([tmp_path / "nowhere"], "nowhere"),
            ([colors, "--model", tmp_path / "nothing"], "nothing"),
            ([colors, "--output", tmp_path / "file"], "this is a file"),
            ([colors, "--device", "cuda:99"], "cuda:99"),
        ):
            result = CliRunner().invoke(app, ["probe", *map(str, arguments)])
            assert result.exit_code == 2
            assert result.stderr.count("\n") == 1, result.stderr
            assert said in result.stderr

    def test_numbers_of_a_list_that_may_be_repeated(self) -> None:
        assert command._numbers(["1, 2", "all,7"], int, "--shots", "whole numbers") == [1, 2, 7]
        assert command._numbers(["0.5", "8,1e3"], float, "--l2", "numbers") == [0.5, 8.0, 1000.0]
        assert command._numbers(None, int, "--shots", "whole numbers") is None
        for texts in (["nan"], ["8", "0"], ["8", "-1"], ["8", ""], ["8", "all"]):
            with pytest.raises(typer.BadParameter, match=f"^'{','.join(texts)}': expected numbers above 0"):
                command._numbers(texts, float, "--l2", "numbers above 0")

    def test_what_lies_here_is_called_by_its_name_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "table.csv").touch()
        monkeypatch.chdir(tmp_path / "photos")
        places = (f"{tmp_path}/photos/", ".", "../table.csv", "someone/photos", "vit-hybrid-tiny-imagenet")
        names = ["photos", "photos", "table.csv", "someone/photos", "vit-hybrid-tiny-imagenet"]
        assert [command._title(place) for place in places] == names

    def test_defaults_are_the_jobs(self) -> None:
        assert (command.DEFAULT_TRIALS, command.DEFAULT_NEIGHBORS) == (job.DEFAULT_TRIALS, job.DEFAULT_NEIGHBORS)


def test_the_built_in_model_on_classes_it_never_saw(data_dir: Path) -> None:
    """A fraction of the pictures, for the time it takes; far above the 10 % of a guess."""
    root = data_dir / "tinyphotos10"
    if not root.is_dir():
        pytest.skip(f"no pictures at {root}")
    split = read_splits(str(root))
    frozen = FrozenModel.from_pretrained(labels=split.train.labels, device="cpu", batch_size=50)
    train, val = (
        frozen.features(part.select(draw_shots(part.targets, 10, 10, np.random.default_rng(0))))
        for part in (split.train, split.val)
    )
    report, _ = probe(train, val, split.train.labels, [])
    assert report["top1"] > 0.2
    assert report["knn_top1"] > 0.2
