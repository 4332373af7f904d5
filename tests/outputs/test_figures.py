"""Figures are whole PNG files that show what they were given, for any labels and numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_process
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.outputs import figures

STRANGE = ["猫", "$x_{", "a\nb\x1b[31m", "نص", "🐈", "long " * 30, "", "e\u0301", "\udce9"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def is_colored(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 60


def history(steps: int = 6) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        entries.append({"epoch": step / 2, "step": step, "loss": 2 / step, "learning_rate": 0.1 / step, "grad_norm": 1})
        entries[-1]["accuracy"] = 1 - 2 / (step + 2)
        if step % 2 == 0:
            entries.append({"epoch": step / 2, "step": step, "eval_loss": 3 / step, "eval_top1": 1 - 1 / step})
    return [*entries, {"epoch": 3.0, "step": steps, "train_runtime": 9.0, "train_loss": 0.5}]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn instead of written."""
    found: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: found.append(figure))
    return found


class TestTrainingCurve:
    def test_lines_are_the_points_that_were_logged(self, drawn: list[Any]) -> None:
        entries = [*history(4), {"epoch": 2.5, "loss": float("nan"), "accuracy": None, "eval_loss": float("inf")}]
        entries.append({"loss": 7.0})  # of no epoch
        figures.training_curve(entries, "curve.png")
        assert drawn[0].get_size_inches().tolist() == [10.0, 4.2]
        losses, scores, rates = drawn[0].axes
        epochs, validated = [0.5, 1.0, 1.5, 2.0], [1.0, 2.0]
        expected = {
            losses: {"training": (epochs, [2, 1, 2 / 3, 0.5]), "validation": (validated, [1.5, 0.75])},
            scores: {"training": (epochs, [1 / 3, 0.5, 0.6, 2 / 3]), "validation": (validated, [0.5, 0.75])},
            rates: {"learning rate": (epochs, [0.1, 0.05, 0.1 / 3, 0.025])},
        }
        for axes, lines in expected.items():
            found = {line.get_label(): line.get_data() for line in axes.lines}
            assert found.keys() == lines.keys()
            for label, (x, y) in lines.items():
                np.testing.assert_allclose(found[label], (x, y))
        assert [[line.get_marker() for line in axes.lines] for axes in (losses, scores)] == [["None", "o"]] * 2
        assert {line.get_linestyle() for axes in (losses, scores) for line in axes.lines} == {"-"}
        assert (rates.lines[0].get_marker(), rates.lines[0].get_linestyle()) == ("None", "--")
        assert len({line.get_color() for axes in (scores, rates) for line in axes.lines}) == 3
        assert [line.get_color() for line in losses.lines] == [line.get_color() for line in scores.lines]
        assert not scores.patch.get_visible()  # or it would hide the learning rate's line
        assert [axes.get_ylabel() for axes in drawn[0].axes] == ["loss", "top-1 accuracy", "learning rate"]
        assert {axes.get_xlabel() for axes in (losses, scores)} == {"epoch"}
        assert all(place == round(place) for axes in (losses, scores) for place in axes.get_xticks())
        assert rates.get_ylim()[0] == 0.0
        legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (losses, scores)]
        assert legends == [["training", "validation"], ["training", "validation", "learning rate"]]
        assert scores.get_zorder() > rates.get_zorder()

    def test_of_steps_alone_these_are_on_the_axis(self, drawn: list[Any]) -> None:
        figures.training_curve([{"step": 7, "loss": 2.0}], "curve.png")
        losses, scores, _ = drawn[0].axes
        [line] = losses.lines
        assert ([*map(list, line.get_data())], line.get_marker()) == ([[7], [2]], "o")  # of which a line shows nothing
        assert [axes.get_xlabel() for axes in (losses, scores)] == ["step", "step"]
        assert (scores.get_ylabel(), scores.get_title(), losses.get_title()) == ("score", "Score", "Loss")
        assert [[text.get_text() for text in axes.texts] for axes in (losses, scores)] == [[], ["nothing logged"]]
        figures.training_curve([], "curve.png")
        assert [text.get_text() for axes in drawn[1].axes for text in axes.texts] == ["nothing logged"] * 2

    def test_draws_what_was_logged(self, tmp_path: Path) -> None:
        figures.training_curve(history(), tmp_path / "with.png")
        figures.training_curve([], tmp_path / "without.png")
        drawn, empty = pixels(tmp_path / "with.png"), pixels(tmp_path / "without.png")
        half = drawn.shape[1] // 2
        assert is_colored(drawn[:, :half]).any()
        assert is_colored(drawn[:, half:]).any()
        assert not is_colored(empty).any()

    @pytest.mark.parametrize("key", ["loss", "accuracy", "learning_rate", "eval_loss", "eval_top1"])
    def test_each_series_is_drawn(self, key: str, tmp_path: Path) -> None:
        figures.training_curve(history(), tmp_path / "all.png")
        rest = [{name: value for name, value in entry.items() if name != key} for entry in history()]
        figures.training_curve(rest, tmp_path / "rest.png")
        assert (tmp_path / "all.png").read_bytes() != (tmp_path / "rest.png").read_bytes()

    def test_numbers_that_are_none_and_single_points(self, tmp_path: Path) -> None:
        entries = [
            {"step": 1, "loss": float("nan"), "learning_rate": 0.0},
            {"step": 2, "loss": 1.0, "eval_loss": float("inf"), "eval_mae": 0.5, "eval_note": "text"},
        ]
        figures.training_curve(entries, tmp_path / "curve.png")
        assert is_colored(pixels(tmp_path / "curve.png")).any()

    @pytest.mark.parametrize(
        ("logged", "axis", "title", "value"),
        [
            (["runtime", "loss", "mae"], "mean absolute error", "Mean absolute error", 2),
            (["my_score", "mean_average_precision"], "mean average precision", "Mean average precision", 1),
            (["accuracy", "top1"], "top-1 accuracy", "Top-1 accuracy", 1),
            (["model_preparation_time", "my_score", "other"], "my_score", "My_score", 1),
        ],
    )
    def test_the_score_is_the_best_known_of_those_that_were_logged(
        self, logged: list[str], axis: str, title: str, value: int, drawn: list[Any]
    ) -> None:
        entries = [{"epoch": 1, f"eval_{name}": at} for at, name in enumerate(logged)]
        figures.training_curve([*entries, {"epoch": 2, **dict.fromkeys(logged, 5)}], "curve.png")
        axes = drawn[0].axes[1]
        assert (axes.get_ylabel(), axes.get_title()) == (axis, title)
        assert [(line.get_label(), *line.get_ydata()) for line in axes.lines] == [
            ("training", 5),
            ("validation", value),
        ]

    def test_other_scores(self, tmp_path: Path) -> None:
        for name in ("mae", "mean_average_precision", "my_score"):
            entries = [{"step": step, f"eval_{name}": step, "eval_runtime": 1.0} for step in (1, 2)]
            figures.training_curve(entries, tmp_path / f"{name}.png")
            assert is_colored(pixels(tmp_path / f"{name}.png")).any()


