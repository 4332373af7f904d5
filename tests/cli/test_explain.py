"""`vit-hybrid explain` as people type it."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid.cli import maps, output
from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import ProgressBar
from vit_hybrid.explain.paper import Figure
from vit_hybrid.files import MARK


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a/cat.png, b/cat.jpg and b/CAT-2.png, of several sizes, and b/damaged.png."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, size in {"a/cat.png": (40, 60), "b/cat.jpg": (32, 32), "b/CAT-2.png": (50, 33)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b" / "damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Any:
    def invoke(*arguments: str | Path, model: Any = tiny_folder, given: bytes | None = None) -> Result:
        words = ["explain", *arguments, "--output", tmp_path / "out", "--model", model, "--device", "cpu"]
        return CliRunner().invoke(app, [*map(str, words)], input=given)

    return invoke


def size_of(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def made_bars(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What is shown of how far the work has come: of each bar its total, what it says, and its steps."""
    bars: list[list[Any]] = []

    class Bar(ProgressBar):
        def __init__(self, total: int, doing: str) -> None:
            super().__init__(total, doing)
            bars.append([total, doing])

        def advance(self, steps: int = 1) -> None:
            bars[-1].append(steps)

        def close(self) -> None:
            bars[-1].append("close")

    for module in (maps, output):
        monkeypatch.setattr(module, "ProgressBar", Bar)
    return bars


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {MARK}


@pytest.mark.parametrize("method", ["rollout", "attention", "grad-cam", "relevance", "legrad"])
def test_three_files_a_picture(run: Any, pictures: Path, tmp_path: Path, method: str) -> None:
    result = run(pictures / "a" / "cat.png", "--method", method)
    assert (result.exit_code, result.stderr) == (0, "")
    names = {f"cat-{method}.png", f"cat-{method}-overlay.png", f"cat-{method}.npz"}
    assert written(tmp_path / "out") == names
    for name in names - {f"cat-{method}.npz"}:
        assert size_of(tmp_path / "out" / name) == (60, 40)
    with np.load(tmp_path / "out" / f"cat-{method}.npz") as numbers:
        assert {*numbers} == {"tokens", "picture", "map", "seen", "method", "label", "layer"}
        assert numbers["tokens"].shape == (4, 4)
        assert numbers["picture"].shape == (40, 60)
        assert numbers["seen"] == pytest.approx([10, 0, 50, 40], abs=1)
        assert str(numbers["method"]) == method
        assert str(numbers["label"]).startswith("LABEL_") == (method in ("grad-cam", "relevance", "legrad"))
    assert f"cat-{method}-overlay.png" in result.stdout
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)  # whoever ran the command goes on as before


def test_names_that_clash_are_kept_apart_and_the_others_go_on(
    run: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = made_bars(monkeypatch)
    result = run(pictures, "--json")
    assert bars == [[4, "Explaining", *[1] * 4, "close"]]
    assert (result.exit_code, result.stderr) == (1, "")  # what is the matter stands in the records
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(record["path"]).name for record in records] == ["cat.png", "CAT-2.png", "cat.jpg", "damaged.png"]
    assert records.pop()["error"].endswith("damaged.png: is not a picture in a format that Pillow reads")
    heats = [record["maps"][0]["files"]["heat"] for record in records]
    assert [Path(heat).name for heat in heats] == [f"{name}-relevance.png" for name in ("cat", "CAT-2", "cat-3")]
    assert len(written(tmp_path / "out")) == 9
    assert size_of(heats[1]) == (33, 50)
    for record in records:
        assert record.keys() == {"path", "method", "predictions", "maps"}
        [said] = record["maps"]
        assert said["label"] == record["predictions"][0]["label"]
        assert said["grid"] == [4, 4]


