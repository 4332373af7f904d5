"""The chart of made-up figures: which points a line has, and how it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from vit_hybrid.benchmark.chart import _device, _styles, chart


def report(rows: list[tuple[str, tuple[int, int], int, float]], peers: tuple[str, ...] = ()) -> Any:
    """Of rows of a contender, an image size, a batch size and seconds."""
    sizes, batches = (list(dict.fromkeys(row[place] for row in rows)) for place in (1, 2))
    return {
        "model": {"name": "tiny"},
        "machine": {"device": "cpu", "device_name": None, "cpu": "EPYC"},
        "settings": {"threads": 2, "batch_sizes": batches},
        "sizes": [{"image_size": list(size)} for size in sizes],
        "contenders": [{"name": name, "is_peer": name in peers} for name in dict.fromkeys(row[0] for row in rows)],
        "rows": [
            {"contender": name, "image_size": list(size), "batch_size": batch, "min": seconds}
            for name, size, batch, seconds in rows
        ],
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved."""
    figures: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def test_a_line_has_milliseconds_a_picture_at_each_batch_and_at_each_size(tmp_path: Path, drawn: list[Any]) -> None:
    small, large = (16, 36), (64, 64)  # as many pixels as a square of 24 has
    rows = [
        *[("one", small, 4, 0.008), ("one", small, 1, 0.003), ("two", small, 1, 0.004)],
        *[("one", large, 1, 0.012), ("one", large, 4, 0.040), ("two", large, 1, 0.005)],
    ]
    given = report(rows, peers=("two",))
    given["contenders"].insert(0, {"name": "none", "is_peer": False})
    for name in ("none", "two"):
        given["rows"].append({"contender": name, "image_size": list(small), "batch_size": 4, "error": "no memory"})
    chart(given, tmp_path / "chart.png")
    [figure] = drawn
    left, right = figure.subfigs
    found = {
        (axes.get_title(), line.get_label()): [tuple(point) for point in line.get_xydata().round(9).tolist()]
        for axes in left.axes
        for line in axes.get_lines()
    }
    assert found == {
        ("16 x 36 pixels", "one"): [(1, 3), (4, 2)],
        ("16 x 36 pixels", "two"): [(1, 4)],
        ("64 x 64 pixels", "one"): [(1, 12), (4, 10)],
        ("64 x 64 pixels", "two"): [(1, 5)],
        ("batch size 1", "one"): [(24, 3), (64, 12)],
        ("batch size 1", "two"): [(24, 4), (64, 5)],
    }
    scales = [(axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) for axes in left.axes]
    assert scales == [("log", "linear", "batch size")] * 2 + [("linear", "linear", "side of the image in pixels")]
    assert {axes.get_ylabel() for axes in left.axes} == {"milliseconds a picture"}
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in left.axes]
    assert ticks == [["1", "4"], ["1", "4"], ["24", "64"]]
    for axes in left.axes:
        assert axes.get_ylim()[0] == 0
        assert [(line.get_marker(), line.get_color()) for line in axes.get_lines()] == [("o", "C0"), ("s", "C1")]
    [legend] = right.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
    assert left._suptitle.get_text() == "tiny on EPYC, 2 threads"


def test_times_that_are_far_apart_are_on_a_logarithmic_axis_in_plain_numbers(tmp_path: Path, drawn: list[Any]) -> None:
    size = (32, 32)
    for seconds, scale in ((0.0321, "log"), (0.0319, "linear")):  # eight times 4 ms, a picture
        chart(report([("one", size, 1, 0.004), ("two", size, 1, seconds), ("one", size, 2, 0.008)]), tmp_path / "a.png")
        assert drawn[-1].subfigs[0].axes[0].get_yscale() == scale
    chart(report([("one", size, 1, 0.0001), ("one", size, 2, 5.0)]), tmp_path / "a.png")
    axes = drawn[-1].subfigs[0].axes[0]
    assert axes.yaxis.get_major_formatter()(0.5, 0) == "0.5"
    assert axes.yaxis.get_major_formatter()(2000.0, 0) == "2000"


def test_lines_beyond_ten_colors_have_other_dashes(tmp_path: Path, drawn: list[Any]) -> None:
    names = [f"number {number}" for number in range(12)]
    chart(report([(name, (32, 32), batch, 0.01) for name in names for batch in (1, 2)]), tmp_path / "a.png")
    lines = drawn[0].subfigs[0].axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    assert [line.get_linestyle() for line in lines] == ["-"] * 10 + ["--"] * 2
    styles = _styles(report([(str(number), (32, 32), 1, 0.01) for number in range(41)]))
    dashes = [(style["color"], style["linestyle"]) for style in styles.values()]
    assert (dashes[39], dashes[40]) == (("C9", "-."), ("C0", "-"))  # which begin anew


def test_names_are_drawn_in_characters_that_every_font_has(tmp_path: Path, drawn: list[Any]) -> None:
    given = report([("caf\N{LATIN SMALL LETTER E WITH ACUTE}", (32, 32), batch, 0.01) for batch in (1, 2)])
    given["model"]["name"] = "\N{SNOWMAN}"
    chart(given, tmp_path / "a.png")
    left, right = drawn[0].subfigs
    assert left._suptitle.get_text() == r"\u2603 on EPYC, 2 threads"
    [legend] = right.legends
    assert [text.get_text() for text in legend.get_texts()] == [r"caf\xe9"]


def test_bars_of_peers_have_a_color_of_their_own_and_all_their_length(tmp_path: Path, drawn: list[Any]) -> None:
    rows = [("one", (32, 32), 4, 0.008), ("two \N{SNOWMAN}", (32, 32), 4, 0.012)]
    given = report(rows, peers=("one",))
    given["machine"] |= {"device": "cuda:0", "device_name": "H200"}
    chart(given, tmp_path / "a.png")
    [axes] = drawn[0].axes
    assert axes.get_title() == "32 x 32 pixels, batch size 4"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", r"two \u2603"]
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([2.0, 3.0])
    assert len({patch.get_facecolor() for patch in axes.patches}) == 2
    assert [text.get_text() for text in axes.texts] == ["2", "3"]
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first at the top
    assert drawn[0]._suptitle.get_text() == "tiny on H200"
    given["machine"]["device_name"] = None
    assert _device(given) == "cuda:0"
    with Image.open(tmp_path / "a.png") as image:
        assert "Software" not in image.info  # which would make of one report as many files as there are releases


def test_where_one_batch_alone_was_got_through_it_is_drawn_as_one(tmp_path: Path, drawn: list[Any]) -> None:
    given = report([("one", (32, 32), 2, 0.008), ("two", (32, 32), 2, 0.012)])
    given["settings"]["batch_sizes"] = [1, 2]
    given["rows"].insert(0, {"contender": "one", "image_size": [32, 32], "batch_size": 1, "error": "no memory"})
    chart(given, tmp_path / "a.png")
    [axes] = drawn[0].axes
    assert axes.get_title() == "32 x 32 pixels, batch size 2"
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([4.0, 6.0])


def test_where_nothing_was_measured_the_chart_says_so(tmp_path: Path, drawn: list[Any]) -> None:
    given = report([("one", (32, 32), 1, 0.01), ("one", (32, 32), 2, 0.01)])
    chart({**given, "rows": []}, tmp_path / "a.png")
    left, right = drawn[0].subfigs
    assert [text.get_text() for text in left.axes[0].texts] == ["nothing measured"]
    assert right.legends == []


def test_a_chart_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"the old one")

    def fill_the_disk(figure: Any, path: Any, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        chart(report([("one", (32, 32), 1, 0.01)]), tmp_path / "a.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]