class TestConfusionMatrix:
    def test_cells_stand_where_truth_and_prediction_meet(self, drawn: list[Any]) -> None:
        figures.confusion_matrix([[3, 1, 0], [0, 2, 0], [20_000, 0, 0]], ["a", "b", "c"], "matrix.png")
        axes = drawn[0].axes[0]
        cells = {text.get_position(): text.get_text() for text in axes.texts}
        assert cells == {(0, 0): "3", (1, 0): "1", (1, 1): "2", (0, 2): "20k"}  # (column, row)
        assert [text.get_color() for text in axes.texts] == ["white", "black", "white", "white"]
        assert axes.images[0].get_clim() == (0.0, 1.0)
        assert drawn[0].axes[1].get_ylabel() == "share of the true class"
        assert drawn[0].axes[1].yaxis.get_major_formatter()(0.5) == "50%"
        figures.confusion_matrix([[10_000, 0], [11, 9]], ["a", "b"], "matrix.png")
        texts = drawn[1].axes[0].texts
        assert [text.get_text() for text in texts] == ["10k", "11", "9"]
        assert [text.get_color() for text in texts] == ["white", "black", "black"]  # 0.55 is not yet dark
        shares = [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]]
        np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), shares)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "truth")
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in labels] == ["a", "b", "c"]

    def test_of_many_classes_some_are_named_from_the_first_on(self, drawn: list[Any]) -> None:
        figures.confusion_matrix(np.eye(121, dtype=int), [f"c{index}" for index in range(121)], "matrix.png")
        axes = drawn[0].axes[0]
        assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == list(range(0, 121, 2))
        assert [label.get_text() for label in axes.get_yticklabels()] == [f"c{index}" for index in range(0, 121, 2)]
        assert not axes.texts

    def test_up_to_forty_classes_cells_hold_numbers_and_up_to_120_all_are_named(self, drawn: list[Any]) -> None:
        for classes, numbered in ((40, 40), (41, 0), (120, 0)):
            figures.confusion_matrix(9_999 * np.eye(classes, dtype=int), ["a"] * classes, "matrix.png")
            axes = drawn[-1].axes[0]
            assert [text.get_text() for text in axes.texts] == ["9999"] * numbered
            assert axes.get_xticks().tolist() == list(range(classes))
            # Names are as large as cells have room for: 18 inches of 72 points for 120 of them.
            points = 9.0 if classes < 120 else 0.75 * 18 * 72 / 120
            names = [*axes.get_xticklabels(), *axes.get_yticklabels()]
            assert [name.get_fontsize() for name in names] == pytest.approx([points] * len(names))
            assert {name.get_rotation() for name in names} == {0.0, 90.0}

    def test_rows_are_shares_of_the_true_class(self, tmp_path: Path) -> None:
        figures.confusion_matrix([[90, 10], [0, 4]], ["a", "b"], tmp_path / "one.png")
        figures.confusion_matrix([[9, 1], [0, 400]], ["a", "b"], tmp_path / "two.png")
        one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
        # The same shares have the same colors; only the numbers in the cells differ.
        assert (one != two).any(axis=-1).mean() < 0.02

    def test_a_mistake_shows(self, tmp_path: Path) -> None:
        figures.confusion_matrix(np.diag([5, 5, 5]), list("abc"), tmp_path / "right.png")
        figures.confusion_matrix([[5, 0, 0], [0, 5, 0], [5, 0, 0]], list("abc"), tmp_path / "wrong.png")
        changed = (pixels(tmp_path / "right.png") != pixels(tmp_path / "wrong.png")).any(axis=-1)
        assert changed.mean() > 0.03  # two cells

    @pytest.mark.parametrize(("classes", "height"), [(1, 430), (10, 640), (41, 1980), (150, 1980)])
    def test_any_number_of_classes(self, classes: int, height: int, tmp_path: Path) -> None:
        figures.confusion_matrix(np.eye(classes, dtype=int), [f"class {i}" for i in range(classes)], tmp_path / "m.png")
        drawn = pixels(tmp_path / "m.png")
        assert is_colored(drawn).any()
        assert drawn.shape[:2] == (height, height + 80)

    def test_strange_labels_and_classes_without_pictures(self, tmp_path: Path) -> None:
        matrix = np.zeros((len(STRANGE), len(STRANGE)), int)
        matrix[0, 1] = 123_456
        figures.confusion_matrix(matrix, STRANGE, tmp_path / "m.png")
        assert is_colored(pixels(tmp_path / "m.png")).any()

    def test_what_is_not_square_is_refused(self, tmp_path: Path) -> None:
        for matrix, labels in (([[1, 2]], ["a"]), ([[1]], ["a", "b"]), ([], [])):
            with pytest.raises(ValueError, match=r"expected \(labels, labels\)"):
                figures.confusion_matrix(matrix, labels, tmp_path / "m.png")
        assert not list(tmp_path.iterdir())


