"""What an assessment takes of the pictures of a stream, and where it is kept; of a model that is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.data import DataError
from vit_hybrid.data.listing import PICTURE, Passed
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import Entry, open_stream
from vit_hybrid.data.streams.protocol import Place
from vit_hybrid.evaluate.assessing import Kept, Outputs, count_of, given, outputs_of, run_over_strangers
from vit_hybrid.outputs.assessment import AssessmentTally, Assessor, assessment
from vit_hybrid.outputs.problems import SINGLE_LABEL

BROKEN = b""


def entry(name: str, content: Any) -> Entry:
    return Entry(name, Place("unit", 0), content, lambda: None)


class Predicting:
    """Gives logits of a picture's content, one number; and an error of what has none."""

    def stream_logits(self, sources: Iterator[tuple[str, Any]], read_ahead: bool) -> Iterator[dict[str, Any]]:
        assert read_ahead  # or a generator's pictures would be read one by one
        for path, source in sources:
            if source == BROKEN:
                yield {"path": path, "error": f"{path}: is empty"}
            else:
                token = source[0]
                yield {"path": path, "logits": np.array([token, 1.0]), "token": token, "statistics": -token}


def test_what_has_to_be_fetched_is_fetched_when_it_is_read() -> None:
    error = SourceError("c: is gone")
    fetched: list[str] = []
    entries = [entry("a", lambda: fetched.append("a") or b"content"), entry("b", "b.png"), entry("c", error)]
    (first, later), *others = given(entries)
    assert others == [("b", "b.png"), ("c", error)]
    assert fetched == []
    assert (first, later.read(), fetched) == ("a", b"content", ["a"])


@pytest.mark.parametrize("familiarity", [False, True])
def test_no_more_is_taken_of_a_model_than_is_looked_at(familiarity: bool) -> None:
    predictor: Any = SimpleNamespace(
        stream_logits=lambda *given, **options: ("logits", *given, options),
        stream_outputs=lambda *given, **options: ("outputs", *given, options),
    )
    basis: Any = SimpleNamespace(familiarity=familiarity)
    what = "outputs" if familiarity else "logits"
    assert outputs_of(predictor, basis, ["a.png"], read_ahead=True) == (what, ["a.png"], {"read_ahead": True})


def test_counting_leaves_a_stream_as_it_is(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "in/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    stream = open_stream([str(tmp_path)])
    before = stream.outline()
    assert count_of(stream) == 3
    assert stream.outline() == before


def test_outputs_that_were_taken_are_forgotten_with_all_that_came_with_them() -> None:
    outputs = Outputs()
    for one in (1.0, 2.0):
        outputs.add({"logits": [one], "token": -one, "statistics": 10 * one})
    assert (len(outputs), outputs.tokens, outputs.statistics) == (2, [-1.0, -2.0], [10.0, 20.0])
    outputs.clear()
    outputs.add({"logits": [3.0], "token": -3.0, "statistics": 30.0})
    assert (len(outputs), outputs.logits[0].tolist(), outputs.tokens, outputs.statistics) == (1, [3.0], [-3.0], [30.0])


@pytest.mark.parametrize(("levels", "sizes"), [([5, 6, None, 7, 8, 9], [2, 2, 1]), ([5, None, 6, 7, 8], [2, 2])])
def test_strangers_are_assessed_some_at_a_time_and_all_of_them(levels: list[int | None], sizes: list[int]) -> None:
    taken: list[np.ndarray] = []
    came_with: list[Any] = []
    told: list[Any] = []
    stream: Any = SimpleNamespace(
        entries=lambda: (entry(f"{at}.png", BROKEN if one is None else bytes([one])) for at, one in enumerate(levels)),
        passed=Passed(),
    )
    kept: Any = SimpleNamespace(take_strangers=lambda called, rows: taken.append(rows))
    assessor: Any = SimpleNamespace(
        basis=SimpleNamespace(familiarity=False),
        strangers=lambda logits, *more: came_with.append([*map(list, more)]) or (0, logits),
    )
    predictor: Any = Predicting()
    place = levels.index(None)
    [skipped] = run_over_strangers(predictor, assessor, stream, kept, 2, told.append)
    assert skipped == {"path": f"{place}.png", "error": f"{place}.png: is empty"}
    assert [len(rows) for rows in taken] == sizes
    assert [row[0] for rows in taken for row in rows] == [one for one in levels if one is not None]
    assert came_with == [[rows[:, 0].tolist(), (-rows[:, 0]).tolist()] for rows in taken]
    assert told == [skipped if one is None else None for one in levels]
    assert stream.passed.counts() == {PICTURE: 1}


@pytest.mark.parametrize(("broken", "words"), [(2, "none of the 2 strangers .*: 0.png: is empty"), (0, "the 0 strang")])
def test_strangers_of_whom_none_can_be_read_are_refused(broken: int, words: str) -> None:
    nothing: Any = None
    stream: Any = SimpleNamespace(entries=lambda: (entry(f"{at}.png", BROKEN) for at in range(broken)), passed=Passed())
    predictor: Any = Predicting()
    assessor: Any = SimpleNamespace(basis=SimpleNamespace(familiarity=False))
    with pytest.raises(DataError, match=words):
        run_over_strangers(predictor, assessor, stream, nothing, 2, lambda _: None)


def test_what_is_kept_in_files_is_all_of_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 2, (30, 3)).astype(np.float32), random.integers(0, 3, 30)
    others = random.normal(0, 1, (10, 3)).astype(np.float32)
    assessor = Assessor(SINGLE_LABEL, None, strangers=True)
    tally, rows = assessor.known(logits, targets)
    expected = assessment(assessor.basis, "abc", tally, rows, assessor.strangers(others))
    with open(tmp_path / "known", "w+b") as known, open(tmp_path / "strangers", "w+b") as strangers:
        kept = Kept(known, strangers)
        for part in (slice(0, 13), slice(13, 30)):
            kept.take(*assessor.known(logits[part], targets[part]))
        for part in (slice(0, 4), slice(4, 10)):
            kept.take_strangers(*assessor.strangers(others[part]))
        found = kept.found(assessor.basis, "abc", None)
    assert found["strangers"] == expected["strangers"]
    assert found["strangers"]["images"] == 10
    assert found["answers"] == expected["answers"]
    assert found["risk_coverage"] == expected["risk_coverage"]
    assert kept._tally.count == tally.count == 30


def test_how_many_are_called_none_of_these_is_added_up(tmp_path: Path) -> None:
    with open(tmp_path / "known", "w+b") as known, open(tmp_path / "strangers", "w+b") as strangers:
        kept = Kept(known, strangers)
        for called in (2, 0, 3):
            tally = AssessmentTally()
            tally.called, tally.count = called + 1, 5
            kept.take(tally, np.empty((0, 0), np.float32))
            kept.take_strangers(called, np.empty((0, 0), np.float32))
        assert (kept._called, kept._tally.called, kept._tally.count) == (5, 8, 15)
