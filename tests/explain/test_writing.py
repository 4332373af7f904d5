"""What files are called, and that all of a picture's are there or none."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_hybrid import tiny_config, tiny_processor

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain import Explainer, heat_png, html, overlay_png, writing
from vit_hybrid.explain.drawing import View, colored, fitting, heat, overlay, pooled, scaled
from vit_hybrid.explain.explanation import told
from vit_hybrid.explain.writing import names_of, write
from vit_hybrid.files import MARK


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jpg", "b/y.png"], ["x", "y"]),
        (["a/x.jpg", "b/x.png", "c/X.png"], ["x", "x-2", "X-3"]),
        (["x.jpg", "b/x.jpg", "x-2.jpg"], ["x", "x-3", "x-2"]),
        (["x.jpg", "b/x.jpg", "X-2.jpg"], ["x", "x-3", "X-2"]),
        (["a.b.jpg", "c/a"], ["a.b", "a"]),
        (["-", "standard-input.png"], ["standard-input", "standard-input-2"]),
        ([f"{'e' * 250}.png"], ["e" * 100]),
        ([f"{'é' * 150}.png", f"e{'é' * 150}.png"], ["é" * 50, "e" + "é" * 49]),  # of whole characters
        (["\udce9.png"], ["\udce9"]),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert names_of(paths) == names


def explained(labels: dict[int, str], count: int) -> Any:
    model = ViTHybridForImageClassification(tiny_config(id2label=labels, num_labels=len(labels))).eval()
    picture = Image.new("RGB", (40, 30), "red")
    return Explainer(model, tiny_processor()).explain(picture, "grad-cam", [*range(count)])


def test_what_is_too_fine_for_a_smaller_picture_is_mixed_and_not_left_out() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (40, 30))).convert("RGB")
    [found] = explained({0: "a"}, 1)
    whole = View((60, 40), (40, 60), (0, 0, 40, 60))
    of_nothing = replace(found, picture=stripes, map=np.zeros((4, 4), np.float32), view=whole)
    with Image.open(io.BytesIO(overlay_png(of_nothing, 30))) as shown:
        assert shown.size == (30, 20)
        assert np.abs(np.asarray(shown, int) - 127).max() < 40
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "PICTURE_SIZE", 30)
        html.Page(file, "small").add("a", [of_nothing], np.zeros((1, 1, 4, 4), np.float32))
    [content] = re.findall(r'src="data:image/jpeg;base64,(.*?)"', file.getvalue())
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert np.abs(np.asarray(shown, int) - 127).max() < 40


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({0: "tabby, tabby cat", 1: "dog"}, ["tabby-tabby-cat", "dog"]),
        ({0: "../a/b", 1: "Katze ä"}, ["a-b", "Katze-ä"]),
        ({0: "a b", 1: "A-b"}, ["0", "1"]),
        ({0: "a", 1: "a overlay"}, ["0", "1"]),
        ({0: "?", 1: "b"}, ["0", "1"]),
        ({0: f"{'long ' * 12}a", 1: f"{'so ' * 20}"}, ["long-" * 12, "so-" * 19 + "so"]),  # 60 characters of each
        ({0: f"{'long ' * 12}a", 1: f"{'long ' * 12}b"}, ["0", "1"]),
    ],
)
def test_files_of_several_labels(tmp_path: Path, labels: dict[int, str], words: list[str]) -> None:
    files = write(explained(labels, 2), tmp_path / "out", "x")
    assert [Path(one["heat"]).name for one in files] == [f"x-grad-cam-{word}.png" for word in words]
    assert (tmp_path / "out" / MARK).is_file()  # whose own pictures are not somebody's
    paths = {path for one in files for path in one.values()}
    assert len(paths) == 6
    assert all(Path(path).is_file() for path in paths)


def test_what_the_files_have(tmp_path: Path) -> None:
    found = [
        replace(one, map=np.random.default_rng(number).random((4, 6)).astype(np.float32), grid=(2, 3))
        for number, one in enumerate(explained({0: "a", 1: "b"}, 2))
    ]
    found[1] = replace(found[1], label=None, layer=None, view=View((40, 30), (60, 80), (6, 16, 54, 64)))
    for one, files in zip(found, write(found, tmp_path, "x"), strict=True):
        assert Path(files["heat"]).read_bytes() == heat_png(one)
        assert Path(files["overlay"]).read_bytes() == overlay_png(one)
        with np.load(files["numbers"]) as numbers:
            assert numbers["map"].tolist() == one.map.tolist()
            assert numbers["tokens"] == pytest.approx(one.map.reshape(2, 2, 3, 2).mean((1, 3)))
            assert numbers["picture"].tolist() == one.view.stretched(one.map).tolist()
            assert numbers["picture"].shape == (30, 40)
            assert numbers["seen"] == pytest.approx([*one.view.corners()])
            told = {key: str(numbers[key]) for key in ("method", "label", "layer")}
        assert told == {"method": "grad-cam", "label": one.label or "", "layer": one.layer or ""}
    assert found[0].layer
    assert found[1].view.corners() == (8, 3, 32, 27)


def test_what_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = explained({0: "a", 1: "b"}, 1)
    write(found, tmp_path, "x")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> bytes:
        raise OSError("no more")

    monkeypatch.setattr(writing, "overlay_png", fail)
    with pytest.raises(OSError, match="no more"):
        write(explained({0: "c", 1: "d"}, 1), tmp_path, "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_own_pictures_is_not_marked(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.png")
    write(explained({0: "a", 1: "b"}, 1), tmp_path, "x")
    assert len([*tmp_path.iterdir()]) == 4


class TestDrawing:
    def test_a_map_is_stretched_as_torch_stretches_it(self) -> None:
        import torch

        values = np.random.default_rng(0).random((3, 5)).astype(np.float32)
        view = View((50, 33), (33, 50), (0, 0, 33, 50))
        expected = torch.nn.functional.interpolate(
            torch.tensor(values)[None, None], size=(33, 50), mode="bilinear", align_corners=False
        )[0, 0]
        assert view.stretched(values) == pytest.approx(expected.numpy(), abs=1e-5)

    def test_what_is_cut_off_or_padded(self) -> None:
        values = np.ones((2, 2), np.float32)
        cut = View((20, 10), (10, 20), (0, 5, 10, 15))
        assert cut.stretched(values).tolist() == [[0] * 5 + [1] * 10 + [0] * 5] * 10
        assert cut.corners() == (5, 0, 15, 10)
        padded = View((20, 10), (10, 20), (-5, 0, 15, 20))
        assert (padded.stretched(values) == 1).all()
        assert padded.corners() == (0, 0, 20, 10)
        assert View((10, 20), (20, 10), (0, -5, 20, 15)).corners() == (0, 0, 10, 20)
        # Of four rows of a square around the picture its own show the two in the middle.
        rows = View((20, 10), (10, 20), (-5, 0, 15, 20)).stretched(np.arange(4, dtype=np.float32)[:, None])
        assert rows[:, 0] == pytest.approx(np.arange(10) * 0.2 + 0.6)

    def test_means_over_cells(self) -> None:
        values = np.arange(24, dtype=np.float32).reshape(4, 6)
        assert pooled(values, (2, 3)) == pytest.approx(values.reshape(2, 2, 3, 2).mean((1, 3)))
        assert pooled(values, (3, 4)).mean() == pytest.approx(values.mean())
        assert pooled(values, (4, 6)) == pytest.approx(values)

    def test_colors_grow_lighter(self) -> None:
        light = colored(np.linspace(0, 1, 64)) @ np.array([0.2126, 0.7152, 0.0722])
        assert (np.diff(light) > -1).all()
        assert light[0] < 5
        assert light[-1] > 230
        ends, beyond = colored(np.array([0.0, 1.0])), colored(np.array([-1.0, 2.0]))
        assert ends.tolist() == beyond.tolist() == [[0, 0, 4], [252, 255, 164]]
        assert (scaled(np.full((2, 2), 7.0)) == 0).all()
        assert scaled(np.array([[2.0, 4.0]])).tolist() == [[0.0, 1.0]]

    def test_an_overlay_is_darker_where_the_model_saw_nothing(self) -> None:
        view = View((20, 10), (10, 20), (0, 5, 10, 15))
        found = np.asarray(overlay(Image.new("RGB", (20, 10), (200, 100, 50)), np.ones((2, 2), np.float32), view))
        assert (found[:, 5:15] == [200, 100, 50]).all()  # the map is the same all over, which is nothing
        assert (found[:, :5] == [100, 50, 25]).all()
        assert (found[:, 15:] == found[:, :5]).all()
        small = np.asarray(overlay(Image.new("RGB", (8, 4), (200, 100, 50)), np.ones((2, 2), np.float32), view))
        assert small.shape == (4, 8, 3)
        assert (small[:, 2:6] == [200, 100, 50]).all()
        assert (small[:, [0, 1, 6, 7]] == [100, 50, 25]).all()

    def test_an_overlay_has_the_more_colors_the_higher_the_map(self) -> None:
        values = np.array([[3, 5], [4, 7]], np.float32)
        view = View((2, 2), (2, 2), (0, 0, 2, 2))
        found = np.asarray(overlay(Image.new("RGB", (2, 2), (200, 100, 50)), values, view), np.float32)
        for level, pixel in zip((0, 0.5, 0.25, 1), found.reshape(4, 3), strict=True):
            share = 0.7 * level
            mixed = (1 - share) * np.array([200, 100, 50]) + share * colored(np.array(level))
            assert pixel == pytest.approx(mixed, abs=0.5)
        assert np.asarray(heat(values, view)).tolist() == colored((values - 3) / 4).tolist()

    @pytest.mark.parametrize(
        ("size", "longest", "expected"),
        [
            ((40, 30), None, (40, 30)),
            ((40, 30), 40, (40, 30)),
            ((40, 30), 100, (40, 30)),
            ((40, 30), 20, (20, 15)),
            ((30, 40), 20, (15, 20)),
            ((1000, 2), 10, (10, 1)),
            ((2, 1000), 10, (1, 10)),
        ],
    )
    def test_smaller_in_proportion(self, size: tuple[int, int], longest: int | None, expected: tuple[int, int]) -> None:
        assert fitting(size, longest) == expected


def test_the_first_labels_are_told_and_those_that_were_explained_once_each() -> None:
    found = explained({0: "a", 1: "b", 2: "c", 3: "d"}, 4)
    order = [one["label"] for one in found[0].predictions]
    first, last = (next(one for one in found if one.label == label) for label in (order[0], order[-1]))
    assert [one["label"] for one in told([first], 2)] == order[:2]
    assert [one["label"] for one in told([first, last], 2)] == [*order[:2], order[-1]]