class TestContactSheet:
    def test_shows_each_picture_in_its_place(self, tmp_path: Path) -> None:
        colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10)]
        items = [(Image.new("RGB", (32, 32), color), ["truth", "predicted"]) for color in colors]
        figures.contact_sheet(items, tmp_path / "sheet.png", columns=2, title="Mistakes")
        drawn = pixels(tmp_path / "sheet.png")
        centers = []
        for color in colors:
            rows, columns = np.nonzero((drawn == color).all(axis=-1))
            assert len(rows) == figures.THUMBNAIL_PIXELS**2
            centers.append((rows.mean(), columns.mean()))
        assert centers[0][0] == centers[1][0] < centers[2][0] == centers[3][0]
        assert centers[0][1] == centers[2][1] < centers[1][1] == centers[3][1]

    def test_what_is_not_square_stands_in_the_middle(self, tmp_path: Path) -> None:
        colors = [(250, 10, 10), (10, 250, 10)]
        items = [(Image.new("RGB", (16, 32), colors[0]), []), (Image.new("RGB", (32, 32), colors[1]), [])]
        figures.contact_sheet(items, tmp_path / "sheet.png", columns=1)
        drawn = pixels(tmp_path / "sheet.png")
        narrow, square = (np.nonzero((drawn == color).all(axis=-1))[1] for color in colors)
        assert np.ptp(narrow) + 1 == figures.THUMBNAIL_PIXELS // 2
        assert narrow.mean() == pytest.approx(square.mean(), abs=0.5)

    def test_few_pictures_stand_on_a_narrow_sheet_but_for_its_title(self, tmp_path: Path) -> None:
        widths = []
        for count, columns in ((1, 6), (1, 2), (2, 6), (3, 6), (9, 3)):
            items = [(Image.new("L", (9, 9)), ["a"])] * count
            figures.contact_sheet(items, tmp_path / "sheet.png", columns=columns)
            widths.append(pixels(tmp_path / "sheet.png").shape[1])
        assert widths[0] == widths[1] == widths[2] < widths[3] == widths[4]

    def test_what_is_enlarged_keeps_its_pixels_and_what_is_reduced_is_smooth(self, tmp_path: Path) -> None:
        for side, is_enlarged in ((100, True), (140, True), (240, False)):  # to 170
            picture = Image.fromarray(np.indices((side, side)).sum(axis=0).astype(np.uint8) % 2 * 200)
            figures.contact_sheet([(picture, [])], tmp_path / "sheet.png")
            middle = pixels(tmp_path / "sheet.png")[30:150, 30:150]
            assert ({*np.unique(middle)} <= {0, 200}) is is_enlarged

    def test_title_and_captions_are_shortened_and_stand_where_they_belong(self, drawn: list[Any]) -> None:
        items = [(Image.new("L", (9 + 9 * number, 9)), [f"{number}", "c" * 40]) for number in range(3)]
        figures.contact_sheet(items, "sheet.png", columns=2, title="t" * 80)
        title, *captions = drawn[0].texts
        assert title.get_text() == figures.shortened("t" * 80, 56)
        said = figures.shortened("c" * 40, 28)
        assert [text.get_text() for text in captions] == [f"{number}\n{said}" for number in range(3)]
        (_, above), *places = (text.get_position() for text in drawn[0].texts)
        assert places[0][0] == places[2][0] < places[1][0]
        assert above > places[0][1] == places[1][1] > places[2][1]
        assert len(drawn[0].images) == 3
        figures.contact_sheet(items, "sheet.png", columns=2)
        assert len(drawn[1].texts) == 3
        with_title, without = (round(100 * figure.get_size_inches()[1]) for figure in drawn)
        assert with_title == without + 22

    def test_captions_have_room_for_the_most_lines_of_one(self, drawn: list[Any]) -> None:
        for captions in ([["a"], ["a", "b", "c"]], [["a", "b", "c"], ["a"]], [["a"], ["b"]]):
            figures.contact_sheet([(Image.new("L", (9, 9)), lines) for lines in captions], "sheet.png")
        heights = [round(100 * figure.get_size_inches()[1]) for figure in drawn]
        assert heights[0] == heights[1] == heights[2] + 2 * 13

    def test_captions_are_drawn(self, tmp_path: Path) -> None:
        for name, caption in (("with", "is cat"), ("without", "")):
            figures.contact_sheet([(Image.new("L", (9, 9)), [caption])], tmp_path / f"{name}.png")
        assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
    def test_pictures_of_any_kind(self, mode: str, tmp_path: Path) -> None:
        sizes = [(1, 500), (500, 1), (300, 200)]
        figures.contact_sheet([(Image.new(mode, size), STRANGE) for size in sizes], tmp_path / "sheet.png")
        assert pixels(tmp_path / "sheet.png").size

    def test_nothing_to_show(self, tmp_path: Path) -> None:
        figures.contact_sheet([], tmp_path / "sheet.png", title="No mistakes in 5 pictures")
        assert (pixels(tmp_path / "sheet.png") < 100).any()

    def test_columns_must_be_positive(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="columns is 0"):
            figures.contact_sheet([], tmp_path / "sheet.png", columns=0)