def test_several_labels_give_several_maps(run: Any, pictures: Path, tmp_path: Path) -> None:
    result = run(pictures / "b" / "cat.jpg", "--method", "grad-cam", "--label", "LABEL_2", "--label", "0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert written(tmp_path / "out") == {
        f"cat-grad-cam-LABEL_{label}{end}" for label in (0, 2) for end in (".png", "-overlay.png", ".npz")
    }
    [row] = [line for line in result.stdout.splitlines() if "LABEL_1" in line]
    assert ".png" not in row


def test_a_map_says_of_what_it_is(run: Any, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "b" / "CAT-2.png"
    asked = ("--method", "attention", "--layer", "1", "--head", "2")
    for options, said in (
        (asked, {"label": None, "layer": "layer1", "head": 2, "empty": False, "grid": [4, 6]}),
        (("--method", "grad-cam", "--label", "2"), {"label": "LABEL_2", "layer": "stage2", "head": None}),
    ):
        record = json.loads(run(picture, *options, "--image-size", "32x48", "--json").stdout)
        assert (record["path"], record["method"]) == (str(picture), options[1])
        [found] = record["maps"]
        assert {name: found[name] for name in said} == said
        stem = str(tmp_path / "out" / f"CAT-2-{options[1]}")
        assert found["files"] == {"heat": f"{stem}.png", "overlay": f"{stem}-overlay.png", "numbers": f"{stem}.npz"}


def test_of_a_regression_values_are_shown(run: Any, pictures: Path, tmp_path: Path, tiny_folder: Path) -> None:
    from vit_hybrid import ViTHybridForImageClassification

    model = ViTHybridForImageClassification.from_pretrained(tiny_folder, problem_type="regression")
    model.save_pretrained(tmp_path / "regression")
    (tmp_path / "regression" / "preprocessor_config.json").write_bytes(
        (tiny_folder / "preprocessor_config.json").read_bytes()
    )
    result = run(pictures / "b" / "cat.jpg", "--label", "1", model=tmp_path / "regression")
    assert result.exit_code == 0, result.stderr
    assert "value" in result.stdout
    assert "%" not in result.stdout


def test_standard_input(run: Any, pictures: Path, tmp_path: Path) -> None:
    gc.disable()
    try:
        result = run("-", "--method", "rollout", given=(pictures / "a" / "cat.png").read_bytes())
        assert not gc.isenabled()  # as before it
    finally:
        gc.enable()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "standard-input-rollout.npz" in written(tmp_path / "out")


def test_what_is_asked_for_of_rollout_changes_it(run: Any, pictures: Path, tmp_path: Path) -> None:
    found = []
    for options in ((), ("--fusion", "max"), ("--discard", "0.9"), ("--token", "1,2")):
        assert run(pictures / "b" / "cat.jpg", "--method", "rollout", *options).exit_code == 0
        with np.load(tmp_path / "out" / "cat-rollout.npz") as numbers:
            found.append(numbers["tokens"])
    assert len({one.tobytes() for one in found}) == 4


def test_a_label_changes_nothing_of_attention_and_that_is_said(run: Any, pictures: Path) -> None:
    result = run(pictures / "b" / "cat.jpg", "--method", "attention", "--label", "1")
    assert result.exit_code == 0
    assert result.stderr.startswith("vit-hybrid: attention is the same for all labels")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--label", "LABEL_9"),
            "--label has 'LABEL_9'; expected one of the model's 3 labels by its name, or its number",
        ),
        (("--method", "grad-cam", "--layer", "2"), "--layer is 'layer2', the last of the encoder, by whose map"),
        (("--method", "relevance", "--head", "1"), "--head is for attention, and relevance was asked for"),
        (("--method", "rollout", "--discard", "1"), "--discard is 1; expected a share"),
        (("--method", "rollout", "--token", "3,9"), "--token is 3,9; the tokens stand in 4 rows and 4 columns"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_leaves_nothing(
    run: Any, pictures: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = run(pictures, *options)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["nine", "3,5,7", "3"])
def test_no_token_is_a_usage_error(text: str, run: Any, pictures: Path) -> None:
    result = run(pictures, "--method", "rollout", "--token", text)
    assert result.exit_code == 2
    assert f"'{text}' is no token such as 3,5" in result.stderr


def test_where_nothing_can_be_read_no_folder_is_left(run: Any, pictures: Path, tmp_path: Path) -> None:
    result = run(pictures / "b" / "damaged.png", tmp_path / "nothing.png")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_maps_are_not_taken_for_pictures_afterwards(run: Any, pictures: Path, tmp_path: Path) -> None:
    assert run(pictures / "b" / "cat.jpg").exit_code == 0
    result = run(tmp_path, "--json")
    assert result.exit_code == 1
    assert "no pictures in this folder" in result.stdout


def test_check_prints_curves_beside_those_of_random_maps(run: Any, pictures: Path) -> None:
    result = run(pictures / "b" / "cat.jpg", "--check", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json.loads(result.stdout)
    found = record["maps"][0]["check"]
    assert found["label"] == record["maps"][0]["label"]
    assert len(found["shares"]) == 11
    for name in ("deletion", "insertion"):
        assert found[name].keys() == {"map", "random", "map_area", "random_area"}
        assert len(found[name]["map"]) == len(found[name]["random"]) == 11
        assert 0 < found[name]["map_area"] < 1
    first = record["predictions"][0]
    assert found["deletion"]["map"][0] == pytest.approx(first["probability"], abs=1e-5)

    several = ("--method", "legrad", "--label", "LABEL_2", "--label", "0", "--check", "--json")
    maps = json.loads(run(pictures / "b" / "cat.jpg", *several).stdout)["maps"]
    assert [(one["label"], one["check"]["label"]) for one in maps] == [("LABEL_2",) * 2, ("LABEL_0",) * 2]

    text = run(pictures / "b" / "cat.jpg", "--check").stdout
    assert f"{first['label']}: its probability in the map's order" in text
    assert [line.split()[0] for line in text.splitlines() if "%  " in line or "mean" in line][-12:] == [
        *(f"{share}%" for share in range(0, 101, 10)),
        "mean",
    ]


def test_a_model_without_a_classifier_has_attention_alone(
    run: Any, pictures: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    from vit_hybrid import ViTHybridModel

    ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path / "headless")
    shutil.copy(tiny_folder / "preprocessor_config.json", tmp_path / "headless")
    for options, said in ((("--check", "--method", "rollout"), "--check goes by"), ((), "relevance explains a label")):
        result = run(pictures / "b" / "cat.jpg", *options, model=tmp_path / "headless")
        assert result.exit_code == 2
        assert said in result.stderr
        assert not (tmp_path / "out").exists()
    result = run(pictures / "b" / "cat.jpg", "--method", "rollout", "--html", model=tmp_path / "headless")
    assert (result.exit_code, result.stderr) == (0, "")
    _, heads, _, row, *_ = result.stdout.splitlines()
    assert heads.split() == ["label", "probability", "map"]
    assert row.split()[:2] == ["all", "labels"]


@pytest.mark.parametrize("file", [None, "mine/page.HTML"])
def test_html_writes_a_page_with_all_that_could_be_read(
    run: Any, pictures: Path, tmp_path: Path, tiny_folder: Path, file: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["--html"] if file is None else ["--html", file]
    result = run(*wanted, pictures / "b", "--label", "LABEL_0")
    assert result.exit_code == 1
    damaged, passed = result.stderr.splitlines()
    assert damaged.endswith("damaged.png: is not a picture in a format that Pillow reads")
    assert passed == "vit-hybrid: passed over: 1 picture that cannot be read (b/damaged.png)"
    text = (tmp_path / (file or "out/explained.html")).read_text()
    assert text.count("<section>") == 2
    assert f"What {tiny_folder} looked at" in text
    assert text.endswith("</html>\n")
    assert text.count("data:image/jpeg;base64,") == 2


def test_no_page_where_nothing_could_be_read(run: Any, pictures: Path, tmp_path: Path) -> None:
    assert run(pictures / "b" / "damaged.png", "--html").exit_code == 1
    assert not (tmp_path / "out").exists()


class TestTheModelItself:
    def test_a_figure_and_its_numbers(
        self, run: Any, pictures: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @contextmanager
        def aside(_: Any) -> Iterator[None]:
            bars[-1].append("aside")
            yield

        bars = made_bars(monkeypatch)
        monkeypatch.setattr(ProgressBar, "out_of_the_way", aside)
        result = run("--model-only", "--json", pictures)
        assert result.exit_code == 1
        assert bars == [[4, "Looking", *[1] * 3, "aside", 1, "close"]]  # with the one that cannot be read
        assert result.stderr.splitlines()[0].endswith("damaged.png: is not a picture in a format that Pillow reads")
        record = json.loads(result.stdout)
        assert (record["pictures"], record["grid"]) == (3, [4, 4])
        name = tiny_folder.name
        assert written(tmp_path / "out") == {f"{name}-model.png", f"{name}-model.npz"}
        with np.load(record["files"]["numbers"]) as numbers:
            assert {*numbers} == {"similarity", "distances", "filters", "pictures"}
            assert numbers["similarity"].shape == (4, 4, 4, 4)
            assert numbers["distances"].tolist() == record["distances"]
            assert numbers["distances"].shape == (2, 2)
            assert numbers["filters"].shape == (16, 3, 7, 7)

    def test_on_made_pictures_where_none_are_given(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        bars = made_bars(monkeypatch)
        result = run("--model-only")
        assert result.exit_code == 0
        assert bars == [[16, "Looking", *[1] * 16, "close"]]
        assert result.stderr.startswith("vit-hybrid: no IMAGE was given, so how far heads look is measured on 16 made")
        assert result.stdout.splitlines()[-2].split()[0] == "2"

    def test_how_far_heads_look_stands_beside_their_layer(
        self, run: Any, pictures: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        distances = np.array([[6.0, 1.0, 2.0], [3.5, 9.0, 4.0]])

        def figure(_: Any, given: Any) -> Figure:
            return Figure(np.ones((4, 6, 4, 6)), distances, np.ones((2, 3, 7, 7)), len([*given]))

        monkeypatch.setattr("vit_hybrid.explain.paper.figure", figure)
        lines = run("--model-only", pictures / "a").stdout.splitlines()
        assert [line.split() for line in lines if line.split()[:1] in (["1"], ["2"])] == [
            ["1", "1.0", "3.0", "6.0"],
            ["2", "3.5", "5.5", "9.0"],
        ]
        assert lines[0].endswith(f"/{tiny_folder.name}-model.png")
        [heads] = [" ".join(line.split()) for line in lines if "nearest" in line]
        assert heads == "layer nearest head looks (pixels) mean farthest"
        monkeypatch.chdir(tiny_folder)
        record = json.loads(run("--model-only", "--json", pictures / "a", model=".").stdout)
        assert (record["pictures"], record["grid"], record["distances"]) == (1, [4, 6], distances.tolist())
        assert Path(record["files"]["figure"]).name == f"{tiny_folder.name}-model.png"

    def test_what_is_of_a_picture_is_refused(self, run: Any, tmp_path: Path) -> None:
        of_maps = [("--label", "1"), ("--check",), ("--html",), ("--fusion", "max"), ("--discard", "0.5")]
        of_maps += [("--layer", "1"), ("--head", "1"), ("--head", "0"), ("--token", "0,0")]
        for options in of_maps:
            result = run("--model-only", *options)
            assert result.exit_code == 2
            assert f"{options[0]} is of a picture's maps" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_where_no_picture_can_be_read(self, run: Any, pictures: Path, tmp_path: Path) -> None:
        result = run("--model-only", pictures / "b" / "damaged.png")
        assert result.exit_code == 2
        assert "are of pictures, and there is none" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_neither_a_picture_nor_the_model(self, run: Any) -> None:
        result = run()
        assert result.exit_code == 2
        assert result.stderr.startswith("vit-hybrid: no IMAGE to explain; name some, or")