class TestFiles:
    def test_the_same_input_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one.png", "two.png"):
            figures.training_curve(history(), tmp_path / name)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        assert pixels(tmp_path / "one.png").shape == (420, 1000, 3)
        with Image.open(tmp_path / "one.png") as image:
            assert "Software" not in image.info

    def test_an_old_file_is_replaced_only_by_a_whole_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "curve.png"
        path.write_bytes(b"old")

        def failing(self: Any, file: Path, **_: Any) -> None:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(figures.Figure, "savefig", failing)
        with pytest.raises(OSError, match="No space left"):
            figures.training_curve(history(), path)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            figures.training_curve(history(), tmp_path / "no" / "curve.png")

    def test_nothing_is_said_about_fonts(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            figures.confusion_matrix(np.eye(len(STRANGE), dtype=int), STRANGE, tmp_path / "m.png")
        assert not caplog.records

    def test_what_no_font_draws_is_escaped_and_all_is_on_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert next(iter(figures._families())) == "DejaVu Sans"
        assert not any(name.startswith("Last Resort") for name in figures._families())
        names = ["Arial", "Last Resort High-Efficiency", "DejaVu Sans", "Zapf"]
        fonts = [SimpleNamespace(name=name, fname=name, style="normal", weight=400) for name in names]
        fonts += [SimpleNamespace(name="Bold", fname="", style="normal", weight=700)]
        fonts += [SimpleNamespace(name="Leaning", fname="", style="italic", weight=400)]
        monkeypatch.setattr(figures.font_manager.fontManager, "ttflist", fonts)
        assert [*figures._families.__wrapped__()] == ["DejaVu Sans", "Arial", "Zapf"]
        draw = figures._Text()
        assert draw(" a\n\t b\x1b[31m \udce9") == "a b\\x1b[31m \\udce9"
        assert draw.fonts == ["DejaVu Sans"]
        with monkeypatch.context() as patched:
            patched.setattr(figures, "_font_with", {"a": "DejaVu Sans", "b": "One", "c": "Other"}.get)
            draw = figures._Text()
            assert (draw("cabc"), draw.fonts) == ("cabc", ["DejaVu Sans", "Other", "One"])  # before others
        monkeypatch.setattr(figures, "_families", lambda: {"Gone": "/nowhere/gone.ttf"})
        assert figures._characters_of.__wrapped__("Gone") == frozenset()

    def test_matplotlib_is_left_as_it_was(self, tmp_path: Path) -> None:
        code = f"""
import matplotlib, sys
def settings():  # to ask for the backend would load pyplot
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
before = settings()
from vit_hybrid.outputs import figures
figures.training_curve([], {str(tmp_path / "curve.png")!r})
print("matplotlib.pyplot" in sys.modules, settings() == before)
"""
        assert fresh_process.run(code).splitlines()[-1] == "False True"


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("short", 5, "short"),
        ("abcdefghij", 7, "abcd…ij"),
        ("猫" * 10, 8, "猫猫…猫"),
        ("\uff21" * 5, 9, "\uff21\uff21\uff21…\uff21"),  # an A of full width
        ("猫" * 4 + "abcdef", 8, "猫猫…def"),  # what the head has no room for is the tail's
        ("猫猫", 4, "猫猫"),
    ],
)
def test_shortened(text: str, columns: int, expected: str) -> None:
    assert figures.shortened(text, columns) == expected


CALIBRATIONS = {
    when: {
        "calibration_error": error,
        "bins": [
            {"pictures": 30, "confidence": 0.3, "accuracy": low},
            {"pictures": 5, "confidence": 0.9, "accuracy": 1.0},
        ],
    }
    for when, error, low in (("before", 0.125, 0.1), ("after", 0.034, 0.25))
}


class TestReliability:
    def test_the_diagram_shows_shares_and_how_many(self, drawn: list[Any]) -> None:
        figures.reliability_diagram(CALIBRATIONS, "diagram.png")
        shares, counts = drawn[0].axes
        found = {line.get_label(): [*map(list, line.get_data())] for line in shares.lines}
        assert found == {
            "calibrated perfectly": [[0, 1], [0, 1]],
            "before: calibration error 12.5%": [[0.3, 0.9], [0.1, 1.0]],
            "after: calibration error 3.4%": [[0.3, 0.9], [0.25, 1.0]],
        }
        assert [[*map(list, line.get_data())] for line in counts.lines] == [[[0.3, 0.9], [30, 5]]] * 2
        assert [axes.get_ylabel() for axes in drawn[0].axes] == ["share that is right", "how many"]
        assert counts.get_xlabel() == "probability of what is said"
        assert len({line.get_color() for line in shares.lines}) == 3
        assert (shares.get_xlim(), shares.get_ylim(), counts.get_ylim()[0]) == ((0, 1), (0, 1), 0)
        assert counts.get_xlim() == (0, 1)  # bins stand below their shares
        assert {line.get_marker() for line in [*shares.lines[1:], *counts.lines]} == {"o"}
        assert (shares.get_title(), counts.get_title()) == ("Reliability", "")
        assert [line.get_color() for line in counts.lines] == [line.get_color() for line in shares.lines[1:]]

    def test_the_curve_has_its_points_and_whom_to_answer(self, drawn: list[Any]) -> None:
        answers = [
            {"accuracy": 0.9, "share": 0.71, "probability": 0.6},
            {"accuracy": 0.99, "share": None, "probability": None},
        ]
        figures.risk_coverage_curve([(0.5, 1.0), (1.0, 0.75)], answers, "curve.png")
        [axes] = drawn[0].axes
        found = {line.get_label(): [*map(list, line.get_data())] for line in axes.lines}
        assert found == {"accuracy": [[0.5, 1.0], [1.0, 0.75]], "right 90% of the time: answer 71%": [[0.71], [0.9]]}
        assert [line.get_marker() for line in axes.lines] == ["None", "o"]
        assert [line.get_linestyle() for line in axes.lines] == ["-", "None"]
        assert len({line.get_color() for line in axes.lines}) == 2
        assert axes.get_title() == "Accuracy against share answered"
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1.02), (0, 1.02))  # with room for marks at the edge
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("share answered, the surest first", "accuracy of these")

    def test_both_are_written(self, tmp_path: Path) -> None:
        figures.reliability_diagram(CALIBRATIONS, tmp_path / "diagram.png")
        figures.risk_coverage_curve([(1.0, 0.75)], [], tmp_path / "curve.png")
        assert all(is_colored(pixels(tmp_path / name)).any() for name in ("diagram.png", "curve.png"))
        figures.reliability_diagram({"before": CALIBRATIONS["before"]}, tmp_path / "alone.png")
        assert (tmp_path / "alone.png").read_bytes() != (tmp_path / "diagram.png").read_bytes()


def test_no_legend_looks_for_the_best_place_among_many_points(drawn: list[Any]) -> None:
    figures.training_curve(history(), "curve.png")
    figures.reliability_diagram(CALIBRATIONS, "diagram.png")
    figures.risk_coverage_curve([(1.0, 0.75)], [], "curve.png")
    legends = [axes.get_legend() for figure in drawn for axes in figure.axes if axes.get_legend() is not None]
    assert len(legends) == 4
    assert all(legend._loc != 0 for legend in legends)  # which is "best"
